"""Fine structure that 16x16 means do not have: of real, enlarged, low-contrast, shuffled and noisy videos."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.evaluation.metrics.detail import detail
from vdm_jax.video import to_float


def clips(seed, count=40):
  source = data.Digits(split='test', seed=seed, num_frames=8, height=64, width=64)
  return to_float(np.stack([source[i].video for i in range(count)]))


REAL = clips(0)
MEANS = REAL.reshape(40, 8, 16, 4, 16, 4, 1).mean((3, 5), keepdims=True)
ENLARGED = np.broadcast_to(MEANS, (40, 8, 16, 4, 16, 4, 1)).reshape(REAL.shape)


def test_real_clips_have_full_detail_and_enlarged_ones_none():
  assert detail(REAL, REAL) == pytest.approx(1, abs=1e-6)
  assert detail(clips(1), REAL) > 0.95
  assert detail(ENLARGED, REAL) == pytest.approx(0, abs=1e-6)


def test_half_the_contrast_has_three_quarters_of_the_detail():
  """Squared distances: the deviations of the blocks are half as large, so F is a quarter."""
  assert detail((REAL + ENLARGED) / 2, REAL) == pytest.approx(0.75, abs=1e-3)


def test_shuffled_pixels_and_noise_have_less_detail():
  rng = np.random.default_rng(0)
  blocks = REAL.reshape(40, 8, 16, 4, 16, 4, 1).swapaxes(3, 4).reshape(40, 8, 16, 16, 16, 1)
  mixed = rng.permuted(blocks, axis=4).reshape(40, 8, 16, 16, 4, 4, 1).swapaxes(3, 4).reshape(REAL.shape)
  np.testing.assert_allclose(mixed.reshape(40, 8, 16, 4, 16, 4, 1).mean((3, 5), keepdims=True), MEANS, atol=1e-6)
  assert detail(mixed, REAL) < 0.7
  assert detail(REAL + rng.normal(0, 0.5, REAL.shape), REAL) < 0


def test_small_pictures_have_no_detail_and_odd_sizes_are_refused():
  small = np.zeros((2, 8, 16, 16, 1), np.float32)
  assert detail(small, small) is None
  with pytest.raises(ValueError, match=r'^detail: videos have shape \(2, 8, 24, 24, 1\); pass'):
    detail(np.zeros((2, 8, 24, 24, 1)), small)
  with pytest.raises(ValueError, match=r'^detail: samples \(2, 8, 32, 32, 1\) and real videos'):
    detail(np.zeros((2, 8, 32, 32, 1)), REAL)
