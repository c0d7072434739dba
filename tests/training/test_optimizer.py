"""Adam and LAMB against plain float64 loops over separate tensors; optimizers of optax by name and as arguments."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.standin import make_config

from vdm_jax import configuration
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
  """Return separate float64 tensors by name, the stacked blocks one by one."""
  flat = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.startswith('blocks'):
      flat |= {f'{name}/{i}': np.array(layer, np.float64) for i, layer in enumerate(leaf)}
    else:
      flat[name] = np.array(leaf, np.float64)
  return flat


def reference(start, config, eps):
  """Clipping, Adam, decoupled decay and, for LAMB, the trust ratio, tensor by tensor."""
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
  """So the names are needed."""
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
  """`optax.lamb` multiplies it by its norm: it stays at 0, or grows exponentially."""
  config = settings(optimizer=name, schedule='constant', warmup_steps=1, clip_norm=0.0)
  rule = optimizer.build(config)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
  state = rule.init(params)
  for step in range(10):
    updates, state = rule.update(jax.tree.map(jnp.ones_like, params), state, params, jnp.int32(step))
    params = jax.tree.map(jnp.add, params, updates)
  np.testing.assert_allclose(params['bias'], -10 * config.learning_rate, rtol=1e-4)


def test_only_kernels_and_embeddings_decay_by_name():
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


OPTAX = {'weight_decay': 0.0, 'schedule': 'constant', 'warmup_steps': 1, 'clip_norm': 0.0}


@pytest.mark.parametrize('name', sorted(optimizer.optax_optimizers()))
def test_every_optimizer_of_optax_takes_steps_at_the_rate_of_the_step(name):
  """With one compiled program for all learning rates, and a state whose structure does not change."""
  config = make_config(optimizer=name, **OPTAX | {'schedule': 'cosine', 'warmup_steps': 2}).training
  rule = optimizer.build(config)
  params = {'layer': {'kernel': jnp.ones((4, 6)), 'bias': jnp.ones(6)}}
  state = jax.jit(rule.init)(params)
  update = jax.jit(rule.update)
  for step in range(2):
    updates, after = update(jax.tree.map(lambda x: 0.1 * x, params), state, params, jnp.int32(step))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
      assert (new.shape, new.dtype) == (old.shape, old.dtype)
    params, state = jax.tree.map(jnp.add, params, updates), after
  assert np.asarray(updates['layer']['kernel']).any() and np.isfinite(updates['layer']['kernel']).all()
  # At the end of the cosine the learning rate is zero.
  moving = {
    'cocob',
    'dadapt_adamw',
    'dog',
    'dowg',
    'lars',
    'madgrad',
  }  # set their own step size, or average the scaled gradients
  updates, _ = update(jax.tree.map(lambda x: 0.1 * x, params), state, params, jnp.int32(config.num_steps))
  assert name in moving or all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(updates))
  assert update._cache_size() == 1


def test_names_that_a_training_step_cannot_drive_are_unknown():
  with pytest.raises(ValueError, match="training.optimizer='lbfgs' is unknown"):
    optimizer.build(make_config(optimizer='lbfgs', **OPTAX).training)


def first_update(config, params, gradient, step=0, **arguments):
  rule = optimizer.build(config, **arguments)
  return rule.update(gradient, rule.init(params), params, jnp.int32(step))[0]


def test_options_reach_the_optimizer_and_decay_skips_biases():
  config = make_config(optimizer='adamw', **OPTAX).training
  config.optimizer_options = {'weight_decay': 0.5}
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  updates = first_update(config, params, jax.tree.map(jnp.zeros_like, params))
  np.testing.assert_allclose(updates['kernel'], -config.learning_rate * 0.5)
  np.testing.assert_array_equal(updates['bias'], 0)


def test_options_survive_the_configuration_of_a_run():
  config = configuration.default()
  config.training.update(optimizer='sgd', optimizer_options={'momentum': 0.9, 'nesterov': True})
  found = configuration.from_dict(json.loads(json.dumps(config.to_dict())))
  configuration.validate(found)
  assert found.training.optimizer_options.to_dict() == {'momentum': 0.9, 'nesterov': True}
  optimizer.build(found.training)
  found.training.optimizer_options.momentum = 0.5  # open, though the configuration is locked
  with pytest.raises(AttributeError):
    found.training.momentum = 0.5
  assert 'training.optimizer_options' in configuration.unknown_key('config.training.optimizer_options.momentum')


def test_eps_is_an_option_of_adam_and_lamb():
  params = {'bias': jnp.ones(2)}
  for name in ('adam', 'lamb'):
    config = make_config(optimizer=name, **OPTAX).training
    config.optimizer_options = {'eps': 1.0}
    updates = first_update(config, params, params)
    np.testing.assert_allclose(updates['bias'], -config.learning_rate / 2, rtol=1e-6)


def test_the_gradient_is_clipped_before_any_optimizer():
  config = make_config(optimizer='sgd', **OPTAX | {'clip_norm': 0.5}).training
  updates = first_update(config, {'bias': jnp.zeros(2)}, {'bias': jnp.array([3.0, 4.0])})
  np.testing.assert_allclose(updates['bias'], -config.learning_rate * np.array([0.3, 0.4]), rtol=1e-6)


DEFAULTS = {'weight_decay': 0.0, 'learning_rate': 3e-4, 'warmup_steps': 1_000, 'clip_norm': 0.0}


def test_a_function_of_the_learning_rate_follows_the_schedule_at_the_step():
  config = make_config(optimizer='custom', **OPTAX | {'warmup_steps': 10}).training
  params = {'bias': jnp.ones(2)}
  updates = first_update(config, params, params, step=3, optimizer=optax.sgd)
  np.testing.assert_allclose(updates['bias'], -0.4 * config.learning_rate, rtol=1e-6)
  custom = make_config(optimizer='custom', schedule='custom', **DEFAULTS).training
  updates = first_update(custom, params, params, step=3, optimizer=optax.sgd, schedule=lambda step: 0.1 * step)
  np.testing.assert_allclose(updates['bias'], -0.3, rtol=1e-6)


def test_a_gradient_transformation_is_applied_unchanged():
  config = make_config(optimizer='custom', schedule='custom', **DEFAULTS).training
  params = {'bias': jnp.ones(2)}
  updates = first_update(config, params, params, optimizer=optax.sgd(0.25))
  np.testing.assert_allclose(updates['bias'], -0.25)
  assert np.isnan(optimizer.build(config, optimizer=optax.sgd(0.25)).learning_rate(0))


@pytest.mark.parametrize(
  ('changes', 'arguments', 'message'),
  [
    ({'optimizer': 'lmab'}, {}, "training.optimizer='lmab' .*'lamb'"),
    ({'optimizer_options': {'epsilon': 1.0}}, {}, "training.optimizer_options='epsilon' .*'eps'"),
    ({'optimizer_options': {'b1': 0.5}}, {}, "training.optimizer_options='b1'"),
    (
      {'optimizer': 'sgd', 'optimizer_options': {'momentun': 0.9}},
      {},
      "training.optimizer_options='momentun' .*'momentum'",
    ),
    (
      {'optimizer': 'sgd', 'optimizer_options': {'learning_rate': 1.0}},
      {},
      "training.optimizer_options='learning_rate'",
    ),
    ({'optimizer': 'adamw', 'optimizer_options': {'mask': True}}, {}, "training.optimizer_options='mask'"),
    ({'optimizer': 'sgd', 'beta1': 0.5}, {}, "training.beta1=0.5 has no effect on training.optimizer='sgd'"),
    ({'optimizer': 'lion', 'beta2': 0.5}, {}, "training.beta2=0.5 has no effect on training.optimizer='lion'"),
    ({'optimizer': 'lion', 'weight_decay': 0.1}, {}, 'training.weight_decay=0.1 has no effect .*optimizer_options'),
    ({'optimizer': 'custom'}, {}, "training.optimizer='custom' needs the argument optimizer"),
    ({}, {'optimizer': optax.sgd}, "training.optimizer='adam'.*set training.optimizer='custom'"),
    ({'optimizer': 'custom', 'beta1': 0.5}, {'optimizer': optax.sgd}, 'training.beta1=0.5 has no effect'),
    ({'optimizer': 'custom'}, {'optimizer': optax.sgd(0.1)}, "training.schedule='custom'"),
    (
      {'optimizer': 'custom', 'schedule': 'custom'},
      {'optimizer': optax.sgd(0.1), 'schedule': lambda step: 0.1},
      'pass no schedule',
    ),
    (
      {'optimizer': 'custom', 'schedule': 'custom', 'warmup_steps': 5},
      {'optimizer': optax.sgd(0.1)},
      'training.warmup_steps=5 has no effect',
    ),
    (
      {'optimizer': 'custom', 'optimizer_options': {'momentum': 0.9}},
      {'optimizer': optax.sgd},
      'training.optimizer_options=.* has no effect',
    ),
  ],
)
def test_settings_without_effect_are_errors(changes, arguments, message):
  config = make_config(**{'schedule': 'constant'} | DEFAULTS | changes).training
  with pytest.raises(ValueError, match=message):
    optimizer.build(config, **arguments)


def test_the_mask_decides_what_decays():
  config = settings(schedule='constant', warmup_steps=1, clip_norm=0.0)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  rule = optimizer.build(config, None, lambda params: {'kernel': False, 'bias': True})
  updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params, jnp.int32(0))
  assert float(jnp.abs(updates['kernel']).max()) == 0
  np.testing.assert_allclose(updates['bias'], -config.learning_rate * config.weight_decay, rtol=1e-6)
