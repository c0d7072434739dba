"""Every network trains with every process and parameterization, and samples with every step.

The parts have tests of their own; these check that any combination works.
"""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest
from helpers.tiny_networks import WORDS
from helpers.tiny_networks import make_config as make_unet_config

from vdm_jax import configuration, models, partitioning
from vdm_jax.generation.sampler import make_sampler
from vdm_jax.training import make_train_step, optimizer, state
from vdm_jax.types import Batch, Conditioning

FRAMES, SIZE = 2, 8
FIT = {
  'data.num_frames': FRAMES,
  'data.height': SIZE,
  'data.width': SIZE,
  'data.text_length': 3,
  'model.patch_size': (1, 4, 4),
  'model.group_size': (2, 1, 2),
  'model.patch_width': 16,
  'model.latent_width': 16,
  'model.condition_width': 16,
  'model.num_latents': 4,
  'model.num_blocks': 2,
  'model.num_global_layers': 1,
  'model.patch_head_width': 8,
  'model.latent_head_width': 8,
  'training.self_condition_rate': 0.9,
  'training.optimizer': 'lamb',
}
PAIRS = (
  ('variance_preserving', 'eps'),
  ('variance_preserving', 'v'),
  ('input_scaled', 'snap'),
  ('input_scaled', 'edm'),
)
COMBINED_STEPS = {
  'ancestral': {'step': 'ancestral', 'gamma': 0.3},
  'ddim': {'step': 'ddim'},
  'heun': {'step': 'heun', 'churn': 0.1},
  'dpm_solver': {'step': 'dpm_solver'},
  'langevin': {'step': 'ancestral', 'langevin_delta': 0.1},
}


def make_config(network, process, parameterization):
  scaled = process == 'input_scaled'
  changes = {
    'data.text': 'words',
    'data.vocabulary': WORDS,
    'data.batch_size': 4,
    'model.process': process,
    'model.parameterization': parameterization,
    'model.sigma_in': 2.0 if scaled else 1.0,
    'model.logsnr': 'lognormal' if scaled else 'cosine',
    'training.warmup_steps': 1,
    'training.learning_rate': 1e-2,
    'sampling.num_steps': 4,
    'sampling.grid': 'karras' if scaled else 'cosine',
    'sampling.guidance_weight': 1.0,
  }
  if network == 'unet3d':
    unet = {'channel_multipliers': (1,), 'attention_resolutions': (8,), 'num_frames': FRAMES}
    config = make_unet_config(**{f'model__{key}': value for key, value in unet.items()})
    config.data.num_frames = FRAMES
  else:
    config = configuration.default('fit')
    changes |= FIT
  config.update_from_flattened_dict(changes)
  return config


@functools.cache
def trained(network, process, parameterization):
  """Return the configuration, its model, its parameters before and after two steps of training, and both losses."""
  config = make_config(network, process, parameterization)
  model, mesh = models.build(config.model), partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  current = state.create(model, rule, mesh, seed=0)
  step = jax.jit(make_train_step(model, rule, config.training, mesh))
  cond = model.condition(['two left', 'three right', 'two', 'three'], count=4, frame_rate=8.0, original_size=(8, 8))
  x = np.random.default_rng(0).uniform(-1, 1, (4, FRAMES, SIZE, SIZE, 3)).astype(np.float32)
  before, losses = jax.device_get(current.params), []
  with jax.set_mesh(mesh):
    for _ in range(2):
      current, measured = step(current, Batch(x, cond), jax.random.key(1))
      losses.append(float(measured['loss']))
  assert int(current.updates) == 2, 'a step with a non-finite loss or gradient was skipped'
  return config, model, before, jax.device_get(current.params), losses


def combinations():
  """All combinations; those that are not slow hold each network together with each step and with each pair."""
  for (i, network), (j, pair), (k, step) in itertools.product(
    *map(enumerate, (models.NETWORKS, PAIRS, COMBINED_STEPS))
  ):
    chosen = j == (i + k) % len(PAIRS)
    yield pytest.param(network, *pair, step, marks=[] if chosen else pytest.mark.slow)


@pytest.mark.parametrize(('network', 'process', 'parameterization', 'step'), list(combinations()))
def test_any_with_any(network, process, parameterization, step):
  config, model, before, params, losses = trained(network, process, parameterization)
  assert np.isfinite(losses).all()
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, params)
  assert max(jax.tree.leaves(moved)) > 1e-3

  sampling = config.sampling.copy_and_resolve_references()
  sampling.update(COMBINED_STEPS[step])
  sampler = jax.jit(make_sampler(model, sampling))
  cond = model.condition(['two left', 'three right'], frame_rate=8.0, original_size=(8, 8))
  keys = jax.random.split(jax.random.key(2), 2)
  videos = np.asarray(sampler(params, keys, cond))
  assert np.isfinite(videos).all() and np.abs(videos).max() <= 1
  # Each video depends on its own key and caption only.
  swapped = jax.tree.map(lambda leaf: leaf[::-1], cond)
  np.testing.assert_allclose(np.asarray(sampler(params, keys[::-1], swapped))[::-1], videos, atol=2e-3)
  assert np.abs(np.asarray(sampler(params, keys[::-1], cond)) - videos).max() > 1e-2


def test_fit_takes_no_appended_images():
  """Its groups would mix them with the video."""
  _, model, _, params, _ = trained('fit', 'input_scaled', 'snap')
  x = np.zeros((1, FRAMES + 1, SIZE, SIZE, 3), np.float32)
  with pytest.raises(ValueError, match='1 appended images.*FIT'):
    model.network(params)(x, np.zeros(1, np.float32), Conditioning(drop=np.zeros((1, 2), bool)), None)
