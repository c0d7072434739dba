"""LAMB on FIT's parameters: layers under two scans are separate tensors, and nothing stays at zero."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.standin import make_config
from helpers.tiny_networks import normal

from vdm_jax.networks import FIT
from vdm_jax.training import optimizer
from vdm_jax.types import Conditioning

STEPS, RATE = 20, 0.01
BLOCKS, LAYERS = 2, 3
NETWORK = FIT(
  num_frames=2,
  height=4,
  width=8,
  patch_size=(1, 2, 2),
  group_size=(2, 2, 2),
  patch_width=8,
  latent_width=12,
  condition_width=16,
  num_latents=4,
  num_blocks=BLOCKS,
  num_global_layers=LAYERS,
  patch_head_width=4,
  latent_head_width=6,
  scalars=(),
)
INPUTS = normal(2, 2, 4, 8, 3), np.array([-1.0, 2.0], np.float32), Conditioning()
CARRY = normal(2, 4, 12, seed=1)


def boxed(rng):
  return NETWORK.init(rng, *INPUTS)['params']


@functools.cache
def start():
  return nn.unbox(jax.jit(boxed)(jax.random.key(0)))


def rule(**changes):
  settings = {'optimizer': 'lamb', 'schedule': 'constant', 'warmup_steps': 1, 'learning_rate': RATE}
  axes = nn.get_partition_spec(jax.eval_shape(boxed, jax.random.key(0)))
  return optimizer.build(make_config(**settings | changes).training, axes)


def gradients(step):
  """Return fixed noise of varying size: some above the clipping norm, some below."""
  leaves, structure = jax.tree.flatten(start())
  rng = np.random.default_rng((7, step))
  scale = 10.0 ** rng.uniform(-3, 1)
  return structure.unflatten([(scale * (0.3 + rng.standard_normal(leaf.shape))).astype(np.float32) for leaf in leaves])


def separate(tree):
  """Return every tensor of every layer separately, by name, in float64."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    stack = (BLOCKS, LAYERS)[: name.startswith('blocks/') + name.startswith('blocks/global_layers/')]
    assert leaf.shape[: len(stack)] == stack
    flat |= {f'{name}{list(index)}': np.array(leaf[index], np.float64) for index in np.ndindex(stack)}
  return flat


def kind(name):
  return name.split('[')[0].split('/')[-1].split('_')[-1]


@functools.cache
def first_update():
  """Return gradient and update by tensor, without clipping or decay."""
  built = rule(clip_norm=0.0, weight_decay=0.0)
  updates, _ = jax.jit(built.update)(gradients(0), built.init(start()), start(), jnp.int32(0))
  return separate(gradients(0)), separate(updates)


def test_steps_equal_a_plain_loop_over_separate_layers():
  config = make_config(weight_decay=0.05).training
  built = rule(weight_decay=config.weight_decay)
  params, state = start(), built.init(start())
  update = jax.jit(built.update)
  for step in range(STEPS):
    updates, state = update(gradients(step), state, params, jnp.int32(step))
    params = jax.tree.map(np.add, params, updates)

  expected = separate(start())
  first, second = ({name: 0.0 for name in expected} for _ in range(2))
  for step in range(STEPS):
    gradient = separate(gradients(step))
    norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
    for name, value in expected.items():
      g = gradient[name] * min(1.0, config.clip_norm / norm)
      first[name] = config.beta1 * first[name] + (1 - config.beta1) * g
      second[name] = config.beta2 * second[name] + (1 - config.beta2) * g**2
      mean, square = first[name] / (1 - config.beta1 ** (step + 1)), second[name] / (1 - config.beta2 ** (step + 1))
      direction = mean / (np.sqrt(square) + 1e-6)
      if kind(name) in ('kernel', 'embedding', 'latents'):
        direction += config.weight_decay * value
        direction *= np.linalg.norm(value) / np.linalg.norm(direction)
      expected[name] = value - RATE * direction
  for name, value in separate(params).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_biases_and_norms_move_by_the_learning_rate_and_matrices_in_proportion_to_their_norm():
  gradient, update = first_update()
  for name, before in separate(start()).items():
    if kind(name) in ('bias', 'scale'):
      np.testing.assert_allclose(update[name], -RATE * np.sign(gradient[name]), rtol=0.05, err_msg=name)
    else:
      assert np.linalg.norm(update[name]) == pytest.approx(RATE * np.linalg.norm(before), rel=1e-4), name
  zero = {name for name, before in separate(start()).items() if not before.any()}
  assert zero == {name for name in update if kind(name) == 'bias'} | {'self_condition_norm/scale[]'}


def test_the_norm_of_self_conditioning_leaves_zero():
  """At initialization nothing depends on the carry, yet the loss has a gradient for every channel of LN0."""
  params, target = start(), INPUTS[0]

  def loss(norm):
    out, _ = NETWORK.apply({'params': params | {'self_condition_norm': norm}}, *INPUTS, CARRY)
    return jnp.square(out - target).mean()

  before = params['self_condition_norm']
  gradient = jax.jit(jax.grad(loss))(before)
  built = optimizer.build(
    make_config(optimizer='lamb', schedule='constant', warmup_steps=1, learning_rate=RATE, clip_norm=0.0).training
  )
  after, _ = built.update(gradient, built.init(before), before, jnp.int32(0))
  for name in ('scale', 'bias'):
    assert not before[name].any()
    np.testing.assert_allclose(after[name], -RATE * np.sign(gradient[name]), rtol=0.05)
    assert (np.abs(gradient[name]) > 0).all()
