"""Compiled cost of every paper configuration on TPU topologies: the tables of `results/compile.json`.

    python -m vdm_jax.benchmarks.compile_table
    python -m vdm_jax.benchmarks.compile_table --markdown

Rows that the file has are not compiled again, unless their configuration has changed since. A failed row keeps its
reason; `--again=failed` tries it again. Each row is compiled in its own process, and the file is complete after each.

At full effort the compiler spends hours on the machine code of a U-Net's convolutions. These rows, and some of large
FITs, are compiled with the least effort: the passes over the whole program are the same, and the peak memory found is
some percent higher.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vdm_jax.benchmarks.train_step import load
from vdm_jax.inputs.paths import file_argument
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.runtime.resumable import digest
from vdm_jax.tools.compilation import report

# The compiler's least effort to make the compiled program fast.
_LEAST_EFFORT = {'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1'}
RESULTS = Path(__file__).parent / 'results' / 'compile.json'


class Row(NamedTuple):
  """One configuration on one topology."""

  config: str
  topology: str
  overrides: tuple[str, ...] = ()
  group: str = ''  # the table that it belongs to, `why` in the file
  least_effort: bool = False  # always for U-Nets

  @property
  def name(self) -> str:
    return ' '.join([self.config, self.topology, *self.overrides])

  @property
  def file(self) -> str:
    config, _, variant = self.config.partition(':')
    return f'configs/{config}.py' + (f':{variant}' if variant else '')

  @property
  def settings(self) -> str:
    """A hash of the configuration, which changes with the file in configs/."""
    return digest(load(self.file, self.overrides).to_dict())

  @property
  def environment(self) -> dict[str, str]:
    return _LEAST_EFFORT if self.least_effort or not self.config.startswith('snap_fit') else {}

  @property
  def command(self) -> str:
    changes = ''.join(f' --config.{change}' for change in self.overrides)
    variables = ''.join(f'{name}={value} ' for name, value in self.environment.items())
    return f'{variables}python -m vdm_jax.main --mode=compile --config={self.file} --topology={self.topology}{changes}'


# The groups, as the file spells them, and their titles.
PAPER, SMALLEST, LEVER = "the paper's hardware and batch", "the paper's batch on a small slice", 'lever'
TITLES = {
  PAPER: "The paper's hardware and batch",
  SMALLEST: "The paper's batch on a small slice",
  LEVER: 'One setting changed at a time',
}
# A FIT of medium size, for changes of one setting.
MEDIUM = ('data.batch_size=32', 'model.num_blocks=4')


def _fsdp(size: int) -> tuple[str, ...]:
  return 'mesh.data=-1', f'mesh.fsdp={size}'


def _parts(count: int) -> str:
  return f'training.accumulation_steps={count}'


ROWS = (
  Row('snap_fit_3b9', 'v4:4x4x8', (_parts(4), *_fsdp(16)), PAPER),
  Row('bair', 'v4:4x4x8', (), PAPER),
  Row('t2v_small', 'v4:4x4x4', (), PAPER),
  Row('ucf101', 'v4:4x4x8', (), PAPER),
  Row('t2v_large', 'v4:4x4x8', (), PAPER),
  Row('kinetics600', 'v4:4x8x8', (), PAPER),
  *(
    Row('snap_fit_500m', 'v4:2x2x1', (*MEDIUM, *change), LEVER)
    for change in (
      (),
      ('model.remat=none',),
      ('model.remat=block',),
      (_parts(4),),
      ('model.dtype=float32',),
      _fsdp(4),
      ('mesh.data=-1', 'mesh.tensor=4'),
    )
  ),
  Row('bair', 'v4:4x4x8', ('model.remat=True',), LEVER),
  Row('snap_fit_500m', 'v4:4x4x8', (_parts(8),), PAPER),
  Row('snap_fit_3b9_upsampler', 'v4:4x4x4', (_parts(5), *_fsdp(16)), PAPER, least_effort=True),
  Row('snap_unet_284m', 'v4:4x4x8', (_parts(16),), PAPER),
  Row('snap_unet_85m', 'v4:4x4x8', (_parts(16),), PAPER),
  Row('t2v_large', 'v5p:2x2x1', (_parts(16), *_fsdp(4)), SMALLEST),
  Row('t2v_large', 'v4:2x2x1', (_parts(32), *_fsdp(4)), SMALLEST),
  Row('snap_fit_3b9', 'v5p:2x2x1', (_parts(128),), SMALLEST),
  Row('snap_fit_3b9', 'v4:2x2x2', (_parts(128),), SMALLEST),
  Row('snap_fit_500m', 'v4:2x2x1', (_parts(256),), SMALLEST, least_effort=True),
  Row('snap_fit_500m', 'v5p:2x2x1', (_parts(64),), SMALLEST, least_effort=True),
  Row(
    'snap_fit_3b9_upsampler', 'v4:2x2x4', (_parts(20),), SMALLEST, least_effort=True
  ),  # 4 GiB per chip too much for 2x2x2
  Row('snap_fit_3b9_upsampler', 'v5p:2x2x1', (_parts(80),), SMALLEST, least_effort=True),
  Row('ucf101', 'v4:2x2x1', (_parts(32), *_fsdp(4)), SMALLEST),
  Row('ucf101', 'v5p:2x2x1', (_parts(16), *_fsdp(4)), SMALLEST),
  Row('kinetics600', 'v4:2x2x1', (_parts(64), *_fsdp(4)), SMALLEST),
  Row('kinetics600', 'v5p:2x2x1', (_parts(32), *_fsdp(4)), SMALLEST),
  Row('bair', 'v4:2x2x1', (_parts(8),), SMALLEST),
  Row('bair', 'v5p:2x2x1', (_parts(2),), SMALLEST),
  Row('t2v_small', 'v4:2x2x1', (_parts(16),), SMALLEST),
  Row('t2v_small', 'v5p:2x2x1', (_parts(4),), SMALLEST),
  Row('t2v_large_9x128', 'v4:4x4x8', (), PAPER),
  Row('t2v_large_9x128', 'v4:2x2x1', (_parts(32), *_fsdp(4)), SMALLEST),
  Row('t2v_large_9x128', 'v5p:2x2x1', (_parts(16), *_fsdp(4)), SMALLEST),
  Row('snap_unet_284m', 'v4:2x2x1', (_parts(256),), SMALLEST),
  Row('snap_unet_284m', 'v5p:2x2x1', (_parts(64),), SMALLEST),
  Row('snap_unet_85m', 'v4:2x2x1', (_parts(64),), SMALLEST),
  Row('snap_unet_85m', 'v5p:2x2x1', (_parts(32),), SMALLEST),
  Row('snap_fit_3b9', 'v4:4x4x8', (_parts(4),), PAPER),  # all 128 chips as one mesh.fsdp
)


def fill(path: Path, rows: Sequence[Row], again: str) -> None:
  """Compile the rows that the file lacks and write it after each.

  Args:
    path: the file.
    rows: the rows it should have.
    again: 'failed' or 'all' to compile such rows again although the file has them.
  """
  known = _read(path)
  for row in rows:
    entry, settings = known.get(row.name), row.settings
    changed = entry is not None and entry.get('settings', settings) != settings  # older entries do not have it
    if entry is None or changed or again == 'all' or (again == 'failed' and 'failed' in entry):
      print(f'{row.name} ...', file=sys.stderr, flush=True)
      known[row.name] = {'why': row.group, 'command': row.command, 'settings': settings, **_compile(row)}
      write_text(path, json.dumps(known, indent=1) + '\n')


def _read(path: Path) -> dict[str, dict[str, Any]]:
  return json.loads(path.read_text()) if path.exists() else {}


def _compile(row: Row) -> dict[str, Any]:
  """Compile a row in its own process; return the report, or the reason for a failure."""
  command = [sys.executable, '-m', 'vdm_jax.benchmarks.compile_table', f'--one={row.config}']
  command += [f'--topology={row.topology}', *(f'--set={change}' for change in row.overrides)]
  command += ['--no_sampling'] if row.group == LEVER else []
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | row.environment)
  if done.returncode:
    return {'failed': _reason(done.stderr.strip().splitlines(), done.returncode)}
  return json.loads(done.stdout[done.stdout.index('{') :])


def _reason(lines: Sequence[str], status: int) -> str:
  """Return why a process failed: the signal if the compiler crashed, else the last line of its output."""
  signals = [line for line in lines if line.startswith(('***', 'F0000'))] or lines[-1:]
  return f'exit status {status}: {" ".join(signals)[:1000]}'


# ---- rendering -------------------------------------------------------------------------------------------------------

_HEADER = (
  '| configuration | chips | overrides | batch | peak of HBM, GiB | TFLOP per step | compute s | memory s | '
  'collectives s | collectives / compute | MFU bound |',
  '|---|---|---|---|---|---|---|---|---|---|---|',
)


def markdown(entries: dict[str, dict[str, Any]], group: str) -> str:
  """Return the rows of a group as a table that marks failed rows, and sampling steps that do not fit."""
  lines = [*_HEADER]
  for name, entry in entries.items():
    if entry['why'] == group:
      config, topology, *changes = name.split(' ')
      lines.append('| ' + ' | '.join([config, topology, ', '.join(changes) or '-', *_cells(entry)]) + ' |')
  return '\n'.join(lines)


def _cells(entry: dict[str, Any]) -> list[str]:
  if 'failed' in entry:
    return ['failed: ' + entry['failed'][:120], *['-'] * 7]
  gib = [entry[key] / 2**30 for key in ('peak_bytes_per_device', 'hbm_bytes_per_device')]
  memory = f'{gib[0]:.1f} of {gib[1]:.1f}' + ('' if entry['fits'] else ': does not fit')
  sampling = entry.get('sampling')
  if sampling and not sampling['fits']:
    memory += f'; sampling {sampling["peak_bytes_per_device"] / 2**30:.1f} does not fit'
  cells = [str(entry['batch_size']), memory, f'{entry["flops_per_step"] / 1e12:.0f}']
  roofline = entry['roofline']
  if roofline is None:
    return [*cells, *['-'] * 5]
  times = [f'{roofline[key]:.3g}' for key in ('compute_seconds', 'memory_seconds', 'collective_seconds')]
  return [*cells, *times, f'{roofline["collective_share"]:.0%}', f'{roofline["mfu_bound"]:.0%}']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=file_argument, default=RESULTS, help='file with the rows')
  parser.add_argument(
    '--again', choices=('failed', 'all'), default='', help='rows to compile although the file has them'
  )
  parser.add_argument('--only', default='', help='compile only rows whose name contains this')
  parser.add_argument('--markdown', action='store_true', help='only print the tables of the file')
  parser.add_argument('--one', default='', help='compile only this configuration and print its report')
  parser.add_argument('--topology', default='', help='with --one')
  parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='with --one: an override')
  parser.add_argument('--no_sampling', action='store_true', help='with --one: leave out the sampling step')
  args = parser.parse_args()
  if args.one:
    config = load(Row(args.one, args.topology).file, args.set)
    print(json.dumps(report(config, args.topology, sampling=not args.no_sampling, suggest=False)))
    return
  if not args.markdown:
    fill(args.out, [row for row in ROWS if args.only in row.name], args.again)
  for group, title in TITLES.items():
    print(f'\n{title}:\n\n{markdown(_read(args.out), group)}')


if __name__ == '__main__':
  main()
