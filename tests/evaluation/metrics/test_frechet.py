from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from vdm_jax.evaluation import frechet_distance


def features(n: int, d: int, *, seed: int) -> np.ndarray:
  """Correlated features with unequal scales."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def by_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
  c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(c_a @ c_b).real
  return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root))


def test_agrees_with_the_matrix_square_root_of_scipy():
  a, b = features(200, 30, seed=0), features(150, 30, seed=1)
  assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_equal_sets_have_distance_zero_even_with_a_covariance_of_low_rank():
  for n in (100, 10):
    a = features(n, 20, seed=2)
    assert 0 <= frechet_distance(a, a[::-1]) < 1e-5


def test_a_shift_costs_its_squared_length():
  a, shift = features(80, 6, seed=3), np.arange(6)
  assert frechet_distance(a, a + shift) == pytest.approx((shift**2).sum(), rel=1e-9)


def test_a_stretch_costs_the_squared_difference_of_the_standard_deviations():
  a = features(80, 6, seed=4)
  a = a - a.mean(0)
  expected = (2.5 - 1) ** 2 * a.var(0, ddof=1).sum()
  assert frechet_distance(a, 2.5 * a) == pytest.approx(expected, rel=1e-9)


def test_is_symmetric_and_invariant_to_rotations():
  a, b = features(60, 5, seed=5), features(60, 5, seed=6)
  rotation, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((5, 5)))
  assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)
  assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_one_feature_is_the_formula_for_two_normals():
  a, b = features(50, 1, seed=8), 3 * features(70, 1, seed=9) + 1
  expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_computes_in_float64_whatever_the_input():
  """In float32, the distance of two close sets with a large common mean would be lost to rounding."""
  a = (features(60, 4, seed=10) + 1000).astype(np.float32)
  b = a + np.float32(0.125)
  assert frechet_distance(a, b) == pytest.approx(4 * 0.125**2, rel=1e-5)


@pytest.mark.parametrize(
  ('a', 'b', 'message'),
  [
    (np.zeros((4, 3)), np.zeros((4, 2)), 'features_a has 3 features and features_b 2'),
    (np.zeros((4, 3)), np.zeros((1, 3)), r'features_b has 1 sample\(s\)'),
    (np.zeros(4), np.zeros((4, 1)), r'features_a has shape \(4,\)'),
    (np.full((4, 3), np.nan), np.zeros((4, 3)), 'features_a contains NaN or infinity'),
  ],
)
def test_bad_features_are_named(a, b, message):
  with pytest.raises(ValueError, match=f'^frechet_distance: {message}'):
    frechet_distance(a, b)
