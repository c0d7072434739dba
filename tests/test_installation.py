"""What an installation has: every package, its data, and the experiments, usable from an empty directory."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / 'vdm_jax'
NOT_SHIPPED = {'benchmarks/README.md', 'benchmarks/results'}  # relative to the package


def setup() -> configparser.ConfigParser:
  config = configparser.ConfigParser()
  config.read(REPOSITORY / 'setup.cfg')
  return config


def listed() -> list[str]:
  return setup()['options']['packages'].split()


def data_files() -> set[Path]:
  """The files that setup.cfg ships beside modules."""
  patterns = setup()['options.package_data']['vdm_jax'].replace('\n', ',').split(',')
  return {file for pattern in patterns if pattern.strip() for file in PACKAGE.glob(pattern.strip())}


def test_setup_lists_the_packages_that_exist():
  found = {file.parent.relative_to(REPOSITORY) for file in PACKAGE.rglob('__init__.py')} | {Path('vdm_jax/configs')}
  assert listed() == sorted('.'.join(folder.parts) for folder in found)


def test_all_data_is_shipped():
  files = {file for file in PACKAGE.rglob('*') if file.is_file() and file.suffix not in ('.py', '.pyc')}
  kept = {file for file in files if not any(file.is_relative_to(PACKAGE / name) for name in NOT_SHIPPED)}
  assert kept == data_files()


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> Path:
  """A folder with the files of a wheel, by setup.cfg."""
  site = tmp_path_factory.mktemp('site')
  directories = dict(line.split(' = ') for line in setup()['options']['package_dir'].strip().splitlines())
  for name in listed():
    target = site.joinpath(*name.split('.'))
    target.mkdir(parents=True, exist_ok=True)
    for file in (REPOSITORY / directories.get(name, name.replace('.', '/'))).glob('*.py'):
      shutil.copy(file, target)
  for file in data_files():
    shutil.copy(file, site / file.relative_to(REPOSITORY))
  return site


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, '-m', 'vdm_jax.main', *arguments]
  environment = dict(os.environ, PYTHONPATH=str(site))
  return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def test_experiments_are_found_by_name_from_an_empty_directory(installed, tmp_path):
  done = run(installed, tmp_path, '--mode=doctor', '--config=t2v_large:skip4')
  assert done.returncode == 2, done.stderr
  problems = [line for line in done.stdout.splitlines() if line.startswith('problem: ')]
  assert "data.path='data/captioned_videos'" in problems[0] and 'data.text=bert-large' in problems[1]
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installation_compiles_ahead_of_time(installed, tmp_path):
  done = run(installed, tmp_path, '--mode=compile', '--config=digits_long', '--topology=here')
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)['parameters'] == 926_532
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', ['installed', 'checkout'])
def test_experiments_are_a_package(kind, installed, tmp_path):
  """In a checkout through vdm_jax/configs.py, in a wheel as a folder that takes precedence over that module."""
  site = installed if kind == 'installed' else REPOSITORY
  code = (
    'from vdm_jax.configs import scenes_upsampler as c; from vdm_jax import pretrained; '
    'print(c.__file__, c.get_config().model.upsampling, len(pretrained.names()))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env=dict(os.environ, PYTHONPATH=str(site)),
    capture_output=True,
    text=True,
  )
  folder = site / 'vdm_jax/configs' if kind == 'installed' else REPOSITORY / 'configs'
  assert done.stdout.split() == [str(folder / 'scenes_upsampler.py'), '4', '6'], done.stderr
