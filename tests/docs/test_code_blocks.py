"""The code blocks of the documentation: Python blocks run, and shell commands understand their arguments."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.code_blocks import LANGUAGES, REPOSITORY, Block, blocks, commands, module_of, pages

PAGES = {path.relative_to(REPOSITORY).as_posix(): path for path in pages()}
# Commands that stand only in blocks that are marked `not run`.
OTHERS = {'.', 'cd', 'ffmpeg', 'gcloud', 'git', 'python3', 'pip', 'ruff', 'pre-commit', 'mkdocs'}
OTHER_MODULES = {'pytest', 'venv', 'build'}
# Work directories that pages name without training them, and the experiments that they are runs of.
RUNS = {'runs/t2v': 't2v_large', 'runs/t2v/nonfinite/step_00001000': 't2v_large'}


def python_blocks(page: str) -> list[Block]:
  return [block for block in blocks(PAGES[page]) if block.language == 'python']


def shell_blocks() -> list[Block]:
  return [block for path in PAGES.values() for block in blocks(path) if block.language == 'bash']


@pytest.mark.parametrize('page', PAGES)
def test_blocks_name_their_language(page):
  for block in blocks(PAGES[page]):
    assert block.language in LANGUAGES, f'{block.place}: {block.language!r} is not one of {sorted(LANGUAGES)}'
    assert not block.marker or block.language in ('bash', 'python'), f'{block.place}: only code needs a comment'
    assert not block.status or block.language == 'bash', f'{block.place}: only commands have an exit status'


def run_page(page: str, folder: Path, *, slow: bool) -> None:
  """Runs the Python blocks of a page in one namespace, up to the first slow one, or all."""
  namespace: dict[str, object] = {}
  for block in python_blocks(page):
    if block.title:
      (folder / block.title).write_text(block.text)
    if block.marker == 'slow' and not slow:
      return
    if block.marker != 'not run':
      exec(compile(block.text, block.place, 'exec'), namespace)


@pytest.mark.parametrize('page', [page for page in PAGES if python_blocks(page)])
def test_python_blocks_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_page(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize('page', [page for page in PAGES if any(b.marker == 'slow' for b in python_blocks(page))])
def test_slow_python_blocks_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run_page(page, tmp_path, slow=True)


@pytest.mark.parametrize('page', [page for page in PAGES if python_blocks(page)])
def test_python_blocks_that_do_not_run_are_python(page):
  for block in python_blocks(page):
    ast.parse(block.text)


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Path:
  """A folder with the experiments and the launch scripts, and with a run of each experiment."""
  folder = tmp_path_factory.mktemp('checkout')
  for name in ('configs', 'launch'):
    (folder / name).symlink_to(REPOSITORY / name)
  names = [path.stem for path in sorted((REPOSITORY / 'configs').glob('*.py')) if path.name != '__init__.py']
  trainings = {f'runs/{name}': name for name in names} | RUNS
  arguments = [['vdm_jax.main', f'--config=configs/{name}.py', f'--workdir={run}'] for run, name in trainings.items()]
  assert check(arguments, folder) == [None] * len(arguments)
  return folder


def check(arguments: list[list[str]], folder: Path) -> list[str | None]:
  done = subprocess.run(
    [sys.executable, Path(__file__).with_name('check_arguments.py')],
    input=json.dumps(arguments),
    cwd=folder,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_commands_understand_their_arguments(checkout):
  """Also those of blocks that do not run: flags, their values, and keys of the configuration."""
  places, asked = [], []
  for block in shell_blocks():
    for words in commands(block):
      if (module := module_of(words)).startswith('vdm_jax'):
        places.append(block.place)
        asked.append([module, *words[3:]])
  assert len(asked) > 50
  wrong = [f'{place}: {error}' for place, error in zip(places, check(asked, checkout), strict=True) if error]
  assert not wrong, '\n'.join(wrong)


def test_launch_scripts_understand_their_arguments(monkeypatch):
  monkeypatch.setenv('REPOSITORY', 'https://example.com/vdm_jax')
  tried = 0
  for block in shell_blocks():
    for words in commands(block):
      if words[0].startswith('launch/'):
        command = [words[0], *words[1:2], '--dry_run', *words[2:]]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, f'{block.place}: {done.stderr}'
        tried += 1
  assert tried >= 8


def test_other_commands_are_known(checkout):
  """Every other command is of a kind that cannot be run here, and says so; extras that pip installs exist."""
  config = configparser.ConfigParser()
  config.read(REPOSITORY / 'setup.cfg')
  extras = set(config['options.extras_require'])
  for block in shell_blocks():
    for words in commands(block):
      module, first = module_of(words), words[0].split('/')[-1]
      named = {extra for word in words for extra in ','.join(re.findall(r'\[(.*)\]', word)).split(',') if extra}
      if first == 'pip':
        assert named <= extras, f'{block.place}: setup.cfg has no extras {sorted(named - extras)}'
      if module.startswith('vdm_jax') or words[0].startswith('launch/') or first == 'pip' or module == 'venv':
        continue
      script = len(words) > 1 and (REPOSITORY / words[1]).is_file()
      assert first in OTHERS or module in OTHER_MODULES or script, f'{block.place}: {" ".join(words)} is not known'
      assert block.marker == 'not run', f'{block.place}: {" ".join(words)} is not tested; mark the block `not run`'
