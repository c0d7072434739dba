"""Writes notebooks from their sources and runs them: NAME.py, in percent format, becomes NAME.ipynb with outputs.

    pip install -e '.[notebooks]'
    python launch/colab/execute.py                   # all three
    python launch/colab/execute.py toy_2d sample_t2v
    python launch/colab/execute.py --text toy_2d     # after a change of words alone: keeps the outputs, runs nothing

The sources are what is edited. A notebook is run in a folder of its own, which is deleted; paths in
outputs are relative to it.
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
MARK = re.compile(r'# %%(?: \[(?P<kind>markdown)\])?(?: tags=(?P<tags>\[.*\]))?')


class Cell(NamedTuple):
  kind: str  # code or markdown
  source: str
  tags: tuple[str, ...] = ()


def read_cells(text: str) -> list[Cell]:
  """The cells of a percent-format source; what stands before the first one is left out.

  Raises ValueError for a mark that cannot be read, and for a line of a markdown cell that is no comment.
  """
  cells: list[Cell] = []
  lines: list[str] = []
  for line in [*text.splitlines(), '# %%']:
    if not line.startswith('# %%'):
      lines.append(line)
      continue
    if not (mark := MARK.fullmatch(line)):
      raise ValueError(f'{line!r} is no cell: write # %%, # %% [markdown] or # %% tags=["parameters"].')
    if cells:
      cells[-1] = cells[-1]._replace(source=_body(cells[-1].kind, lines))
    cells.append(Cell(mark['kind'] or 'code', '', tuple(json.loads(mark['tags'] or '[]'))))
    lines = []
  return cells[:-1]


def notebook(cells: list[Cell]) -> dict[str, Any]:
  """The notebook of some cells, not yet run, as JSON has it."""
  made = []
  for number, cell in enumerate(cells):
    metadata = {'tags': list(cell.tags)} if cell.tags else {}
    node = {'cell_type': cell.kind, 'id': f'cell-{number:02d}', 'metadata': metadata, 'source': cell.source}
    made.append(node if cell.kind == 'markdown' else node | {'execution_count': None, 'outputs': []})
  kernel = {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}
  return {'cells': made, 'metadata': {'kernelspec': kernel}, 'nbformat': 4, 'nbformat_minor': 5}


def execute(name: str) -> Path:
  """Runs a notebook and writes it with its outputs; an error in a cell is raised, and nothing is written."""
  import nbclient
  import nbformat

  node = nbformat.from_dict(notebook(read_cells((HERE / f'{name}.py').read_text(encoding='utf-8'))))
  with tempfile.TemporaryDirectory() as folder:
    client = nbclient.NotebookClient(
      node, timeout=None, record_timing=False, coalesce_streams=True, resources={'metadata': {'path': folder}}
    )
    client.execute()
  node.metadata.pop('language_info', None)  # names the version of Python, which is nobody's concern
  return _write(name, json.loads(json.dumps(node).replace(f'{folder}/', '')))


def retell(name: str) -> Path:
  """Writes a notebook with its source's words and the outputs it has. Raises ValueError if the code has changed."""
  node = notebook(read_cells((HERE / f'{name}.py').read_text(encoding='utf-8')))
  stored = json.loads((HERE / f'{name}.ipynb').read_text(encoding='utf-8'))
  old, new = ([cell for cell in cells if cell['cell_type'] == 'code'] for cells in (stored['cells'], node['cells']))
  if [cell['source'] for cell in old] != [cell['source'] for cell in new]:
    raise ValueError(f'the code of {name} is not what was run: leave out --text, and it will be.')
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
    raise ValueError(f'{wrong[0]!r} in a markdown cell is no comment: begin it with #.')
  return '\n'.join(line.removeprefix('#').removeprefix(' ') for line in lines).strip('\n')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('names', nargs='*', default=NAMES, help=', '.join(NAMES))
  parser.add_argument('--text', action='store_true', help='keep the outputs: only words have changed')
  args = parser.parse_args()
  for name in args.names:
    started = time.perf_counter()
    path = retell(name) if args.text else execute(name)
    print(f'{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e6:.2f} MB', file=sys.stderr)


if __name__ == '__main__':
  main()
