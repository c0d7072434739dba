"""The Frechet distance between two sets of features, each seen as a Gaussian."""

from __future__ import annotations

import numpy as np

from vdm_jax.types import Array


def frechet_distance(features_a: Array, features_b: Array) -> float:
  """Squared 2-Wasserstein distance of the Gaussians fitted to two sets of features `[n d]` and `[m d]`.

    |mu_a - mu_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^(1/2) C_b C_a^(1/2))^(1/2))

  (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), with the unbiased covariances C, in float64. The symmetric
  form needs only eigenvalues of symmetric matrices, so it is never complex and takes covariances of low rank.

  The estimate is too large by an amount that grows with d and shrinks with n and m: compare distances made with
  equal n and m only, and with the distance between two sets of real samples of those sizes.

  Raises ValueError for arrays that are not `[n d]`, fewer than 2 samples, different d, or values that are not finite.
  """
  a, b = _checked(features_a, 'features_a'), _checked(features_b, 'features_b')
  if a.shape[1] != b.shape[1]:
    raise ValueError(
      f'frechet_distance: features_a has {a.shape[1]} features and features_b {b.shape[1]}; '
      'compute both with the same feature network.'
    )
  c_a, c_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
  values, vectors = np.linalg.eigh(c_a)
  root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
  product = root @ c_b @ root
  cross = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
  distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a) + np.trace(c_b) - 2 * cross
  return max(float(distance), 0.0)  # rounding can leave equal sets a hair below zero


def _checked(features: Array, name: str) -> np.ndarray:
  features = np.asarray(features, np.float64)
  if features.ndim != 2:
    raise ValueError(f'frechet_distance: {name} has shape {features.shape}; pass [n d], one row per sample.')
  if len(features) < 2:
    raise ValueError(
      f'frechet_distance: {name} has {len(features)} sample(s), but a covariance needs 2 or more; '
      'a meaningful distance needs hundreds.'
    )
  if not np.isfinite(features).all():
    raise ValueError(f'frechet_distance: {name} holds NaN or infinity; look at the videos they were computed from.')
  return features
