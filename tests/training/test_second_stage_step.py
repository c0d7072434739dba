"""What the training step adds for Snap: padded rows without loss, and a low-resolution input with its own noise."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import draw, normal

from vdm_jax import configuration, diffusion, models, partitioning
from vdm_jax.training import make_train_step, optimizer, state
from vdm_jax.training.step import _loss, with_low_resolution
from vdm_jax.types import Batch, Conditioning

FIT = {
  'data.num_frames': 2,
  'data.height': 8,
  'data.width': 4,
  'model.patch_size': (1, 2, 2),
  'model.group_size': (2, 2, 1),
  'model.patch_width': 8,
  'model.latent_width': 8,
  'model.condition_width': 16,
  'model.num_latents': 4,
  'model.num_blocks': 1,
  'model.num_global_layers': 1,
  'model.patch_head_width': 4,
  'model.latent_head_width': 4,
  'model.process': 'input_scaled',
  'model.parameterization': 'snap',
  'model.logsnr': 'lognormal',
  'training.self_condition_rate': 0.9,
  'training.warmup_steps': 1,
  'training.condition_drop_rate': 0.0,
}
SECOND = {'model.upsampling': 2, 'model.scalars': ('frame_interval', 'resolution', 'augmentation_logsnr')}
X = normal(4, 2, 8, 4, 3)


@functools.cache
def make(parts=1, **changes):
  """Return loss and gradient norm of one step, as a function of x."""
  config = configuration.default('fit')
  changes = {key.replace('__', '.'): value for key, value in changes.items()}
  config.update_from_flattened_dict(FIT | changes | {'training.accumulation_steps': parts})
  model, mesh = models.build(config.model), partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  step = jax.jit(make_train_step(model, rule, config.training, mesh))
  shapes = jax.eval_shape(lambda: state.create(model, rule, mesh, 0))
  start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  start = start._replace(params=draw(shapes.params))

  def run(x):
    with jax.set_mesh(mesh):
      _, measured = step(start, Batch(x, Conditioning()), jax.random.key(1))
    return float(measured['loss']), float(measured['sums']['gradient_norm'])

  return run


class Blind(NamedTuple):
  """A model whose network returns zero, so that its loss is the mean square of the target."""

  config: dict
  process: Any = diffusion.input_scaled(2.0)
  parameterization: Any = diffusion.predict_x
  upsampling: int = 1

  def network(self, params, dropout_rng=None):
    return lambda x, logsnr, cond, carry: (jnp.zeros_like(x), None)


def test_padded_rows_have_no_loss():
  training = configuration.default().training
  keys = jax.random.split(jax.random.key(0), 4)

  def losses(x, pad_rows):
    model = Blind({'height': 8, 'pad_rows': pad_rows})
    return _loss(model, training, {}, Batch(x, Conditioning()), jnp.zeros(4), keys, None)[1]['per_example']

  np.testing.assert_allclose(losses(X, 2), np.square(X[:, :, 2:-2]).mean((1, 2, 3, 4)), rtol=1e-5)
  np.testing.assert_allclose(losses(X, 0), np.square(X).mean((1, 2, 3, 4)), rtol=1e-5)


def test_the_low_resolution_input_is_the_video_with_its_own_noise_level():
  many = np.zeros((4096, 1, 2, 2, 1), np.float32)
  keys = jax.random.split(jax.random.key(3), 4096)
  cond = with_low_resolution(Batch(many, Conditioning()), 2, keys)
  time = np.arctan(np.exp(-np.asarray(cond.augmentation_logsnr) / 2)) * 2 / np.pi
  histogram, _ = np.histogram(time, bins=8, range=(0, 1))
  np.testing.assert_allclose(histogram / 512, 1, atol=0.2)  # uniform time on the cosine schedule

  logsnr = np.asarray(cond.augmentation_logsnr[:4])
  found = with_low_resolution(Batch(X, Conditioning()), 2, keys[:4])
  np.testing.assert_array_equal(found.augmentation_logsnr, logsnr)  # a function of its key, not of the batch
  blurred = diffusion.upsample(diffusion.downsample(X, 2), 2)
  eps = (np.asarray(found.low_resolution) - alpha(logsnr) * blurred) / np.sqrt(1 - alpha(logsnr) ** 2)
  assert np.std(eps) == pytest.approx(1, abs=0.1) and np.abs(eps[0] - eps[1]).max() > 1


def alpha(logsnr):
  return np.sqrt(1 / (1 + np.exp(-logsnr)))[:, None, None, None, None]


@pytest.mark.slow
def test_a_second_stage_draws_the_same_in_micro_batches():
  np.testing.assert_allclose(make(2, **SECOND)(X), make(1, **SECOND)(X), rtol=1e-4)
