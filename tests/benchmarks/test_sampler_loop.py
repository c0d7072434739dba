"""The two samplers that the benchmark times give the same video."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from helpers.standin_network import standin

from vdm_jax.benchmarks import sampler_loop, timing

STEPS = 4


def run_both(guided: bool) -> tuple[np.ndarray, np.ndarray]:
  model = standin()
  params = sampler_loop.jitter(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1))
  z = jax.random.normal(jax.random.key(2), (1, *model.video_shape))
  makers = sampler_loop.in_a_scan, sampler_loop.in_a_loop
  scan, loop = (np.asarray(make(model, guided, STEPS)(params, z, jax.random.key(3))) for make in makers)
  return scan, loop


def test_scan_and_loop_give_the_same_video_and_guidance_another():
  plain, guided = run_both(False), run_both(True)
  for scan, loop in (plain, guided):
    np.testing.assert_allclose(scan, loop, atol=1e-5)
    assert np.std(scan) > 0.1
  assert np.abs(guided[0] - plain[0]).max() > 1e-2


def test_jitter_leaves_no_zeros():
  params = sampler_loop.jitter({'a': jnp.zeros((4, 4)), 'b': jnp.ones(9)}, jax.random.key(0))
  assert np.all(np.asarray(params['a']) != 0)
  assert np.std(params['b']) > 0


def test_medians_take_turns_after_one_call_each(monkeypatch):
  calls, clock = [], iter(range(1000))
  monkeypatch.setattr(timing.time, 'perf_counter', lambda: float(next(clock)))
  seconds = timing.medians({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, 3)
  assert calls == ['a', 'b'] + ['a', 'b'] * 3
  assert seconds == {'a': 1.0, 'b': 1.0}
