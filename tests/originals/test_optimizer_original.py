"""LAMB against pix2seq's optimizer from TensorFlow Addons; Adam and the average of weights against float64 loops."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fidelity import below, draw, load, named_leaves
from helpers.tiny_networks import make_config

from vdm_jax.training import optimizer, state

STEPS, WARMUP = 200, 20
SHAPES = {
  'blocks': {'kernel': (3, 4, 5), 'bias': (3, 5)},  # three stacked layers; in the original, separate variables
  'norm': {'scale': (4,), 'bias': (4,)},
  'out': {'kernel': (5, 2), 'bias': (2,)},
  'position_embedding': (6, 4),
  'latents': (3, 4),
}
AXES = jax.tree.map(lambda shape: (None,) * len(shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple))
AXES['blocks'] = {'kernel': ('layers', None, None), 'bias': ('layers', None)}
EMPTY = jax.tree.map(np.empty, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
LAMB = 'google-research/pix2seq, build_optimizer (tensorflow-addons 0.23.0, LAMB)'
RATE = 'google-research/pix2seq, WarmUpAndDecay'


@functools.cache
def gradients(step):
  """Return 0.3 plus normal noise, times a factor from 0.01 to 10."""
  random, size = np.random.RandomState(1000 + step), 10.0 ** (-2 + 3 * (37 * step % 100) / 100)
  noise = {name: random.standard_normal(leaf.shape).astype(np.float32) for name, leaf in named_leaves(EMPTY).items()}

  def leaf(path, _):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return (size * (0.3 + np.float64(noise[name]))).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, EMPTY)


def build(**changes):
  """Return the optimizer and a jitted update `(params, state, gradients, step) -> (params, state)`."""
  settings = {'warmup_steps': WARMUP, 'num_steps': STEPS, 'learning_rate': 0.01, 'weight_decay': 0.05, 'beta2': 0.99}
  training = make_config(**{f'training__{key}': value for key, value in (settings | changes).items()}).training
  rule = optimizer.build(training, AXES)

  @jax.jit
  def update(params, opt_state, gradient, step):
    updates, opt_state = rule.update(gradient, opt_state, params, step)
    return jax.tree.map(jnp.add, params, updates), opt_state

  return rule, update


def step_of(original):
  """Return our step with the original's rate at this step: its warm-up starts at 0, ours is one step ahead."""
  return jnp.int32(original - 1 if original < WARMUP else original)


def test_200_steps_of_lamb_equal_pix2seq(agrees):
  rule, update = build(optimizer='lamb', schedule='cosine', clip_norm=0.0)
  found = [rule.learning_rate(step_of(step)) for step in range(STEPS)]
  quantity = 'rate of each step, in the warm-up of the one before'
  agrees(found, load('lamb.npz')['rates'], 1e-6, 'cosine schedule', RATE, quantity)
  params = draw(EMPTY, 0)
  opt_state = rule.init(params)
  for step in range(STEPS):
    params, opt_state = update(params, opt_state, gradients(step), step_of(step))
    if step + 1 in (2, 20, 200):
      for name, expected in below(load('lamb.npz'), f'{step + 1}/').items():
        found = named_leaves(params)[name]
        agrees(found, expected, 2e-6, 'LAMB', LAMB, f'each parameter after {step + 1} steps')


@pytest.mark.parametrize('warmup', [False, True])
def test_200_steps_of_adam_and_their_average_equal_a_float64_loop(warmup, agrees):
  rule, update = build(optimizer='adam', schedule='constant', clip_norm=1.0)
  params = average = draw(EMPTY, 0)
  opt_state = rule.init(params)
  averaged = jax.jit(functools.partial(state.update_ema, decay=0.99, warmup=warmup))
  for step in range(STEPS):
    params, opt_state = update(params, opt_state, gradients(step), jnp.int32(step))
    average = averaged(average, params, jnp.int32(step))

  p = {name: np.float64(leaf) for name, leaf in named_leaves(draw(EMPTY, 0)).items()}
  first, second, mean = ({name: 0.0 for name in p} for _ in range(3))
  for n in range(STEPS):
    g = {name: np.float64(leaf) for name, leaf in named_leaves(gradients(n)).items()}
    clip = min(1.0, 1 / math.sqrt(sum(np.square(leaf).sum() for leaf in g.values())))
    decay = min(0.99, (1 + n) / (10 + n)) if warmup else 0.99
    for name in p:
      first[name] = 0.9 * first[name] + 0.1 * clip * g[name]
      second[name] = 0.99 * second[name] + 0.01 * np.square(clip * g[name])
      change = first[name] / (1 - 0.9 ** (n + 1)) / (np.sqrt(second[name] / (1 - 0.99 ** (n + 1))) + 1e-8)
      if name.split('/')[-1] not in ('bias', 'scale'):
        change = change + 0.05 * p[name]
      p[name] = p[name] - 0.01 * min(1, (n + 1) / WARMUP) * change
      mean[name] = p[name] if n == 0 else decay * mean[name] + (1 - decay) * p[name]
  for name, expected in p.items():
    agrees(named_leaves(params)[name], expected, 2e-6, 'Adam', 'float64 loop', 'each parameter after 200 steps')
    what = f'exponential average{", decay warmed up" if warmup else ""}'
    agrees(named_leaves(average)[name], mean[name], 2e-6, what, 'float64 loop', 'each parameter after 200 steps')
