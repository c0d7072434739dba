"""Tables of what the paper configurations need, from the compile reports of vdm_jax/benchmarks/results/compile.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).resolve().parents[2] / 'vdm_jax/benchmarks/results/compile.json'
LEVER = 'lever'  # rows that change one setting of a mid-size model
ORDER = (
  't2v_small',
  't2v_large',
  't2v_large_9x128',
  'ucf101',
  'bair',
  'kinetics600',
  'snap_fit_500m',
  'snap_fit_3b9',
  'snap_fit_3b9_upsampler',
  'snap_unet_85m',
  'snap_unet_284m',
)


def reports() -> dict[str, dict[str, Any]]:
  """The reports by `configuration topology changes...`."""
  return json.loads(REPORTS.read_text(encoding='utf-8'))


def table() -> str:
  """One row for each paper configuration and slice, smallest slice first."""
  rows = [
    '| Configuration | Batch | Chips | Settings to add | Peak / available GiB per chip | MFU bound | Collectives |',
    '|---|---|---|---|---|---|---|',
  ]
  entries = [(*name.split(' '), entry) for name, entry in reports().items() if entry['why'] != LEVER]
  entries = [(config, topology, changes, entry) for config, topology, *changes, entry in entries]
  for config, topology, changes, entry in sorted(entries, key=lambda row: (rank(row[0]), row[3].get('devices', 0))):
    start = [
      f'`{config}`',
      f'{entry.get("batch_size", 0):,}',
      f'{topology} ({entry.get("devices", 0)})',
      flags(changes),
    ]
    rows.append(f'| {" | ".join([*start, *cells(entry)])} |')
  return '\n'.join(rows)


def rank(config: str) -> tuple[int, str]:
  name = config.split(':')[0]
  return (ORDER.index(name) if name in ORDER else len(ORDER), config)


def flags(changes: list[str]) -> str:
  """The settings, one below the other."""
  return '<br>'.join(f'`{change}`' for change in changes) or 'none'


def cells(entry: dict[str, Any]) -> list[str]:
  if 'failed' in entry:
    return ['did not compile', '', '']
  peak, available = (entry[key] / 2**30 for key in ('peak_bytes_per_device', 'hbm_bytes_per_device'))
  memory = f'{peak:.1f}&nbsp;/&nbsp;{available:.1f}' + ('' if entry['fits'] else ', does not fit')
  roofline = entry['roofline']
  return [memory, f'{roofline["mfu_bound"]:.0%}, {roofline["bound"]}', f'{roofline["collective_share"]:.0%}']


def levers() -> str:
  """What one setting at a time changes for a FIT of four blocks, against the first row."""
  rows = [
    '| Change | Peak GiB per chip | Matrix-product time | Memory-traffic time | Collective time |',
    '|---|---|---|---|---|',
  ]
  entries = [(name.split(' '), entry) for name, entry in reports().items() if entry['why'] == LEVER]
  entries = [(words[2:], entry) for words, entry in entries if words[0] == 'snap_fit_500m']
  shared = min((changes for changes, _ in entries), key=len)
  for changes, entry in entries:
    own = [change for change in changes if change not in shared]
    roofline = entry['roofline']
    times = [roofline[key] for key in ('compute_seconds', 'memory_seconds', 'collective_seconds')]
    shown = ' | '.join(f'{1000 * time:.0f} ms' for time in times)
    rows.append(f'| {flags(own)} | {entry["peak_bytes_per_device"] / 2**30:.1f} | {shown} |')
  return '\n'.join(rows)
