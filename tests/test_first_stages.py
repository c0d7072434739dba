"""The first stage of a cascade: recorded when the second is trained, found again, and refused if it is another."""

from __future__ import annotations

import json
import shutil

import jax
import pytest
from helpers.tiny_networks import draw
from helpers.tiny_runs import SECOND, make_run

from vdm_jax import checkpoints, first_stages, models
from vdm_jax.runs import Run


def begin(workdir, run_id):
  """Give a tiny run the identity that training draws."""
  (workdir / 'env.json').write_text(json.dumps({'run_id': run_id}))


def train_further(workdir, step, seed=7):
  model = models.build(Run(workdir).config['model'])
  ema = draw(jax.eval_shape(model.init, jax.random.key(0)), seed)
  with checkpoints.Checkpointer(workdir, 2) as checkpointer:
    checkpointer.save(step, {'ema': ema})


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """Runs `first` and `other` of one configuration, and `second`, trained from runs/first as typed in this folder."""
  folder = tmp_path_factory.mktemp('made')
  begin(make_run(folder / 'runs/first'), 'f1')
  begin(make_run(folder / 'runs/other', seed=1), 'f2')
  second = make_run(folder / 'runs/second', SECOND | {'training.first_stage': 'runs/first'}, seed=2)
  record(second, first_stages.identify(Run(folder / 'runs/first'), second))
  return folder


def record(second, identity):
  config = json.loads((second / 'config.json').read_text())
  config['training']['first_stage_identity'] = identity
  (second / 'config.json').write_text(json.dumps(config))


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
  """A copy of the runs, seen from a folder in which the recorded path leads nowhere."""
  shutil.copytree(made / 'runs', tmp_path / 'moved')
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  return tmp_path / 'moved'


def find(second, **changes):
  run = Run(second)
  config = json.loads(json.dumps(run.config))
  config['training'] |= {name: value for name, value in changes.items() if name != 'weights'}
  if 'weights' in changes:
    config['training']['first_stage_identity']['weights'] = changes['weights']
  return first_stages.find(config, run).path.resolve()


def test_both_runs_moved_and_another_working_folder(folder):
  assert find(folder / 'second') == folder / 'first'


def test_another_run_at_the_typed_path_is_passed_over(folder, made, monkeypatch):
  shutil.copytree(folder / 'other', folder.parent / 'elsewhere/runs/first')
  assert find(folder / 'second') == folder / 'first'
  (folder / 'first').rename(folder.parent / 'away')
  with pytest.raises(ValueError, match=r'runs/first \(step 3\) is not the run .*--config.training.first_stage=DIR'):
    find(folder / 'second')


def test_another_run_in_place_is_refused_and_can_be_accepted(folder):
  shutil.rmtree(folder / 'first')
  shutil.copytree(folder / 'other', folder / 'first')
  with pytest.raises(ValueError, match=r'moved/first .*first_stage_identity.weights= \(nothing'):
    find(folder / 'second')
  assert find(folder / 'second', weights='') == folder / 'first'
  with pytest.warns(UserWarning, match='other is not the first stage that .*second was trained from'):
    assert find(folder / 'second', first_stage=str(folder / 'other')) == folder / 'other'


def test_a_first_stage_that_was_trained_further_is_used_with_a_warning(folder):
  train_further(folder / 'first', 5)
  with pytest.warns(UserWarning, match='first has been trained from step 3 to step 5'):
    assert find(folder / 'second') == folder / 'first'
  begin(folder / 'first', 'f3')  # begun anew and trained for longer
  with pytest.raises(ValueError, match=r'\(step 5\) is not the run'):
    find(folder / 'second')


def test_exported_stages_know_each_other(folder):
  (folder.parent / 'shipped').mkdir()
  for name in ('first', 'second'):
    Run(folder / name).export_weights(folder.parent / f'shipped/{name}.safetensors', 'float16')
  file = folder.parent / 'shipped/second.safetensors'
  assert find(file) == folder / 'first', 'the path leads from the file to the run'
  shutil.rmtree(folder / 'first')
  (folder.parent / 'shipped/first.safetensors').rename(folder.parent / 'shipped/first')
  assert find(file) == folder.parent / 'shipped/first', 'the file of the same weights lies beside it'


def test_a_missing_first_stage_names_the_places(folder):
  shutil.rmtree(folder / 'first')
  with pytest.raises(FileNotFoundError, match=f'no run at {folder}/first or runs/first: .*--config.training.first_sta'):
    find(folder / 'second')


def test_old_cascades_without_an_identity_take_what_is_there(folder):
  record(folder / 'second', {})
  assert find(folder / 'second') == folder / 'first', 'beside the run'
  typed = shutil.copytree(folder / 'other', folder.parent / 'elsewhere/runs/first')
  assert find(folder / 'second') == typed.resolve()
