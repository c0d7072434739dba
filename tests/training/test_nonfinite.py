"""A run that ends because its steps are not finite leaves a bundle, from which the last is repeated bit for bit."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import linen as nn
from helpers import standin

from vdm_jax import checkpoints, partitioning
from vdm_jax.training import nonfinite, optimizer, replay, state, train

STEP = 14


def poisoned(start):
  for k, batch in enumerate(standin.batches(start), start):
    if k >= 4:
      batch.x[5, 1] = np.nan
    yield batch


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
  """The bundle of a run that ended, with its configuration, model and mesh."""
  workdir = tmp_path_factory.mktemp('ended')
  config, mesh = standin.make_config(num_steps=30, schedule='constant'), partitioning.make_mesh({'data': -1})
  model = standin.make_model(config)
  with pytest.raises(FloatingPointError):
    train(model, config, workdir, mesh=mesh, batches=poisoned)
  return workdir / 'nonfinite' / f'step_{STEP:08d}', config, model, mesh


def test_the_bundle_has_the_step_and_names_the_first_non_finite_part(ended):
  folder, config, _, _ = ended
  report = json.loads((folder / 'report.json').read_text())
  assert report['step'] == STEP and report['seed'] == 3 and report['elements'] == [8 * 13, 8 * 14]
  assert report['found'][:2] == ['batch: x', 'loss of 1 of 8 examples: 5']
  assert report['found'][2].startswith('gradient: enter/bias, enter/kernel')
  assert json.loads((folder / 'config.json').read_text()) == config.to_dict()
  batch = standin.make_batch(STEP - 1)
  batch.x[5, 1] = np.nan
  stored = safetensors.numpy.load_file(folder / 'batch.safetensors')
  np.testing.assert_array_equal(stored['x'], batch.x)
  np.testing.assert_array_equal(stored['cond/label'], batch.cond.label)
  assert checkpoints.steps(folder) == [STEP - 1]


def test_a_repeated_step_has_the_same_bits(ended):
  done = replay(*ended)
  assert done.step == STEP and done.same
  assert np.flatnonzero(np.isnan(done.measured['per_example'])).tolist() == [5]
  assert done.found[0] == 'batch: x'


def test_a_run_begun_anew_with_other_settings_leaves_its_own_bundle(ended, tmp_path):
  """It ends at the same step of the same workdir."""
  folder, config, model, mesh = ended
  workdir = tmp_path / 'run'
  shutil.copytree(folder, workdir / 'nonfinite' / folder.name)
  changed = config.copy_and_resolve_references()
  changed.seed = 4
  with pytest.raises(FloatingPointError):
    train(model, changed, workdir, mesh=mesh, batches=poisoned)
  seeds = {
    path.name: json.loads((path / 'report.json').read_text())['seed'] for path in (workdir / 'nonfinite').iterdir()
  }
  assert seeds == {folder.name: 4, f'{folder.name}-0': 3}


def test_a_step_repeated_with_changes_has_other_bits(ended, tmp_path):
  folder, config, model, mesh = ended
  changed = config.copy_and_resolve_references()
  changed.seed = 4
  assert not replay(folder, changed, model, mesh).same


def test_the_bundle_has_the_state_before_the_step(ended):
  """Two more steps were dispatched before the run ended: they changed nothing."""
  folder, config, model, mesh = ended
  layout = state.abstract(model, optimizer.build(config.training, model.logical_axes, model.decay_mask), mesh)
  with checkpoints.Checkpointer(folder, 1) as checkpointer:
    kept = checkpointer.restore(layout)
  good = standin.make_config(num_steps=4, schedule='constant')
  before = train(model, good, folder.parent / 'good', mesh=mesh, batches=standin.batches)
  jax.tree.map(np.testing.assert_array_equal, kept.params, before.params)
  jax.tree.map(np.testing.assert_array_equal, kept.opt_state, before.opt_state)
  assert (int(kept.step), int(kept.updates), int(kept.skipped_in_a_row)) == (STEP - 1, 4, 9)


def test_a_folder_that_is_not_a_bundle_is_named(ended, tmp_path):
  with pytest.raises(FileNotFoundError, match=f'{tmp_path} has no batch.safetensors'):
    replay(tmp_path, *ended[1:])


class Layer(nn.Module):
  @nn.compact
  def __call__(self, h, _):
    return nn.tanh(nn.Dense(8, name='mix')(h)) * nn.Dense(8, name='gate')(h), None


class Stack(nn.Module):
  """Layers between two others, scanned and rematerialized as FIT's are."""

  @nn.compact
  def __call__(self, x):
    layers = nn.scan(nn.remat(Layer), variable_axes={'params': 0}, split_rngs={'params': True}, length=3)
    h, _ = layers(name='layers')(nn.Dense(8, name='enter')(x.reshape(len(x), -1)), None)
    return nn.Dense(x[0].size, name='leave')(h).reshape(x.shape)


class Stacked(standin.Standin):
  def init(self, rng):
    return Stack().init(rng, jnp.zeros((1, *standin.SHAPE)))['params']

  @property
  def logical_axes(self):
    return jax.tree.map(lambda leaf: None, jax.eval_shape(self.init, jax.random.key(0)))

  def network(self, params, dropout_rng=None):
    return lambda x, logsnr, cond, carry: (Stack().apply({'params': params}, x), carry)


def test_the_first_non_finite_layer_is_named():
  """A kernel overflows in the second of three layers: everything after it is not finite, and nothing before."""
  config = standin.make_config()
  model, mesh = Stacked(config.model.to_dict()), partitioning.make_mesh({'data': -1})
  params = model.init(jax.random.key(0))
  gate = params['layers']['gate']['kernel']
  params['layers']['gate']['kernel'] = gate.at[1].set(3e38)
  shapes = jax.eval_shape(lambda: state.create(model, optimizer.build(config.training, None), mesh, 0))
  current = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)._replace(params=params)
  with jax.set_mesh(mesh):
    found = nonfinite.diagnose(model, config.training, mesh, current, standin.make_batch(0), jax.random.key(0))
  assert found[0] == 'output of layer layers/gate'
  assert found[1] == 'loss of 8 of 8 examples: 0, 1, 2, 3, 4 and 3 more'


@pytest.mark.parametrize(
  'part', ['params', *(pytest.param(part, marks=pytest.mark.slow) for part in ('opt_state', 'ema'))]
)
def test_a_damaged_state_ends_the_run_at_once_and_is_not_saved(tmp_path, part):
  """The next start resumes from the checkpoint before, and ends like an undisturbed run."""
  mesh = partitioning.make_mesh({'data': -1})

  def damaged(current):
    leaves, tree = jax.tree.flatten(getattr(current, part))
    largest = max(range(len(leaves)), key=lambda i: leaves[i].size)
    leaves[largest] = leaves[largest].at[(0,) * leaves[largest].ndim].set(jnp.nan)
    return current._replace(**{part: jax.tree.unflatten(tree, leaves)})

  def run(steps, workdir):
    config = standin.make_config(num_steps=steps, schedule='constant')
    return train(standin.make_model(config), config, workdir, mesh=mesh, batches=standin.batches)

  good = run(4, tmp_path / 'run')
  with checkpoints.Checkpointer(tmp_path / 'run', 2) as checkpointer:
    checkpointer.save(5, damaged(good)._replace(step=jnp.int32(5)))
  with pytest.raises(nonfinite.Damaged) as error:
    run(12, tmp_path / 'run')
  assert str(error.value).startswith(f'step 6 was not finite because of state: {part}/')
  assert checkpoints.steps(tmp_path / 'run') == [4, 5]
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '5')
  jax.tree.map(np.testing.assert_array_equal, run(12, tmp_path / 'run'), run(12, tmp_path / 'whole'))
