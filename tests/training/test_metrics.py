"""The sums of a logging window and the row they make."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import diffusion
from vdm_jax.training import metrics


def test_every_level_belongs_to_exactly_one_band():
  logsnr = np.array([-30.0, -20, -6.01, -6, -2.01, -2, 1.99, 2, 5.99, 6, 20, 35], np.float32)
  loss = 2.0 ** np.arange(12)
  total, count = metrics.bands(jnp.asarray(loss), jnp.asarray(logsnr))
  np.testing.assert_array_equal(count, [3, 2, 2, 2, 3])
  np.testing.assert_array_equal(total, [7, 24, 96, 384, 3584])


def test_the_bands_have_the_documented_shares_of_the_cosine_schedule():
  logsnr = diffusion.cosine_logsnr(jnp.linspace(0, 1, 10_001))
  _, count = metrics.bands(jnp.ones(10_001), logsnr)
  np.testing.assert_allclose(count / 10_001, [0.03, 0.19, 0.55, 0.19, 0.03], atol=0.006)


def test_a_row_has_means_over_applied_steps_and_last_values():
  sums = metrics.zeros()
  for loss, spike, rate in ((1.0, False, 0.1), (np.nan, False, 0.2), (9e9, True, 0.2), (4.0, False, 0.3)):
    sums = metrics.add(
      sums,
      applied=jnp.isfinite(loss) & (not spike),
      spike=jnp.asarray(spike),
      loss=jnp.float32(loss),
      gradient_norm=jnp.float32(2 * loss),
      update_norm=jnp.float32(3 * loss),
      parameter_norm=jnp.float32(5.0 + rate),
      learning_rate=jnp.float32(rate),
      per_example=jnp.float32([loss, 10 * loss]),
      logsnr=jnp.float32([-3.0, 0.0]),
    )
  row = metrics.row(sums)
  assert row == {
    'train/loss': 2.5,
    'train/gradient_norm': 5.0,
    'train/update_norm': 7.5,
    'train/parameter_norm': pytest.approx(5.3),
    'train/learning_rate': pytest.approx(0.3),
    'train/skipped_steps': 2,
    'train/spikes': 1,
    'train/loss_logsnr_-6_-2': 2.5,
    'train/loss_logsnr_-2_2': 25.0,
  }


def test_a_window_without_applied_steps_has_no_loss():
  sums = metrics.zeros() | {'steps': jnp.float32(3), 'skipped': jnp.float32(3)}
  assert metrics.row(sums) == {
    'train/parameter_norm': 0.0,
    'train/learning_rate': 0.0,
    'train/skipped_steps': 3,
    'train/spikes': 0,
  }
