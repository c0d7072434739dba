"""Writes notebooks from their sources and runs them: NAME.py, in percent format, becomes NAME.ipynb with outputs.

    pip install -e '.[notebooks]'
    python launch/colab/execute.py                   # all three
    python launch/colab/execute.py toy_2d sample_t2v
    python launch/colab/execute.py --text toy_2d     # after changes of text cells only: keeps the outputs, runs nothing

Edit the sources, not the notebooks. A notebook runs in a temporary folder; paths in its outputs are relative to it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from vdm_jax.runtime.atomic_files import atomic_write

HERE = Path(__file__).resolve().parent
NAMES = ('toy_2d', 'sample_t2v', 'train_your_own')
MARKER = re.compile(r'# %%(?: \[(?P<kind>markdown)\])?(?: tags=(?P<tags>\[.*\]))?')


class Cell(NamedTuple):
  """A cell of a notebook."""

  kind: str  # 'code' or 'markdown'
  source: str
  tags: tuple[str, ...] = ()


def read_cells(text: str) -> list[Cell]:
  """Return the cells of a percent-format source, without what precedes the first one.

  Raises:
    ValueError: an invalid cell marker, or a line of a markdown cell that is not a comment.
  """
  cells: list[Cell] = []
  lines: list[str] = []
  for line in [*text.splitlines(), '# %%']:
    if not line.startswith('# %%'):
      lines.append(line)
      continue
    if not (marker := MARKER.fullmatch(line)):
      raise ValueError(f'{line!r} is not a valid cell marker: write # %%, # %% [markdown] or # %% tags=["parameters"].')
    if cells:
      cells[-1] = cells[-1]._replace(source=_body(cells[-1].kind, lines))
    cells.append(Cell(marker['kind'] or 'code', '', tuple(json.loads(marker['tags'] or '[]'))))
    lines = []
  return cells[:-1]


def notebook(cells: list[Cell]) -> dict[str, Any]:
  """Return the notebook of these cells, not yet run, as a JSON object."""
  nodes = []
  for number, cell in enumerate(cells):
    metadata = {'tags': list(cell.tags)} if cell.tags else {}
    node = {'cell_type': cell.kind, 'id': f'cell-{number:02d}', 'metadata': metadata, 'source': cell.source}
    nodes.append(node if cell.kind == 'markdown' else node | {'execution_count': None, 'outputs': []})
  kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
  return {'cells': nodes, 'metadata': {'kernelspec': kernel}, 'nbformat': 4, 'nbformat_minor': 5}


def execute(name: str) -> Path:
  """Run a notebook and write it with its outputs. An error in a cell is raised, and nothing is written."""
  import nbclient
  import nbformat

  node = nbformat.from_dict(notebook(read_cells((HERE / f'{name}.py').read_text(encoding='utf-8'))))
  with tempfile.TemporaryDirectory() as folder:
    client = nbclient.NotebookClient(
      node, timeout=None, record_timing=False, coalesce_streams=True, resources={'metadata': {'path': folder}}
    )
    client.execute()
  node.metadata.pop('language_info', None)  # has the version of Python
  return _write(name, json.loads(json.dumps(node).replace(f'{folder}/', '')))


def update_text(name: str) -> Path:
  """Write the text cells of the source to a notebook and keep its outputs.

  Raises:
    ValueError: the code has changed.
  """
  node = notebook(read_cells((HERE / f'{name}.py').read_text(encoding='utf-8')))
  stored = json.loads((HERE / f'{name}.ipynb').read_text(encoding='utf-8'))
  old, new = ([cell for cell in cells if cell['cell_type'] == 'code'] for cells in (stored['cells'], node['cells']))
  if [cell['source'] for cell in old] != [cell['source'] for cell in new]:
    raise ValueError(f'the code of {name} has changed since it was run: run it again, without --text.')
  for before, after in zip(old, new, strict=True):
    after.update(execution_count=before['execution_count'], outputs=before['outputs'])
  return _write(name, node)


def _write(name: str, node: dict[str, Any]) -> Path:
  path = HERE / f'{name}.ipynb'
  with atomic_write(path) as temporary:
    temporary.write_text(json.dumps(node, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
  return path


def _body(kind: str, lines: list[str]) -> str:
  if kind == 'code':
    return '\n'.join(lines).strip('\n')
  if wrong := [line for line in lines if line and not line.startswith('#')]:
    raise ValueError(f'{wrong[0]!r} in a markdown cell is not a comment: start the line with #.')
  return '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines).strip('\n')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('names', nargs='*', default=NAMES, help=', '.join(NAMES))
  parser.add_argument('--text', action='store_true', help='keep the outputs: only text cells have changed')
  args = parser.parse_args()
  for name in args.names:
    started = time.perf_counter()
    path = update_text(name) if args.text else execute(name)
    print(f'{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e6:.2f} MB', file=sys.stderr)


if __name__ == '__main__':
  main()
