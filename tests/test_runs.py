"""Opening trained models: workdirs, exported weights and models of the package, each resolved once."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import vdm_jax
from vdm_jax import checkpoints, configuration, models, pretrained, weights
from vdm_jax.checkpoints import Checkpointer
from vdm_jax.names import RENAMED_SETTINGS
from vdm_jax.runs import Run


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A workdir as training leaves it, of a real but tiny model with random parameters."""
  workdir = tmp_path_factory.mktemp('trained')
  config = configuration.default()
  config.data.update(num_frames=2, height=8, width=8, channels=1)
  config.model.update(
    base_channels=8,
    channel_multipliers=(1,),
    num_blocks=1,
    attention_resolutions=(),
    head_width=8,
    embedding_width=8,
    embedding_layers=1,
    norm_groups=2,
  )
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  params = jax.jit(models.build(config.model.to_dict()).init)(jax.random.key(5))
  ema = jax.tree.map(lambda x: x + 1, params)
  with Checkpointer(workdir, 1) as checkpointer:
    checkpointer.save(12, {'params': params, 'ema': ema})
  return workdir, ema


def test_a_workdir_is_loaded_with_its_ema(trained):
  workdir, ema = trained
  run = Run(workdir)
  model, params = run.load()
  assert model.video_shape == (2, 8, 8, 1) and run.step == 12
  assert_same(params, ema)


@pytest.fixture(scope='module')
def checkpointed(trained, tmp_path_factory):
  """The run with checkpoints of steps 12 and 20; at 20 the parameters are 3 higher."""
  workdir, ema = trained
  copy = shutil.copytree(workdir, tmp_path_factory.mktemp('checkpointed') / 'run')
  later = {'params': jax.tree.map(lambda x: x + 2, ema), 'ema': jax.tree.map(lambda x: x + 3, ema)}
  with Checkpointer(copy, 2) as checkpointer:
    checkpointer.save(20, later)
  return copy, ema


@pytest.mark.parametrize(
  ('checkpoint', 'weights', 'above'),
  [(12, None, 0), (20, 'ema', 3), (None, None, 3), (12, 'raw', -1), (None, 'raw', 2)],
)
def test_any_checkpoint_and_kind_of_weights(checkpointed, checkpoint, weights, above, tmp_path):
  workdir, ema = checkpointed
  run = Run(workdir, checkpoint=checkpoint, weights=weights)
  expected = jax.tree.map(lambda x: x + above, ema)
  close = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(close, run.load()[1], expected)
  assert run.step == (checkpoint or 20) and run.weights == (weights or 'ema')
  vdm_jax.export_weights(workdir, tmp_path / 'file', checkpoint=checkpoint, weights=weights)
  jax.tree.map(close, vdm_jax.load(tmp_path / 'file')[1], expected)
  assert Run(tmp_path / 'file').identity | {'hash': ''} == run.identity | {'hash': ''}
  assert Run(tmp_path / 'file').original_hash == run.original_hash == run.identity['hash']


def test_identities_are_those_of_the_parameters(checkpointed, tmp_path):
  workdir, _ = checkpointed
  choices = [{}, {'checkpoint': 12}, {'weights': 'raw'}]
  found = [Run(workdir, **choice).identity for choice in choices]
  assert found[0] == Run(workdir, checkpoint=20, weights='ema').identity
  assert found[0] == Run(shutil.copytree(workdir, tmp_path / 'copy')).identity
  assert len({json.dumps(one) for one in found}) == 3


def test_checkpoints_that_are_not_there_are_refused(checkpointed, tmp_path):
  workdir, _ = checkpointed
  with pytest.raises(FileNotFoundError, match='no checkpoint of step 7: it has 12, 20'):
    _ = Run(workdir, checkpoint=7).step
  with pytest.raises(ValueError, match="weights='mean' is unknown: choose one of ema, raw"):
    Run(workdir, weights='mean')
  vdm_jax.export_weights(workdir, tmp_path / 'raw', weights='raw')
  with pytest.raises(ValueError, match='raw holds the raw weights alone, not the ema ones'):
    vdm_jax.load(tmp_path / 'raw', weights='ema')
  with pytest.raises(FileNotFoundError, match='raw has no checkpoint of step 12: .* step 20 alone'):
    vdm_jax.load(tmp_path / 'raw', checkpoint=12)
  copy = shutil.copytree(workdir, tmp_path / 'copy')
  (copy / 'checkpoints/12/manifest.json').write_text('{')
  with pytest.raises(ValueError, match='checkpoints/12 is damaged: .* Other steps: 20'):
    _ = Run(copy, checkpoint=12).step


def test_exported_weights_are_the_same_model_in_one_file(trained, tmp_path):
  workdir, ema = trained
  path = tmp_path / 'weights.safetensors'
  vdm_jax.export_weights(workdir, path)
  assert [f.name for f in tmp_path.iterdir()] == ['weights.safetensors']
  model, params = vdm_jax.load(path)
  assert_same(params, ema)
  assert model.config == vdm_jax.load(workdir)[0].config
  assert Run(path).config == Run(workdir).config and Run(path).step == 12
  names = safetensors.numpy.load_file(path)
  assert 'stem/kernel' in names and len(names) == len(jax.tree.leaves(ema))


def test_weights_of_another_model_are_rejected_with_a_list(trained, tmp_path):
  workdir, _ = trained
  path, other = tmp_path / 'weights.safetensors', tmp_path / 'other.safetensors'
  vdm_jax.export_weights(workdir, path)
  tensors = safetensors.numpy.load_file(path)
  tensors['stem/bias'] = np.zeros(3, np.float32)
  weights.write(other, tensors, Run(path).config, 12, 'float32')
  with pytest.raises(ValueError, match=r'\n  stem/bias: float32\[3\] saved, float32\[8\] expected\n'):
    vdm_jax.load(other)


def test_paths_without_a_run_are_named(tmp_path):
  for path in (tmp_path, tmp_path / 'absent'):
    with pytest.raises(FileNotFoundError, match=f'{path} has no config.json'):
      vdm_jax.load(path)
  foreign = tmp_path / 'foreign.safetensors'
  safetensors.numpy.save_file({'a': np.zeros(1)}, foreign)
  with pytest.raises(ValueError, match=f'{foreign} has no configuration'):
    vdm_jax.load(foreign)


def test_a_run_without_a_checkpoint_is_named(trained, tmp_path):
  shutil.copy(trained[0] / 'config.json', tmp_path)
  assert Run(tmp_path).config == Run(trained[0]).config
  with pytest.raises(FileNotFoundError, match=f'{tmp_path}/checkpoints holds no checkpoint'):
    vdm_jax.load(tmp_path)


def test_a_run_exists_where_there_is_a_configuration(trained, tmp_path):
  workdir = trained[0]
  assert Run(workdir).exists and Run(str(workdir)).exists and Run('pretrained:digits').exists
  vdm_jax.export_weights(workdir, tmp_path / 'ema.safetensors')
  assert Run(tmp_path / 'ema.safetensors').exists
  for other in (tmp_path, tmp_path / 'absent', workdir / 'config.json', workdir.parent):
    assert not Run(other).exists
  (tmp_path / 'config.json').mkdir()
  assert not Run(tmp_path).exists


def test_everything_about_a_run_is_resolved_once(trained, tmp_path, monkeypatch):
  calls = []

  def count(module, name):
    function = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *inputs: (calls.append(name), function(*inputs))[1])

  count(pretrained, 'path_of')
  count(weights, 'read_metadata')
  count(configuration, 'complete')
  count(checkpoints, 'newest_good_step')
  run = Run(trained[0])
  for _ in range(3):
    run.load(), run.step, run.config
  assert sorted(calls) == ['complete', 'newest_good_step', 'path_of']
  calls.clear()
  run.export_weights(file := tmp_path / 'ema.safetensors')
  assert not calls
  run = Run(file)
  for _ in range(3):
    run.load(), run.step, run.config
  assert sorted(calls) == ['complete', 'path_of', 'read_metadata']


def test_former_keys_are_read_from_runs_and_weights(trained, tmp_path):
  """`names.RENAMED_SETTINGS`: as old runs' config.json and old weights' metadata have them."""
  config = json.loads((trained[0] / 'config.json').read_text())
  expected = json.loads(json.dumps(config))
  for number, (former, current) in enumerate(RENAMED_SETTINGS.items()):
    (section, old), (target, new) = former.split('.'), current.split('.')
    expected[target][new] = config[section][old] = type(config[target].pop(new))(number + 0.25)
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert Run(tmp_path).config == configuration.from_dict(config).to_dict() | expected
  file = tmp_path / 'old.safetensors'
  tensors = {name: np.asarray(leaf) for name, leaf in checkpoints.named(trained[1]).items()}
  weights.write(file, tensors, config, 12, 'float32')
  assert Run(file).config == expected
  assert_same(vdm_jax.load(file)[1], trained[1])


def test_a_path_object_and_a_string_name_the_same_run(trained):
  assert Run(Path(trained[0])).name == Run(str(trained[0])).name == str(trained[0])
