"""What every configuration of the papers needs of machines, compiled and not run: the table of `results/compile.json`.

    python -m vdm_jax.benchmarks.compile_table
    python -m vdm_jax.benchmarks.compile_table --markdown

Rows that the file has are not compiled again; one that failed keeps the reason, and `--again=failed` tries it once
more. Each row is a process of its own, and the file is whole after each.

The compiler writes the machine code of a U-Net's convolutions for hours where it is to be fast. Those rows, and some of
large FITs, are compiled in haste: its passes over the program as a whole are the same, and the peak it finds is some
percent higher.
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
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.tools.compilation import report

# The least effort of the compiler for the speed of what it compiles.
_HASTE = {'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1'}
RESULTS = Path(__file__).parent / 'results' / 'compile.json'


class Row(NamedTuple):
  """One configuration on one topology."""

  config: str
  topology: str
  overrides: tuple[str, ...] = ()
  why: str = ''
  haste: bool = False  # U-Nets for TPUs always are

  @property
  def name(self) -> str:
    return ' '.join([self.config, self.topology, *self.overrides])

  @property
  def environment(self) -> dict[str, str]:
    return _HASTE if self.haste or not self.config.startswith('snap_fit') else {}

  @property
  def command(self) -> str:
    changes = ''.join(f' --config.{change}' for change in self.overrides)
    config, _, variant = self.config.partition(':')
    file = f'configs/{config}.py' + (f':{variant}' if variant else '')
    settings = ''.join(f'{name}={value} ' for name, value in self.environment.items())
    return f'{settings}python -m vdm_jax.main --mode=compile --config={file} --topology={self.topology}{changes}'


PAPER, SMALLEST, LEVER = "the paper's hardware and batch", "the paper's batch on a small slice", 'lever'
# A FIT of middle size, on which every lever is tried alone.
MIDDLE = ('data.batch_size=32', 'model.num_blocks=4')


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
    Row('snap_fit_500m', 'v4:2x2x1', (*MIDDLE, *change), LEVER)
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
  Row('snap_fit_3b9_upsampler', 'v4:4x4x4', (_parts(5), *_fsdp(16)), PAPER, haste=True),
  Row('snap_unet_284m', 'v4:4x4x8', (_parts(16),), PAPER),
  Row('snap_unet_85m', 'v4:4x4x8', (_parts(16),), PAPER),
  Row('t2v_large', 'v5p:2x2x1', (_parts(16), *_fsdp(4)), SMALLEST),
  Row('t2v_large', 'v4:2x2x1', (_parts(32), *_fsdp(4)), SMALLEST),
  Row('snap_fit_3b9', 'v5p:2x2x1', (_parts(128),), SMALLEST),
  Row('snap_fit_3b9', 'v4:2x2x2', (_parts(128),), SMALLEST),
  Row('snap_fit_500m', 'v4:2x2x1', (_parts(256),), SMALLEST, haste=True),
  Row('snap_fit_500m', 'v5p:2x2x1', (_parts(64),), SMALLEST, haste=True),
  Row('snap_fit_3b9_upsampler', 'v4:2x2x4', (_parts(20),), SMALLEST, haste=True),  # 2x2x2 lacks 4 GiB a chip
  Row('snap_fit_3b9_upsampler', 'v5p:2x2x1', (_parts(80),), SMALLEST, haste=True),
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
  """Compiles the rows that the file lacks, writing it after each."""
  known = _read(path)
  for row in rows:
    entry = known.get(row.name)
    if entry is None or again == 'all' or (again == 'failed' and 'failed' in entry):
      print(f'{row.name} ...', file=sys.stderr, flush=True)
      known[row.name] = {'why': row.why, 'command': row.command, **_apart(row)}
      write_text(path, json.dumps(known, indent=1) + '\n')


def _read(path: Path) -> dict[str, dict[str, Any]]:
  return json.loads(path.read_text()) if path.exists() else {}


def _apart(row: Row) -> dict[str, Any]:
  """The report of a row, or the end of what went wrong."""
  command = [sys.executable, '-m', 'vdm_jax.benchmarks.compile_table', f'--one={row.config}']
  command += [f'--topology={row.topology}', *(f'--set={change}' for change in row.overrides)]
  command += ['--no_sampling'] if row.why == LEVER else []
  done = subprocess.run(command, capture_output=True, text=True, env=os.environ | row.environment)
  if done.returncode:
    return {'failed': _reason(done.stderr.strip().splitlines(), done.returncode)}
  return json.loads(done.stdout[done.stdout.index('{') :])


def _reason(lines: Sequence[str], status: int) -> str:
  """What a process said of its end: the signal that a crash of the compiler names, else its last line."""
  named = [line for line in lines if line.startswith(('***', 'F0000'))] or lines[-1:]
  return f'exit status {status}: {" ".join(named)[:1000]}'


# ---- rendering -------------------------------------------------------------------------------------------------------

_HEADER = (
  '| configuration | chips | changes | batch | peak GiB of | TFLOP per step | compute s | memory s | collectives s | '
  'collectives / compute | MFU at most |',
  '|---|---|---|---|---|---|---|---|---|---|---|',
)


def markdown(entries: dict[str, dict[str, Any]], why: str) -> str:
  """The rows of one kind as a table; those that failed say so, and those where a sampling step does not fit."""
  lines = [*_HEADER]
  for name, entry in entries.items():
    if entry['why'] == why:
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
  roof = entry['roofline']
  if roof is None:
    return [*cells, *['-'] * 5]
  times = [f'{roof[key]:.3g}' for key in ('compute_seconds', 'memory_seconds', 'collective_seconds')]
  return [*cells, *times, f'{roof["collective_share"]:.0%}', f'{roof["mfu_bound"]:.0%}']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, default=RESULTS, help='file of the rows')
  parser.add_argument('--again', choices=('failed', 'all'), default='', help='rows to compile although they are there')
  parser.add_argument('--only', default='', help='rows whose name contains this')
  parser.add_argument('--markdown', action='store_true', help='print the tables of the file and compile nothing')
  parser.add_argument('--one', default='', help='compile this configuration alone and print its report')
  parser.add_argument('--topology', default='', help='with --one')
  parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help='with --one: a change')
  parser.add_argument('--no_sampling', action='store_true', help='with --one: leave out the sampling step')
  args = parser.parse_args()
  if args.one:
    file, _, variant = args.one.partition(':')
    config = load(f'configs/{file}.py' + (f':{variant}' if variant else ''), args.set)
    print(json.dumps(report(config, args.topology, sampling=not args.no_sampling, suggest=False)))
    return
  if not args.markdown:
    fill(args.out, [row for row in ROWS if args.only in row.name], args.again)
  for why in (PAPER, SMALLEST, LEVER):
    print(f'\n{why[0].upper()}{why[1:]}:\n\n{markdown(_read(args.out), why)}')


if __name__ == '__main__':
  main()
