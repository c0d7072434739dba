"""Gradient spikes: which steps are skipped, for how long, and what a skipped step leaves unchanged."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import standin

from vdm_jax import partitioning
from vdm_jax.training import spikes, train

FACTOR = 10.0


def accepted_norms(norms, factor=FACTOR):
  """Return which of these consecutive norms are accepted, and the average after each."""

  def step(carry, norm):
    norm_ema, updates = carry
    accepted, norm_ema = spikes.accepted_and_norm_ema(norm, norm_ema, updates, factor)
    return (norm_ema, updates + accepted), (accepted, norm_ema)

  start = jnp.float32(0), jnp.int32(0)
  accepted, norm_ema = jax.lax.scan(step, start, jnp.asarray(norms, jnp.float32))[1]
  return np.asarray(accepted), np.asarray(norm_ema)


def usual_norms(count, seed=0):
  return np.exp(0.3 * np.random.default_rng(seed).standard_normal(count))


@pytest.mark.parametrize('length', [1, 5, 30])
@pytest.mark.parametrize('times', [50, 1_000])
def test_a_burst_of_spikes_skips_only_steps_of_the_burst(length, times):
  norms = usual_norms(600)
  norms[300 : 300 + length] *= times
  skipped = np.flatnonzero(~accepted_norms(norms)[0])
  assert 1 <= len(skipped) <= length and skipped[0] == 300 and skipped[-1] < 300 + length


@pytest.mark.parametrize('times', [2, 20, 50, 1_000, 100_000])
def test_a_lasting_level_is_accepted_within_128_steps(times):
  norms = usual_norms(600)
  norms[300:] *= times
  skipped = np.flatnonzero(~accepted_norms(norms)[0])
  assert len(skipped) == 0 if times == 2 else skipped[0] >= 300 and skipped[-1] < 428


def test_the_norms_of_a_healthy_run_are_never_skipped():
  """They fall by a factor of 1,000 at the start, and scatter by a factor of two."""
  falling = np.exp(0.5 * np.random.default_rng(1).standard_normal(3_000)) * (1 + 1_000 * np.exp(-np.arange(3_000) / 30))
  assert accepted_norms(falling)[0].all()


def test_the_average_is_the_mean_at_first_and_then_exponential():
  norms = usual_norms(150)
  norm_ema = accepted_norms(norms)[1]
  np.testing.assert_allclose(norm_ema[:100], np.cumsum(norms[:100]) / np.arange(1, 101), rtol=1e-5)
  expected = norm_ema[99]
  for norm in norms[100:]:
    expected = 0.99 * expected + 0.01 * norm
  np.testing.assert_allclose(norm_ema[-1], expected, rtol=1e-5)


def test_without_a_factor_all_norms_are_accepted_and_averaged():
  norms = usual_norms(300)
  norms[200] = 1e6
  accepted, norm_ema = accepted_norms(norms, factor=0.0)
  assert accepted.all() and norm_ema[200] > 1e3


def test_a_run_without_an_average_accepts_the_first_norm():
  """Such as a run of an older version."""
  accepted, norm_ema = spikes.accepted_and_norm_ema(jnp.float32(7), jnp.float32(0), jnp.int32(5_000), FACTOR)
  assert accepted and norm_ema == 7


def run(workdir, *, factor, spiked):
  """Return the states of a run before and after step 121, whose clips may be far too bright, and at step 125."""

  def batches(start):
    for k, batch in enumerate(standin.batches(start), start):
      if spiked and k == 120:
        batch = batch._replace(x=batch.x * 1e4)
      yield batch

  settings = {'schedule': 'constant', 'log_every': 5, 'checkpoint_every': 0, 'spike_factor': factor}
  mesh, states = partitioning.make_mesh({'data': -1}), []
  for steps in (120, 121, 125):
    config = standin.make_config(num_steps=steps, **settings)
    states.append(train(standin.make_model(config), config, workdir, mesh=mesh, batches=batches))
  return states


def test_a_spike_is_skipped_counted_and_the_next_step_is_applied(tmp_path):
  before, after, end = run(tmp_path / 'guarded', factor=FACTOR, spiked=True)
  for part in ('params', 'opt_state', 'ema'):
    jax.tree.map(np.testing.assert_array_equal, getattr(before, part), getattr(after, part))
  assert (int(after.step), int(after.updates), int(after.skipped_in_a_row)) == (121, 120, 0)
  assert (int(end.step), int(end.updates)) == (125, 124)
  assert (float(end.sums['spikes']), float(end.sums['skipped'])) == (1, 1)


def test_a_factor_without_spikes_changes_no_bit(tmp_path):
  guarded = run(tmp_path / 'guarded', factor=FACTOR, spiked=False)[-1]
  unguarded = run(tmp_path / 'unguarded', factor=0.0, spiked=False)[-1]
  jax.tree.map(np.testing.assert_array_equal, guarded, unguarded)


def test_without_a_factor_the_spike_is_applied(tmp_path):
  before, after, _ = run(tmp_path / 'unguarded', factor=0.0, spiked=True)
  assert int(after.updates) == int(before.updates) + 1
