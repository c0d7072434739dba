"""The training state: its creation, and its moving average against the closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.standin import make_config, make_model

from vdm_jax import partitioning
from vdm_jax.training import optimizer, state


def create(seed=3):
  config = make_config()
  model = make_model(config)
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  return state.create(model, rule, partitioning.make_mesh({'data': -1}), seed), model, rule


def test_the_initial_state_is_a_function_of_the_seed_with_the_average_equal_to_the_parameters():
  first, second, other = create()[0], create()[0], create(seed=4)[0]
  jax.tree.map(np.testing.assert_array_equal, first, second)
  jax.tree.map(np.testing.assert_array_equal, first.params, first.ema)
  assert not np.array_equal(first.params['enter']['kernel'], other.params['enter']['kernel'])
  assert int(first.step) == int(first.updates) == 0
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((first.params, first.ema, first.opt_state[1].mu)))


def test_the_abstract_state_is_the_state_without_values():
  current, model, rule = create()
  expected = state.abstract(model, rule, partitioning.make_mesh({'data': -1}))
  assert jax.tree.structure(current) == jax.tree.structure(expected)
  for real, shape in zip(jax.tree.leaves(current), jax.tree.leaves(expected), strict=True):
    assert (real.shape, real.dtype, real.sharding) == (shape.shape, shape.dtype, shape.sharding)


@pytest.mark.parametrize('warmup', [False, True])
def test_the_average_is_its_closed_form(warmup):
  """After n updates the weight of parameters i is (1 - d_i) prod_{j > i} d_j; d_0 = 0, the first copies."""
  decay, count = 0.97, 100
  params = np.random.default_rng(0).standard_normal((count, 5))
  ema = jnp.full(5, 7.0)
  update = jax.jit(lambda e, p, n: state.update_ema(e, p, n, decay=decay, warmup=warmup))
  for n in range(count):
    ema = update(ema, jnp.float32(params[n]), jnp.int32(n))
  decays = [min(decay, (1 + n) / (10 + n)) if warmup else decay for n in range(count)]
  decays[0] = 0.0
  weights = [(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(count)]
  assert sum(weights) == pytest.approx(1)
  np.testing.assert_allclose(ema, np.array(weights) @ params, rtol=1e-5, atol=1e-6)


def test_the_first_update_copies_bit_for_bit():
  params = jnp.float32(np.random.default_rng(0).standard_normal(100))
  ema = state.update_ema(1e8 * jnp.ones(100), params, jnp.int32(0), decay=0.9999, warmup=False)
  np.testing.assert_array_equal(ema, params)


def test_10000_updates_at_decay_0_9999_follow_float64():
  """An average in bfloat16 would not move."""
  decay = 0.9999
  rng = np.random.default_rng(0)
  path = 1 + np.cumsum(1e-3 * rng.standard_normal((10_000, 4)), axis=0)

  @jax.jit
  def average(path):
    def update(ema, item):
      return state.update_ema(ema, item[0], item[1], decay=decay, warmup=False), None

    return jax.lax.scan(update, path[0], (path, jnp.arange(len(path))))[0]

  expected = path[0].copy()
  for params in path[1:]:
    expected = decay * expected + (1 - decay) * params
  np.testing.assert_allclose(average(jnp.float32(path)), expected, rtol=1e-5)
  assert np.abs(expected - path[0]).max() > 1e-2


def test_a_half_life_replaces_the_decay():
  training = make_config(ema_decay=0.5, ema_half_life=6000.0).training
  assert state.ema_decay(training) == pytest.approx(0.99988448, abs=1e-8)  # 0.5^(1 / 6000)
  assert state.ema_decay(training) ** 6000 == pytest.approx(0.5)
  assert state.ema_decay(make_config(ema_decay=0.25).training) == 0.25


@pytest.mark.parametrize('changes', [{'ema_decay': 1.0}, {'ema_decay': -0.1}, {'ema_half_life': -5.0}])
def test_a_decay_out_of_range_is_an_error(changes):
  training = make_config(**changes).training
  message = f'training.ema_decay={training.ema_decay}, training.ema_half_life={training.ema_half_life}: '
  with pytest.raises(ValueError, match=message):
    state.ema_decay(training)
