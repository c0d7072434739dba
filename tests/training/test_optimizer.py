"""The optimizers against plain float64 loops over separate tensors; the schedule against its closed form."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.standin import make_config

from vdm_jax.training import optimizer

STEPS = 200
AXES = {
  'blocks': {'kernel': ('layers', 'embed', 'mlp'), 'bias': ('layers', 'mlp')},
  'out': {'kernel': ('mlp', None), 'bias': (None,)},
  'word_embedding': (None, 'embed'),
  'norm': {'scale': None},
}
SHAPES = {
  'blocks': {'kernel': (3, 4, 5), 'bias': (3, 5)},
  'out': {'kernel': (5, 2), 'bias': (2,)},
  'word_embedding': (6, 4),
  'norm': {'scale': (4,)},
}


def settings(**changes):
  return make_config(num_steps=STEPS, weight_decay=0.05, **changes).training


def is_shape(x):
  return isinstance(x, tuple)


def starting_point(rng):
  return jax.tree.map(lambda shape: rng.standard_normal(shape).astype(np.float32), SHAPES, is_leaf=is_shape)


def gradients(step):
  rng = np.random.default_rng((5, step))
  scale = 10.0 ** rng.uniform(-2, 1)  # some above the clipping norm, some below
  return jax.tree.map(
    lambda shape: (scale * (0.3 + rng.standard_normal(shape))).astype(np.float32), SHAPES, is_leaf=is_shape
  )


def unstack(tree):
  """Named separate float64 tensors: the stacked blocks one by one."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.startswith('blocks'):
      flat |= {f'{name}/{i}': np.array(layer, np.float64) for i, layer in enumerate(leaf)}
    else:
      flat[name] = np.array(leaf, np.float64)
  return flat


def reference(start, config, eps):
  """Clip, Adam, decoupled decay and, for LAMB, the trust ratio, tensor by tensor."""
  params = unstack(start)
  first = {name: np.zeros_like(p) for name, p in params.items()}
  second = {name: np.zeros_like(p) for name, p in params.items()}
  for step in range(STEPS):
    gradient = unstack(gradients(step))
    norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
    for name in params:
      g = gradient[name] * min(1.0, config.clip_norm / norm)
      first[name] = config.beta1 * first[name] + (1 - config.beta1) * g
      second[name] = config.beta2 * second[name] + (1 - config.beta2) * g**2
      mean = first[name] / (1 - config.beta1 ** (step + 1))
      square = second[name] / (1 - config.beta2 ** (step + 1))
      direction = mean / (np.sqrt(square) + eps)
      if 'kernel' in name or 'embedding' in name:
        direction = direction + config.weight_decay * params[name]
        if config.optimizer == 'lamb':
          direction = direction * np.linalg.norm(params[name]) / np.linalg.norm(direction)
      params[name] = params[name] - closed_form_rate(config, step) * direction
  return params


def closed_form_rate(config, step):
  rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
  if config.schedule == 'constant':
    return config.learning_rate * rise
  done = min(max((step - config.warmup_steps) / (config.num_steps - config.warmup_steps), 0.0), 1.0)
  return config.learning_rate * rise * (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize(('name', 'eps'), [('adam', 1e-8), ('lamb', 1e-6)])
@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
def test_200_steps_equal_a_plain_loop_over_separate_tensors(name, eps, schedule):
  config = settings(optimizer=name, schedule=schedule, warmup_steps=20)
  rule = optimizer.build(config, AXES)
  params = start = starting_point(np.random.default_rng(0))
  state = rule.init(params)

  @jax.jit
  def update(params, state, gradient, step):
    updates, state = rule.update(gradient, state, params, step)
    return jax.tree.map(jnp.add, params, updates), state

  for step in range(STEPS):
    params, state = update(params, state, gradients(step), jnp.int32(step))
  found, expected = unstack(params), reference(start, config, eps)
  for tensor in expected:
    np.testing.assert_allclose(found[tensor], expected[tensor], rtol=1e-6, atol=1e-6, err_msg=tensor)
    assert np.abs(expected[tensor] - unstack(start)[tensor]).max() > 0.1  # it did move


def test_without_axis_names_a_stack_has_one_ratio():
  """The law that the axis names are for: it fails without them."""
  config = settings(optimizer='lamb', schedule='constant', warmup_steps=1)
  params = {'kernel': jnp.stack([jnp.ones((2, 2)), 100 * jnp.ones((2, 2))])}
  gradient = {'kernel': jnp.ones((2, 2, 2))}

  def first_update(axes):
    rule = optimizer.build(config, axes)
    return rule.update(gradient, rule.init(params), params, jnp.int32(0))[0]['kernel']

  separate = first_update({'kernel': ('layers', None, None)})
  np.testing.assert_allclose(separate[:, 0, 0], [-0.01, -1.0], rtol=1e-5)  # rate times each layer's own size
  assert not np.allclose(first_update(None), separate)


@pytest.mark.parametrize('name', ['adam', 'lamb'])
def test_a_bias_that_starts_at_zero_leaves_it_at_the_rate_of_adam(name):
  """optax.lamb multiplies it by its own norm: 0 keeps it still, then it grows exponentially."""
  config = settings(optimizer=name, schedule='constant', warmup_steps=1, clip_norm=0.0)
  rule = optimizer.build(config)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
  state = rule.init(params)
  for step in range(10):
    updates, state = rule.update(jax.tree.map(jnp.ones_like, params), state, params, jnp.int32(step))
    params = jax.tree.map(jnp.add, params, updates)
  np.testing.assert_allclose(params['bias'], -10 * config.learning_rate, rtol=1e-4)


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
@pytest.mark.parametrize('warmup', [0, 1, 7])
def test_the_learning_rate_is_its_closed_form(schedule, warmup):
  config = settings(schedule=schedule, warmup_steps=warmup)
  rate = jax.jit(optimizer.build(config).learning_rate)
  found = [float(rate(step)) for step in range(STEPS + 1)]
  expected = [closed_form_rate(config, step) for step in range(STEPS + 1)]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
  assert schedule == 'constant' or found[STEPS] == 0.0


def test_decay_shrinks_kernels_and_embeddings_by_name_and_nothing_else():
  config = settings(schedule='constant', warmup_steps=1, clip_norm=0.0)
  params = {
    name: jnp.ones((2, 2))  # the biases of multi-head projections have two axes as well
    for name in ('kernel', 'bias', 'scale', 'position_embedding', 'latents', 'relative_keys', 'relative_bias')
  }
  rule = optimizer.build(config)
  updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params, jnp.int32(0))
  moved = {name for name, update in updates.items() if float(jnp.abs(update).max()) > 0}
  assert moved == {'kernel', 'position_embedding', 'latents', 'relative_keys'}
  np.testing.assert_allclose(updates['kernel'], -config.learning_rate * config.weight_decay, rtol=1e-6)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'optimizer': 'lmab'},
      "training.optimizer='lmab' is unknown: choose one of adam, lamb. Did you mean 'lamb'?",
    ),
    (
      {'schedule': 'cosin'},
      "training.schedule='cosin' is unknown: choose one of constant, cosine. Did you mean 'cosine'?",
    ),
    (
      {'schedule': 'cosine', 'warmup_steps': STEPS},
      'training.warmup_steps=200 leaves nothing of training.num_steps=200 for the cosine: '
      'shorten the warm-up or train longer.',
    ),
  ],
)
def test_settings_that_mean_nothing_are_errors(changes, message):
  with pytest.raises(ValueError) as error:
    optimizer.build(settings(**changes))
  assert str(error.value) == message


def test_the_mask_decides_what_decays():
  config = settings(schedule='constant', warmup_steps=1, clip_norm=0.0)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  rule = optimizer.build(config, None, lambda params: {'kernel': False, 'bias': True})
  updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params, jnp.int32(0))
  assert float(jnp.abs(updates['kernel']).max()) == 0
  np.testing.assert_allclose(updates['bias'], -config.learning_rate * config.weight_decay, rtol=1e-6)
