"""What counts as a spike: no more steps than have one, and never for ever; and what a skipped one leaves alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import standin

from vdm_jax import partitioning
from vdm_jax.training import spikes, train

FACTOR = 10.0


def judged(norms, factor=FACTOR):
  """Which of the norms are applied, one after the other, and the average after each."""

  def step(carry, norm):
    usual, updates = carry
    ordinary, usual = spikes.judge(norm, usual, updates, factor)
    return (usual, updates + ordinary), (ordinary, usual)

  start = jnp.float32(0), jnp.int32(0)
  ordinary, usual = jax.lax.scan(step, start, jnp.asarray(norms, jnp.float32))[1]
  return np.asarray(ordinary), np.asarray(usual)


def usual_norms(count, seed=0):
  return np.exp(0.3 * np.random.default_rng(seed).standard_normal(count))


@pytest.mark.parametrize('length', [1, 5, 30])
@pytest.mark.parametrize('times', [50, 1_000])
def test_a_burst_skips_no_more_steps_than_it_has_and_none_after_it(length, times):
  norms = usual_norms(600)
  norms[300 : 300 + length] *= times
  skipped = np.flatnonzero(~judged(norms)[0])
  assert 1 <= len(skipped) <= length and skipped[0] == 300 and skipped[-1] < 300 + length


@pytest.mark.parametrize('times', [2, 20, 50, 1_000, 100_000])
def test_a_level_that_stays_is_accepted_within_128_steps(times):
  norms = usual_norms(600)
  norms[300:] *= times
  skipped = np.flatnonzero(~judged(norms)[0])
  assert len(skipped) == 0 if times == 2 else skipped[0] >= 300 and skipped[-1] < 428


def test_what_runs_do_without_spikes_is_never_skipped():
  """Norms fall a thousandfold in the beginning, and scatter by a factor of two."""
  falling = np.exp(0.5 * np.random.default_rng(1).standard_normal(3_000)) * (1 + 1_000 * np.exp(-np.arange(3_000) / 30))
  assert judged(falling)[0].all()


def test_the_average_is_the_mean_at_first_and_forgets_by_hundredths():
  norms = usual_norms(150)
  usual = judged(norms)[1]
  np.testing.assert_allclose(usual[:100], np.cumsum(norms[:100]) / np.arange(1, 101), rtol=1e-5)
  expected = usual[99]
  for norm in norms[100:]:
    expected = 0.99 * expected + 0.01 * norm
  np.testing.assert_allclose(usual[-1], expected, rtol=1e-5)


def test_without_a_factor_nothing_is_a_spike_and_the_average_goes_on():
  norms = usual_norms(300)
  norms[200] = 1e6
  ordinary, usual = judged(norms, factor=0.0)
  assert ordinary.all() and usual[200] > 1e3


def test_a_run_without_an_average_begins_one():
  """Such as one that older versions began: no norm is a spike before one is known."""
  ordinary, usual = spikes.judge(jnp.float32(7), jnp.float32(0), jnp.int32(5_000), FACTOR)
  assert ordinary and usual == 7


def run(workdir, *, factor, spiked):
  """A run of 125 steps, and the states it had before and after step 121, in which clips may be far too bright."""

  def batches(start):
    for k, batch in enumerate(standin.batches(start), start):
      if spiked and k == 120:
        batch = batch._replace(x=batch.x * 1e4)
      yield batch

  settings = dict(schedule='constant', log_every=5, checkpoint_every=0, spike_factor=factor)  # noqa: C408
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


def test_a_guard_that_finds_nothing_changes_no_bit(tmp_path):
  guarded = run(tmp_path / 'guarded', factor=FACTOR, spiked=False)[-1]
  unguarded = run(tmp_path / 'unguarded', factor=0.0, spiked=False)[-1]
  jax.tree.map(np.testing.assert_array_equal, guarded, unguarded)


def test_without_the_guard_the_spike_is_applied(tmp_path):
  before, after, _ = run(tmp_path / 'unguarded', factor=0.0, spiked=True)
  assert int(after.updates) == int(before.updates) + 1
