"""Learning-rate schedules against their closed forms; schedules of optax by name and as arguments."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.standin import make_config

from vdm_jax.training import schedules

STEPS = 200


def settings(**changes):
  return make_config(num_steps=STEPS, **changes).training


def closed_form_rate(config, step):
  rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
  if config.schedule == 'constant':
    return config.learning_rate * rise
  done = min(max((step - config.warmup_steps) / (config.num_steps - config.warmup_steps), 0.0), 1.0)
  return config.learning_rate * rise * (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
@pytest.mark.parametrize('warmup', [0, 1, 7])
def test_the_learning_rate_is_its_closed_form(schedule, warmup):
  config = settings(schedule=schedule, warmup_steps=warmup)
  rate = jax.jit(schedules.build(config))
  found = [float(rate(step)) for step in range(STEPS + 1)]
  expected = [closed_form_rate(config, step) for step in range(STEPS + 1)]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
  assert schedule == 'constant' or found[STEPS] == 0.0


@pytest.mark.parametrize('warmup', [0, 1, 8])
def test_linear_falls_by_equal_parts_to_zero(warmup):
  rate = schedules.build(settings(schedule='linear', warmup_steps=warmup, learning_rate=1.0))
  found = [float(rate(step)) for step in range(warmup, STEPS + 1)]
  np.testing.assert_allclose(found, [1 - k / (STEPS - warmup) for k in range(STEPS - warmup + 1)], atol=1e-6)


@pytest.mark.parametrize('warmup', [0, 1, 8])
def test_inverse_sqrt_is_that_of_the_transformer(warmup):
  """Vaswani et al. 2017, Eq. 3, whose steps start at 1: d^-0.5 min(s^-0.5, s w^-1.5), here with its peak at 1."""
  rate = schedules.build(settings(schedule='inverse_sqrt', warmup_steps=warmup, learning_rate=1.0))
  w = max(warmup, 1)
  for s in (1, 2, 7, 8, 9, 32, 10 * STEPS):
    assert float(rate(s - 1)) == pytest.approx(w**0.5 * min(s**-0.5, s * w**-1.5), rel=1e-6)


@pytest.mark.parametrize(('options', 'steps'), [({}, STEPS // 10), ({'decay_steps': 50}, 50)])
def test_warmup_stable_decay_rises_stays_and_falls(options, steps):
  rate = schedules.build(settings(schedule='warmup_stable_decay', warmup_steps=4, schedule_options=options))
  found = np.array([float(rate(step)) for step in range(STEPS + 1)]) / 0.01
  np.testing.assert_allclose(found[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
  np.testing.assert_allclose(found[4 : STEPS - steps + 1], 1.0, rtol=1e-6)
  np.testing.assert_allclose(found[STEPS - steps :], np.linspace(1, 0, steps + 1), atol=1e-6)


def test_the_rates_are_those_of_earlier_versions_bit_for_bit():
  """Runs that those began resume. Their formula, of the step alone."""
  config, steps = settings(schedule='cosine', warmup_steps=30), jnp.arange(STEPS + 1)

  def earlier(step):
    rise = jnp.minimum(1.0, (step + 1) / 30)
    done = jnp.clip((step - 30) / (STEPS - 30), 0.0, 1.0)
    return config.learning_rate * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * done))

  found, expected = (jax.jit(jax.vmap(rate))(steps) for rate in (schedules.build(config), earlier))
  np.testing.assert_array_equal(found, expected)


OPTIONS = {
  'cosine_decay_schedule': {'decay_steps': STEPS},
  'cosine_onecycle_schedule': {'transition_steps': STEPS},
  'exponential_decay': {'transition_steps': 50, 'decay_rate': 0.5},
  'linear_onecycle_schedule': {'transition_steps': STEPS},
  'linear_schedule': {'end_value': 0.0, 'transition_steps': STEPS},
  'polynomial_schedule': {'end_value': 0.0, 'power': 2, 'transition_steps': STEPS},
  'warmup_constant_schedule': {'init_value': 0.0},
  'warmup_cosine_decay_schedule': {'init_value': 0.0, 'decay_steps': STEPS},
  'warmup_exponential_decay_schedule': {'init_value': 0.0, 'transition_steps': 50, 'decay_rate': 0.5},
}


@pytest.mark.parametrize('name', schedules.OPTAX)
def test_every_schedule_of_optax_peaks_at_the_learning_rate(name):
  warmup = 10 if name.startswith('warmup') else 0
  config = settings(schedule=name, warmup_steps=warmup)
  config.schedule_options = OPTIONS[name]
  rates = jax.jit(jax.vmap(schedules.build(config)))(jnp.arange(STEPS))
  assert float(rates.max()) == pytest.approx(config.learning_rate)
  peak = {'init_value': config.learning_rate} if 'init_value' not in OPTIONS[name] else {}
  if 'cycle' in name or name.startswith('warmup'):
    peak = {'peak_value': config.learning_rate}
  steps = {'warmup_steps': warmup} if warmup else {}
  expected = getattr(optax.schedules, name)(**peak, **steps, **OPTIONS[name])
  np.testing.assert_allclose(rates, jax.jit(jax.vmap(expected))(jnp.arange(STEPS)), rtol=1e-6, atol=1e-8)


def test_the_warm_up_multiplies_a_schedule_without_its_own():
  config = settings(schedule='exponential_decay', warmup_steps=4)
  config.schedule_options = {'transition_steps': 1, 'decay_rate': 0.5}
  found = [float(schedules.build(config)(step)) / config.learning_rate for step in range(5)]
  np.testing.assert_allclose(found, [0.25, 0.25, 0.1875, 0.125, 0.0625], rtol=1e-6)


@pytest.mark.parametrize(
  ('changes', 'schedule', 'message'),
  [
    ({'schedule': 'cosin'}, None, "training.schedule='cosin' .*'cosine'"),
    ({'schedule': 'cosine', 'warmup_steps': STEPS}, None, 'training.warmup_steps=200 .*training.num_steps=200'),
    ({'schedule': 'linear', 'schedule_options': {'decay_steps': 1}}, None, 'schedule_options=.* has no effect'),
    (
      {'schedule': 'warmup_stable_decay', 'schedule_options': {'decay_steps': 199}},
      None,
      "'decay_steps': 199.*1 to 198, .*training.warmup_steps=2",
    ),
    ({'schedule_options': {'decay_steps': 1}}, None, 'training.schedule_options=.* has no effect'),
    (
      {'schedule': 'linear_schedule', 'schedule_options': {'end_valu': 0.0}},
      None,
      "training.schedule_options='end_valu' .*'end_value'",
    ),
    ({'schedule': 'linear_schedule'}, None, 'training.schedule_options lacks end_value, transition_steps'),
    ({'schedule': 'linear_schedule', 'schedule_options': {'init_value': 1.0}}, None, "options='init_value'"),
    ({'schedule': 'custom'}, None, "training.schedule='custom' needs the argument schedule"),
    ({}, optax.schedules.constant_schedule(0.1), "training.schedule='constant'.*set training.schedule='custom'"),
    ({'schedule': 'custom'}, optax.schedules.constant_schedule(0.1), 'training.learning_rate=0.01 has no effect'),
  ],
)
def test_settings_without_effect_are_errors(changes, schedule, message):
  with pytest.raises(ValueError, match=message):
    schedules.build(settings(**{'schedule': 'constant'} | changes), schedule)
