"""Paths that are not local are refused everywhere before anything is read or written; `~` is expanded everywhere."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from absl import flags
from helpers.messages import raises

from vdm_jax import configuration, main
from vdm_jax.data import locate
from vdm_jax.errors import InvalidInput
from vdm_jax.inputs.paths import NotLocal, local_path
from vdm_jax.jobs import arguments, experiments

REMOTE = ('gs://bucket/x', 's3://b/x', 'hf://datasets/a', 'https://host/x.zip', 'file:///x', 'gs:/x', 'host:/x')
LOCAL = ('x', '/x/y', './a:b/c', 'a b', 'run 12:30', 'pretrained:digits', 'é/ü', '../x', '')


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  return tmp_path / 'home'


def test_local_paths(home):
  for path in LOCAL:
    assert local_path('--out', path) == path
  assert local_path('--out', '~/x') == f'{home}/x' and local_path('--out', '~') == str(home)
  for path in REMOTE:
    with raises(NotLocal, f'--out={path}', 'mount'):
      local_path('--out', path)
  with raises(NotLocal, '--out=~nobody_of_this_name/x', './~nobody_of_this_name/x'):
    local_path('--out', '~nobody_of_this_name/x')
  for name in ('host:', '~nobody_of_this_name'):  # unless there is such a folder
    Path(name).mkdir()
    assert local_path('--out', f'{name}/x') == f'{name}/x'


# Every place of every command that takes a path, {} in the arguments.
COMMANDS = [
  ('vdm_jax.data', 'inspect {}'),
  ('vdm_jax.data', 'inspect folder:{}'),
  ('vdm_jax.data', 'inspect . --sheet={}'),
  ('vdm_jax.data', 'convert {} out'),
  ('vdm_jax.data', 'convert . {}'),
  ('vdm_jax.data', 'caption {} --captioner=a:b'),
  ('vdm_jax.pretrained', '--name=x --workdir={}'),
  ('vdm_jax.pretrained', '--name=x --scores={}'),
  ('vdm_jax.pretrained', '--name=x --workdir=x --first_stage={}'),
  ('vdm_jax.tools.user_study', 'make {} b --out=c'),
  ('vdm_jax.tools.user_study', 'make a {} --out=c'),
  ('vdm_jax.tools.user_study', 'make a b --out={}'),
  ('vdm_jax.tools.user_study', 'score {} b'),
  ('vdm_jax.tools.user_study', 'score a {}'),
  ('vdm_jax.tools.user_study', 'score a b --out={}'),
  ('vdm_jax.benchmarks.compile_table', '--out={}'),
  ('vdm_jax.benchmarks.conditional_gaussians', '--out={}'),
  ('vdm_jax.benchmarks.input', '--path={}'),
  ('vdm_jax.benchmarks.input', '--out={}'),
  ('vdm_jax.benchmarks.long_memory', '--workdir={}'),
  ('vdm_jax.benchmarks.long_memory', '--workdir=x --out={}'),
  ('vdm_jax.benchmarks.paper_claims', '--out={}'),
  ('vdm_jax.benchmarks.sample_grid', '--out={}'),
  ('vdm_jax.benchmarks.train_step', '--out={}'),
  ('vdm_jax.benchmarks.train_step', '--profile={}'),
  ('vdm_jax.benchmarks.train_step', '--configs {}'),
]


@pytest.mark.filterwarnings('ignore:.*found in sys.modules')
@pytest.mark.parametrize(('module', 'line'), COMMANDS)
def test_every_command_refuses_what_is_not_local(home, monkeypatch, capsys, module, line):
  monkeypatch.setattr(sys, 'argv', [module, *line.format('gs://bucket/x').split()])
  with pytest.raises(SystemExit) as ended:
    runpy.run_module(module, run_name='__main__', alter_sys=False)
  assert ended.value.code == 2
  assert 'gs://bucket/x is not a local path' in capsys.readouterr().err
  assert not list(home.parent.iterdir())  # no folder `gs:`


# The flags of the main command that take text but no path.
NOT_PATHS = {
  *('mode', 'pretrained', 'coordinator', 'prompt', 'fps', 'original_size', 'frame_rates', 'protocol', 'sweep'),
  *('topology', 'seeds', 'format', 'fit', 'weights'),
}


def test_every_flag_of_the_main_command_that_is_a_path_is_checked(home):
  # A new flag is a path (command.define_path), or is listed above.
  holders = [value for value in vars(main).values() if isinstance(value, flags.FlagHolder)]
  texts = {holder.name: flags.FLAGS[holder.name].parser for holder in holders}
  texts = {name: parser for name, parser in texts.items() if parser.flag_type() in ('string', 'path', 'string enum')}
  paths = {name for name, parser in texts.items() if parser.flag_type() == 'path'}
  assert set(texts) - paths <= NOT_PATHS and {'workdir', 'out', 'prompt_file', 'features'} <= paths
  for name in paths:
    with raises(InvalidInput, f'--{name}=gs://bucket/x'):
      texts[name].parse('gs://bucket/x')
    assert texts[name].parse('~/x') == f'{home}/x'
  with raises(InvalidInput, '--config=gs://bucket/x.py'):
    experiments.split('gs://bucket/x.py')


def test_every_setting_that_is_a_path_is_expanded_and_checked(home):
  """A new setting whose comment speaks of a folder or workdir is a path too, or this test names it."""
  source = Path(configuration.__file__).read_text()
  named = set(re.findall(r"    '(\w*(?:path|cache|stage|mixture|images))': (?:''|\(\)),", source))
  assert named == {setting.split('.')[1] for setting in (*arguments.PATHS, *arguments.LISTS)}
  for setting in arguments.PATHS:
    config = configuration.default()
    section, key = setting.split('.')
    config[section][key] = '~/x'
    arguments.expand_paths(config)
    assert config[section][key] == config.model.get(key, f'{home}/x') == f'{home}/x'
    config[section][key] = 'gs://bucket/x'
    with raises(InvalidInput, f'config.{setting}=gs://bucket/x'):
      arguments.expand_paths(config)
  config = configuration.default()
  config.data.mixture = ('folder:~/x=2', 'array:y.npy@8')
  arguments.expand_paths(config)
  assert config.data.mixture == (f'folder:{home}/x=2', 'array:y.npy@8')
  for entry in ('folder:gs://bucket/x', 'gs://bucket/x'):
    config.data.images = (entry,)
    with raises(InvalidInput, 'config.data.images=', 'gs://bucket/x'):
      arguments.expand_paths(config)
  assert locate('folder:~/x') == ('folder', f'{home}/x') and locate('~/x') == ('folder', f'{home}/x')
