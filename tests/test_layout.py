"""The architecture: packages stand in layers, imports go down, and folders, files and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / 'vdm_jax'

# A package or module may import itself, everything in the layers below its own, and what SIDEWAYS allows.
LAYERS = (
  {'types', 'errors', 'names', 'rng', 'partitioning', 'pages', 'plots', 'runtime', 'inputs', 'tensor_files'},
  {'diffusion', 'networks', 'video'},
  {'data', 'text', 'sampling'},
  {'models', 'configuration', 'checkpoints', 'weights', 'pretrained', 'runs', 'first_stages', 'configs'},
  {'training', 'generation', 'evaluation'},
  {'jobs', 'tools', 'benchmarks', 'main', '__main__', '__init__'},
)
SIDEWAYS = {
  'types': set(),
  'rng': {'types'},
  'partitioning': {'types', 'names'},
  'runtime': {'errors'},
  'inputs': {'names'},
  'configuration': {'models'},
  'weights': {'configuration'},
  'runs': {'models', 'configuration', 'checkpoints', 'weights', 'pretrained'},
  'first_stages': {'pretrained', 'runs'},
  'configs': {'configuration'},
  'evaluation': {'generation'},
}
# Packages that outside code uses alone import less than their layer would allow.
ONLY = {
  'diffusion': {'types', 'rng', 'jax', 'numpy'},
  'networks': {'types', 'names', 'partitioning', 'jax', 'numpy', 'flax', 'einops'},
  'sampling': {'types', 'rng', 'diffusion', 'jax', 'numpy'},
}
# These start worker processes, which would each initialize JAX.
WITHOUT_JAX = {'video', 'data'}
# The top layer may import itself; elsewhere vdm_jax/__init__.py and the entry points are not for imports.
TOP = LAYERS[-1]

MAX_FILES_PER_FOLDER = 15
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60  # besides the docstring

IMPORT_BY_NAME = {'import_module', '__import__', 'resolve_name'}
HIDDEN = '<imported by name>'


def unit_of(path: Path, package: Path) -> str:
  """The package or module below vdm_jax that a file belongs to; every `__main__.py` is an entry point."""
  return '__main__' if path.name == '__main__.py' else path.relative_to(package).parts[0].removesuffix('.py')


def layer_of(unit: str) -> int | None:
  return next((i for i, layer in enumerate(LAYERS) if unit in layer), None)


def may_import(unit: str, target: str) -> bool:
  if unit == target or unit in TOP:
    return True
  if unit in ONLY:
    return target in ONLY[unit]
  above, below = layer_of(unit), layer_of(target)
  return below is not None and (below < above or target in SIDEWAYS.get(unit, ()))


def imported_modules(tree: ast.AST, path: Path, package: Path) -> Iterator[tuple[int, str]]:
  """Yields (line, dotted module) of every import, also lazy, relative and `from . import name` ones."""
  here = ('vdm_jax', *path.relative_to(package).parent.parts)
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = '.'.join(here[: len(here) - node.level + 1]) if node.level else ''
      module = '.'.join(filter(None, (base, node.module)))
      yield from ((node.lineno, f'{module}.{alias.name}') for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split('.')[-1] in IMPORT_BY_NAME:
      yield node.lineno, HIDDEN


def violations(path: Path, source: str, package: Path = PACKAGE) -> list[str]:
  """Returns `file:line: rule` of each import in `source`, the text of `path`, that its package may not make."""
  unit, found = unit_of(path, package), []
  if layer_of(unit) is None:
    return [f'{path}:1: {unit} is in no layer of LAYERS in tests/test_layout.py']
  for line, module in dict.fromkeys(imported_modules(ast.parse(source), path, package)):
    top, *rest = module.split('.')
    if module == HIDDEN and unit != '__main__':  # a command may import what its user names
      found.append(f'{path}:{line}: {unit} imports by name at run time, which hides the import from tests')
    elif top == 'vdm_jax':
      target = rest[0] if rest and layer_of(rest[0]) is not None else '__init__'
      if not may_import(unit, target):
        found.append(f'{path}:{line}: {unit} may not import {target}')
    elif (
      unit in ONLY
      and top not in ONLY[unit] | sys.stdlib_module_names
      or unit in WITHOUT_JAX
      and top in {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}
    ):
      found.append(f'{path}:{line}: {unit} may not import {top}')
  if unit == 'networks':
    lines = enumerate(source.splitlines(), 1)
    found += [f'{path}:{line}: networks never know sigma_in' for line, text in lines if 'sigma_in' in text]
  return found


SOURCES = sorted(PACKAGE.rglob('*.py'))


def test_imports_go_down():
  found = [v for path in SOURCES for v in violations(path, path.read_text())]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize('module', ['vdm_jax.video', 'vdm_jax.runtime.atomic_files'])
def test_reading_and_writing_files_does_not_import_jax(module):
  """Nor does anything that these import, which the scan of their own imports does not see."""
  code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY).returncode == 0


def test_sideways_imports_have_no_cycle():
  for unit, targets in SIDEWAYS.items():
    reached, todo = set(), set(targets)
    while todo:
      reached.add(target := todo.pop())
      todo |= SIDEWAYS.get(target, set()) - reached
    assert unit not in reached


def test_every_table_names_what_exists():
  units = {path.name.removesuffix('.py') for path in PACKAGE.iterdir()} | {'configs'}
  assert set().union(*LAYERS) - {'__main__'} <= units
  assert set(SIDEWAYS) | set(ONLY) <= set().union(*LAYERS)


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
    ('training/loop.py', 'def f():\n  from vdm_jax import generation', 'training may not import generation'),
    ('training/loop.py', 'from vdm_jax import load', 'training may not import __init__'),
    ('text/words.py', 'import vdm_jax', 'text may not import __init__'),
    ('text/words.py', 'from vdm_jax.text import __main__\nfrom vdm_jax import jobs', 'text may not import jobs'),
    ('models/__init__.py', 'from .. import generation', 'models may not import generation'),
    ('models/__init__.py', 'if x:\n  import vdm_jax.training as t', 'models may not import training'),
    ('data/pipeline.py', 'def f():\n  import jax.numpy', 'data may not import jax'),
    ('data/pipeline.py', 'importlib.import_module("jax")', 'data imports by name at run time'),
    ('data/pipeline.py', 'pkgutil.resolve_name(name)', 'data imports by name at run time'),
    ('main.py', 'pkgutil.resolve_name(name)', 'main imports by name at run time'),
    ('runtime/watchdog.py', 'from vdm_jax import plots', 'runtime may not import plots'),
    ('attic/old.py', '', 'attic is in no layer'),
  ],
)
def test_a_planted_violation_is_named_with_file_and_line(file, source, rule):
  (found,) = violations(PACKAGE / file, source)
  line = len(source.splitlines()) or 1
  assert found.startswith(f'{PACKAGE / file}:{line}: {rule}')


@pytest.mark.parametrize(
  ('file', 'source'),
  [
    ('diffusion/loss.py', 'from . import process\nfrom vdm_jax.diffusion.schedule import f\nimport jax, math'),
    ('sampling/steps.py', 'from ..diffusion import process\nfrom vdm_jax import types'),
    ('data/pipeline.py', 'import grain\nfrom vdm_jax.video import to_float\nfrom vdm_jax.types import Batch'),
    ('benchmarks/speed.py', 'from vdm_jax import main, load\nfrom . import other'),
    ('text/__main__.py', 'from vdm_jax import data, jobs'),
    ('data/__main__.py', 'pkgutil.resolve_name(name)'),
  ],
)
def test_downward_imports_pass(file, source):
  assert violations(PACKAGE / file, source) == []


FOLDERS = sorted({path.parent for path in SOURCES} | {path.parent for path in REPOSITORY.glob('tests/**/*.py')})


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_folders_are_small(folder):
  """A folder answers one question; `configs/` is exempt, for it is a flat catalog of experiments."""
  files = [path.name for path in folder.glob('*.py') if path.name != '__init__.py']
  assert len(files) <= MAX_FILES_PER_FOLDER, files


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_files_and_functions_are_small(path):
  source = path.read_text()
  assert path.name != 'utils.py', 'name a module after what it does'
  assert len(source.splitlines()) <= MAX_FILE_LINES
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      documented = ast.get_docstring(node) is not None
      docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
      lines = node.end_lineno - node.lineno + 1 - docstring
      assert lines <= MAX_FUNCTION_LINES, f'{path}:{node.lineno}: {node.name} has {lines} lines'
