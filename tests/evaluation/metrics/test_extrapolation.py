"""Bias and spread of Fréchet distances of few samples, on Gaussians whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from vdm_jax.evaluation import distance_from, estimate, frechet_distance, merge_all, moments, streamed
from vdm_jax.evaluation.metrics.frechet import check_rank, grouped

D = 12


def draw(n: int, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal((n, D))


def estimated(x: np.ndarray, reference: np.ndarray):
  return estimate(grouped(iter(np.array_split(x, 7))), moments(reference))


def test_streamed_statistics_give_the_distance_of_the_arrays_and_of_scipy_also_far_from_zero():
  a, b = draw(300, 0) @ np.diag(np.arange(1.0, D + 1)) + 1e5, draw(200, 1) + 1e5
  found = distance_from(moments(a))(streamed(np.array_split(b, 9)))
  c_a, c_b = np.cov(a - 1e5, rowvar=False), np.cov(b - 1e5, rowvar=False)
  naive = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * scipy.linalg.sqrtm(c_a @ c_b).real)
  assert found == pytest.approx(naive, rel=1e-6)
  assert found == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_groups_are_disjoint_and_together_all_samples():
  x = draw(103, 2)
  groups = grouped(iter(np.array_split(x, 6)))
  assert [group.count for group in groups] == [21, 21, 21, 20, 20]
  np.testing.assert_allclose(groups[3].mean, x[3::5].mean(0))
  np.testing.assert_allclose(merge_all(groups).covariance, np.cov(x, rowvar=False))


def test_frames_of_a_clip_stay_in_its_group():
  frames = draw(60, 3).reshape(20, 3, D)
  groups = grouped(iter([frames]))
  assert [group.count for group in groups] == [12] * 5
  np.testing.assert_allclose(groups[1].mean, frames[1::5].reshape(-1, D).mean(0))


def test_extrapolation_removes_the_bias_of_few_samples():
  """Samples have the distribution of the reference, so the true distance is 0 up to the error of the reference."""
  reference = draw(200_000, 4)
  found = [estimated(draw(240, 10 + seed), reference) for seed in range(20)]
  values, extrapolated = (np.array([getattr(one, name) for one in found]) for name in ('value', 'extrapolated'))
  assert values.mean() > 0.15, 'the bias is large enough to see'
  assert abs(extrapolated.mean()) < 0.15 * values.mean()
  assert np.mean([one.bias for one in found]) == pytest.approx((values - extrapolated).mean())


def test_the_spread_is_that_of_repeated_measurements():
  reference = draw(5000, 5) * 1.5
  found = [estimated(draw(400, 100 + seed), reference) for seed in range(30)]
  over_repeats = np.std([one.value for one in found], ddof=1)
  assert 0.6 < np.mean([one.spread for one in found]) / over_repeats < 1.6


def test_too_few_samples_give_a_warning_with_the_number_that_is_needed():
  with pytest.warns(UserWarning, match='fvd, samples: 12 samples of 12 features .* 13 or more'):
    check_rank(moments(draw(D, 6)), 'fvd, samples')
  check_rank(moments(draw(D + 1, 6)), 'fvd, samples')
  assert np.isnan(estimated(draw(9, 7), draw(50, 8)).spread), 'groups of one sample tell nothing'
