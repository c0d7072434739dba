"""Streamed statistics equal those of NumPy on all rows, also where a naive sum of squares loses all precision."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax.evaluation import merge, merge_all, moments, streamed


def rows(n: int, d: int, *, offset: float = 0.0, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + offset


@pytest.mark.parametrize('offset', [0.0, 1e7])
def test_batches_of_any_size_give_the_mean_and_covariance_of_all_rows(offset):
  x = rows(503, 7, offset=offset)
  exact = np.cov(x - offset, rowvar=False)
  for cut in (1, 64, 503):
    found = streamed((x[i : i + cut] for i in range(0, len(x), cut)), block=100)
    assert found.count == 503
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(found.covariance, exact, rtol=1e-6)
  if offset:
    naive = (x.T @ x - len(x) * np.outer(x.mean(0), x.mean(0))) / (len(x) - 1)
    assert np.abs(naive - exact).max() > 1e-3, 'the case is hard enough to tell a stable sum from a naive one'


def test_merging_is_commutative_and_associative_with_the_empty_set_as_identity():
  parts = [moments(rows(n, 4, offset=10.0 * n, seed=n)) for n in (3, 50, 1)]
  nothing = moments(np.zeros((0, 4)))
  for one, other in (
    (merge_all(parts), merge_all(parts[::-1])),
    (merge(parts[0], merge(parts[1], parts[2])), merge(merge(parts[0], parts[1]), parts[2])),
    (merge(nothing, parts[0]), merge(parts[0], nothing)),
  ):
    for a, b in zip(one, other, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-10)


def test_float32_features_are_summed_in_float64():
  x = (rows(200, 3) + 4096).astype(np.float32)
  np.testing.assert_allclose(moments(x).covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


def test_bad_features_are_named():
  for bad, message in (([np.zeros(3)], r'samples has shape \(3,\)'), ([], 'samples is empty')):
    with pytest.raises(ValueError, match=message):
      streamed(bad, 'samples')
