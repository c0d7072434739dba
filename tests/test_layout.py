"""Imports in vdm_jax go downward only: the table of allowed edges, and the scan that enforces it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'vdm_jax'

# Room -> the rooms it may import. A room may always import itself.
EDGES = {
  # ground
  'types': set(),
  'partitioning': {'types'},
  'plots': set(),
  'pages': set(),
  'processes': set(),
  'replacing': set(),
  # floor 1
  'diffusion': {'types'},
  'networks': {'types', 'partitioning'},
  'data': {'types', 'replacing'},
  'text': {'types', 'partitioning', 'replacing'},
  # floor 2
  'sampling': {'types', 'diffusion'},
  # floor 3
  'models': {'types', 'partitioning', 'networks', 'diffusion', 'text'},
  'configuration': {'types', 'models'},
  'pretrained': set(),
  'weights': {'configuration', 'replacing'},
  'checkpoints': {'types', 'partitioning', 'processes', 'models', 'configuration', 'pretrained', 'weights'},
  # floor 4
  'training': {'types', 'partitioning', 'processes', 'replacing', 'diffusion', 'models', 'checkpoints'},
  'generation': {'types', 'partitioning', 'diffusion', 'sampling', 'models'},
  'evaluation': {
    'types',
    'partitioning',
    'pages',
    'replacing',
    'diffusion',
    'data',
    'text',
    'sampling',
    'models',
    'generation',
  },
}
# The roof sees every room. A room's `__main__.py` belongs to it. `__init__` is vdm_jax/__init__.py, whose names only
# the roof may import.
ROOF = {'__init__', '__main__', 'main', 'jobs', 'compilation', 'doctor', 'benchmarks'}
EDGES |= {room: ROOF | set(EDGES) for room in ROOF}

# Rooms that may import only these packages beside the standard library.
OUTSIDE = {
  'diffusion': {'jax', 'numpy'},
  'data': {'numpy', 'grain', 'PIL', 'av', 'sklearn', 'tensorflow_datasets', 'array_record', 'absl'},
}

BY_NAME = {'import_module', '__import__', 'resolve_name'}
HIDDEN = '<imported by name>'


def room_of(path: Path, package: Path) -> str:
  return '__main__' if path.name == '__main__.py' else path.relative_to(package).parts[0].removesuffix('.py')


def imported_modules(tree: ast.AST, path: Path, package: Path) -> Iterator[tuple[int, str]]:
  """Yields (line, dotted module) of every import, also lazy, relative and `from . import name` ones."""
  here = ('vdm_jax', *path.relative_to(package).parent.parts)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = '.'.join(here[: len(here) - node.level + 1]) if node.level else ''
      module = '.'.join(filter(None, (base, node.module)))
      # `from vdm_jax import text` names a room, so the names count as modules; deeper ones stay in one room.
      yield from ((node.lineno, f'{module}.{alias.name}') for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in BY_NAME:
      yield node.lineno, HIDDEN


def violations(path: Path, source: str, package: Path = PACKAGE) -> list[str]:
  """Returns `file:line: rule` of each import in `source`, the text of `path`, that its room may not make."""
  room, found = room_of(path, package), []
  rooms = {p.name.removesuffix('.py') for p in package.iterdir()} | set(EDGES)
  if room not in EDGES:
    return [f'{path}:1: room {room} is not in the table EDGES of tests/test_layout.py']
  for line, module in dict.fromkeys(imported_modules(ast.parse(source), path, package)):
    top, *rest = module.split('.')
    if module == HIDDEN and room != '__main__':  # a command may import what its user names
      found.append(f'{path}:{line}: {room} imports by name at run time, which hides the import from tests')
    elif top == 'vdm_jax':
      target = rest[0] if rest and rest[0] in rooms else '__init__'
      if target not in EDGES[room] | {room}:
        found.append(f'{path}:{line}: {room} may not import {target}, only {sorted(EDGES[room])}')
    elif room in OUTSIDE and top not in OUTSIDE[room] | sys.stdlib_module_names:
      found.append(f'{path}:{line}: {room} may not import {top}, only {sorted(OUTSIDE[room])}')
  if room == 'networks':
    lines = enumerate(source.splitlines(), 1)
    found += [f'{path}:{line}: networks never know sigma_in' for line, text in lines if 'sigma_in' in text]
  return found


def test_imports_go_downward_only():
  found = [v for path in sorted(PACKAGE.rglob('*.py')) for v in violations(path, path.read_text())]
  assert not found, '\n'.join(found)


def test_the_table_itself_has_no_cycle():
  order: list[str] = []

  def visit(room: str, above: tuple[str, ...]):
    assert room not in above, f'cycle: {" -> ".join((*above, room))}'
    for below in EDGES[room] - ROOF:
      visit(below, (*above, room))
    order.append(room)

  for room in set(EDGES) - ROOF:
    visit(room, ())
  assert set(order) == set(EDGES) - ROOF


@pytest.mark.parametrize(
  ('file', 'source', 'rule'),
  [
    ('diffusion/loss.py', 'import vdm_jax.networks.fit', 'diffusion may not import networks'),
    ('diffusion/loss.py', 'import flax', 'diffusion may not import flax'),
    ('networks/fit.py', 'from vdm_jax.diffusion import predict_v', 'networks may not import diffusion'),
    ('networks/fit.py', 'x = "sigma_in"', 'networks never know sigma_in'),
    ('sampling/steps.py', 'from vdm_jax import types, models', 'sampling may not import models'),
    ('sampling/steps.py', 'from ..networks import fit', 'sampling may not import networks'),
    ('sampling/steps.py', 'from .. import networks', 'sampling may not import networks'),
    ('training/loop.py', 'def f():\n  from vdm_jax import sampling', 'training may not import sampling'),
    ('training/loop.py', 'from vdm_jax import load', 'training may not import __init__'),
    ('text/bert.py', 'import vdm_jax', 'text may not import __init__'),
    ('text/bert.py', 'from vdm_jax.text import __main__\nfrom vdm_jax import jobs', 'text may not import jobs'),
    ('models.py', 'from . import generation', 'models may not import generation'),
    ('models.py', 'if x:\n  import vdm_jax.training as t', 'models may not import training'),
    ('data/clip.py', 'def f():\n  import jax.numpy', 'data may not import jax'),
    ('data/clip.py', 'importlib.import_module("jax")', 'data imports by name at run time'),
    ('data/clip.py', 'pkgutil.resolve_name(name)', 'data imports by name at run time'),
    ('main.py', 'pkgutil.resolve_name(name)', 'main imports by name at run time'),
    ('attic/old.py', '', 'room attic is not in the table'),
  ],
)
def test_a_planted_violation_is_named_with_file_and_line(file, source, rule):
  (found,) = violations(PACKAGE / file, source)
  line = len(source.splitlines()) or 1
  assert found.startswith(f'{PACKAGE / file}:{line}: {rule}')


@pytest.mark.parametrize(
  ('file', 'source'),
  [
    (
      'diffusion/loss.py',
      'from . import process\nfrom vdm_jax.diffusion.schedule import f\nimport jax, math',
    ),
    ('sampling/steps.py', 'from ..diffusion import process\nfrom vdm_jax import types'),
    ('data/clip.py', 'import grain\nfrom vdm_jax.types import Batch'),
    ('benchmarks/speed.py', 'from vdm_jax import main, load\nfrom . import other'),
    ('text/__main__.py', 'from vdm_jax import data, jobs'),
    ('data/__main__.py', 'pkgutil.resolve_name(name)'),
  ],
)
def test_downward_imports_pass(file, source):
  assert violations(PACKAGE / file, source) == []
