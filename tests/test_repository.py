"""Rules of the repository: no code executes data that it reads, imports are declared, ruff passes."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / 'vdm_jax'
SOURCES = sorted(PACKAGE.rglob('*.py'))

FORBIDDEN_MODULES = {'pickle', 'cPickle', '_pickle', 'cloudpickle', 'dill', 'marshal', 'shelve'}
FORBIDDEN_CALLS = {
  'eval',
  'exec',
  'os.system',
  'os.popen',
  'yaml.load',
  'yaml.unsafe_load',
  'joblib.load',
  'torch.load',
}
FORBIDDEN_KEYWORDS = {'shell', 'allow_pickle', 'trust_remote_code'}

# Dependencies that the project must have, by their names on the package index.
ASKED_FOR = (
  'jax',
  'flax',
  'optax',
  'orbax-checkpoint',
  'einops',
  'tensorflow-datasets',
  'transformers',
  'numpy',
)
ASKED_FOR += ('ml_collections',)

# Import name -> name on the package index, where they differ.
INDEX_NAMES = {'PIL': 'pillow', 'absl': 'absl-py', 'orbax': 'orbax-checkpoint'}
# Packages that are installed with a declared one.
COME_WITH = {'jaxlib': 'jax', 'etils': 'orbax-checkpoint', 'ml_dtypes': 'jax', 'packaging': 'pytest'}


def dangers(source: str) -> list[tuple[int, str]]:
  """Return (line, what) for everything in `source` that could execute data or reach a shell."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [(node.lineno, a.name) for a in node.names if a.name.split('.')[0] in FORBIDDEN_MODULES]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = {f'{node.module}.{a.name}' for a in node.names}
      if node.module.split('.')[0] in FORBIDDEN_MODULES:
        found.append((node.lineno, node.module))
      found += [(node.lineno, name) for name in sorted(names & FORBIDDEN_CALLS)]
    elif isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in FORBIDDEN_CALLS:
      found.append((node.lineno, ast.unparse(node)))
    elif isinstance(node, ast.keyword) and node.arg in FORBIDDEN_KEYWORDS:
      harmless = isinstance(node.value, ast.Constant) and node.value.value is False
      found += [] if harmless else [(node.value.lineno, f'{node.arg}={ast.unparse(node.value)}')]
  return found


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_no_code_executes_data(path):
  assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
  'source',
  [
    'import pickle',
    'from marshal import loads',
    'def f():\n  import dill as d',
    'eval(x)',
    'run = exec',
    'import os\nos.system("ls")',
    'from os import system',
    'subprocess.run(x, shell=True)',
    'subprocess.run(x, shell=flag)',
    'np.load(f, allow_pickle=True)',
    'yaml.load(f)',
    'AutoModel.from_pretrained(x, trust_remote_code=True)',
  ],
)
def test_the_scan_finds_dangers(source):
  assert len(dangers(source)) == 1


def test_the_scan_ignores_harmless_code():
  assert dangers('np.load(f, allow_pickle=False)\nmodel.eval_shape(x)\njax.eval_shape(f)\nyaml.safe_load(f)') == []


def test_the_package_is_marked_as_typed():
  assert (PACKAGE / 'py.typed').read_text() == ''


def test_every_folder_with_modules_is_a_package():
  """setup.cfg lists packages; see tests/test_installation.py."""
  assert [str(p) for p in {p.parent for p in SOURCES} if not (p / '__init__.py').exists()] == []


@pytest.mark.parametrize('command', [['check', '--output-format=concise'], ['format', '--check']], ids=' '.join)
def test_ruff_passes(command):
  run = subprocess.run(
    [sys.executable, '-m', 'ruff', *command, '--no-cache', '.'], cwd=REPOSITORY, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stdout + run.stderr


def canonical(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()


def requirements(lines: str) -> list[Requirement]:
  stripped = (line.split('#')[0].strip() for line in lines.splitlines())
  return [Requirement(line) for line in stripped if line]


def declared() -> tuple[set[str], set[str]]:
  """Return the canonical names of requirements.txt, and those of all extras of setup.cfg."""
  config = configparser.ConfigParser()
  config.read(REPOSITORY / 'setup.cfg')
  extras = [r for lines in config['options.extras_require'].values() for r in requirements(lines)]
  core = requirements((REPOSITORY / 'requirements.txt').read_text())
  return {canonical(r.name) for r in core}, {canonical(r.name) for r in extras}


def test_required_dependencies_are_declared():
  assert {canonical(name) for name in ASKED_FOR} <= declared()[0]


def test_every_requirement_is_bounded_below():
  for requirement in requirements((REPOSITORY / 'requirements.txt').read_text()):
    assert any(s.operator in ('>=', '==') for s in requirement.specifier), f'{requirement} has no lower bound'


def outside_imports(path: Path) -> set[str]:
  nodes = list(ast.walk(ast.parse(path.read_text())))
  names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
  names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level}
  return {name.split('.')[0] for name in names} - sys.stdlib_module_names - {'vdm_jax'}


@pytest.mark.parametrize('folder', ['vdm_jax', 'configs', 'launch'])
def test_every_import_is_declared(folder):
  """An import without a requirement works only where the package happens to be installed."""
  core, extras = declared()
  for path in sorted((REPOSITORY / folder).rglob('*.py')):
    for name in sorted(outside_imports(path)):
      package = canonical(COME_WITH.get(name, INDEX_NAMES.get(name, name)))
      assert package in core | extras, f'{path} imports {name}, which neither requirements.txt nor setup.cfg names'


def test_ci_runs_the_test_command_of_the_readme():
  commands = [line.strip() for line in (REPOSITORY / 'README.md').read_text().splitlines() if '-m pytest' in line]
  assert commands, 'README.md shows no test command'
  assert commands[0] in (REPOSITORY / '.ci' / 'run').read_text().splitlines()


@pytest.mark.parametrize('script', sorted([REPOSITORY / '.ci' / 'run', *REPOSITORY.glob('launch/*.sh')]), ids=str)
def test_shell_scripts_stop_at_the_first_error(script):
  assert 'set -euo pipefail' in script.read_text().splitlines()
  assert script.stat().st_mode & 0o111, f'{script} is not executable'
  subprocess.run(['bash', '-n', script], check=True)
