"""Fréchet distance between two sets of features, each modeled as a Gaussian, with its spread and small-sample bias."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.evaluation.metrics.contract import MetricInputs, MetricKind
from vdm_jax.evaluation.metrics.moments import Moments, gathered, merge_all, moments, streamed
from vdm_jax.types import Array

GROUPS = 5  # of samples, from which spread and bias are estimated


class Distance(NamedTuple):
  """A distance with its standard error and bias. Values that need more samples are NaN.

  >>> Distance(value=5.0, spread=0.5, extrapolated=4.0).bias
  1.0
  """

  value: float
  spread: float  # standard error, by the jackknife over groups of samples
  extrapolated: float  # expected value for infinitely many samples

  @property
  def bias(self) -> float:
    """How much the finite number of samples adds to the value."""
    return self.value - self.extrapolated


def frechet_distance(features_a: Array, features_b: Array) -> float:
  """Return the squared 2-Wasserstein distance of the Gaussians fitted to two sets of features.

    |mu_a - mu_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^(1/2) C_b C_a^(1/2))^(1/2))

  (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), with unbiased covariances C, in float64. The symmetric form needs
  only eigenvalues of symmetric matrices: it is never complex and accepts covariances of low rank.

  The estimate is biased upward; the bias grows with d and shrinks with n and m. Compare only distances with equal n and
  m, and relate them to the distance between two sets of real samples of those sizes.

  Args:
    features_a: `[n d]`, one row per sample, n >= 2.
    features_b: `[m d]`, m >= 2.

  Raises:
    ValueError: the arrays have other shapes, fewer than 2 rows, different d, or values that are not finite.

  >>> import numpy as np
  >>> a = np.array([[0.0], [2.0]])
  >>> round(frechet_distance(a, a + 3), 6)  # a shift costs its square
  9.0
  """
  a, b = moments(features_a, 'features_a'), moments(features_b, 'features_b')
  return distance_from(a, 'features_a', 'features_b')(b)


def distance_from(reference: Moments, name: str = 'reference', other: str = 'samples') -> Callable[[Moments], float]:
  """Return a function of the samples' moments: `frechet_distance` to a reference. The reference's root is taken once.

  Args:
    reference: moments of the real samples.
    name: what to call the reference in error messages.
    other: what to call the samples in error messages.

  Raises:
    ValueError: the reference, or later the samples, have fewer than 2 rows; or another d.

  >>> import numpy as np
  >>> distance = distance_from(moments(np.array([[0.0], [2.0]])))
  >>> [round(distance(moments(np.array([[0.0], [2.0]]) + shift)), 6) for shift in (1, 2)]
  [1.0, 4.0]
  """
  _check_count(reference, name)
  covariance = reference.covariance
  values, vectors = np.linalg.eigh(covariance)
  root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

  def distance(samples: Moments) -> float:
    if len(samples.mean) != len(reference.mean):
      raise ValueError(
        f'frechet_distance: {name} has {len(reference.mean)} features and {other} {len(samples.mean)}; '
        'compute both with the same feature network.'
      )
    _check_count(samples, other)
    product = root @ samples.covariance @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    apart = ((samples.mean - reference.mean) ** 2).sum()
    spread = np.trace(covariance) + np.trace(samples.covariance) - 2 * cross
    return max(float(apart + spread), 0.0)  # rounding can make the distance of equal sets slightly negative

  return distance


def estimate(groups: Sequence[Moments], reference: Moments) -> Distance:
  """Return the distance of all samples to the reference, with its spread and its value for infinitely many samples.

  The spread is that of the delete-one-group jackknife. To first order, n samples have an expected distance of F + c / n
  (Chong and Forsyth 2020, Eq. 3). A line through the distances of all groups, of all but one and of all but two against
  1/n gives F. The reference is used unchanged.

  Args:
    groups: moments of disjoint groups of samples from one distribution.
    reference: moments of the real samples.

  Returns:
    The distance. Spread and extrapolation are NaN for fewer than 3 groups, or groups of fewer than 2 samples.

  >>> import numpy as np
  >>> rng = np.random.default_rng(0)
  >>> groups = [moments(rng.standard_normal((20, 4))) for _ in range(5)]
  >>> found = estimate(groups, moments(rng.standard_normal((10_000, 4))))
  >>> abs(found.extrapolated) < found.value  # of two sets with the same distribution
  True
  """
  distance, everything = distance_from(reference), merge_all(groups)
  value = distance(everything)
  if len(groups) < 3 or min(group.count for group in groups) < 2:
    return Distance(value, math.nan, math.nan)
  inverse, distances = [1 / everything.count], [value]
  for left_out in (1, 2):
    some = [merge_all(chosen) for chosen in _without(groups, left_out)]
    found = [distance(part) for part in some]
    inverse.append(float(np.mean([1 / part.count for part in some])))
    distances.append(float(np.mean(found)))
    if left_out == 1:
      spread = math.sqrt((len(groups) - 1) * float(np.var(found)))
  slope, _ = np.polyfit(inverse, distances, 1)
  return Distance(value, spread, float(np.mean(distances) - slope * np.mean(inverse)))


def compute(inputs: MetricInputs) -> dict[str, dict[str, Any]]:
  """Return the distance of the samples to each split: value, spread, extrapolated and bias, None where NaN.

  Warns if there are too few samples, or too few reference clips, for a covariance of full rank.
  """
  groups = grouped(inputs.samples())
  references = {split: streamed(map(rows_of, read())) for split, read in inputs.references.items()}
  for split, reference in references.items():
    check_rank(reference, f'{inputs.name}, {split} split')
  check_rank(merge_all(groups), f'{inputs.name}, samples')
  return {split: _figure(estimate(groups, reference)) for split, reference in references.items()}


def grouped(batches: Iterator[np.ndarray], groups: int = GROUPS) -> list[Moments]:
  """Return the moments of `groups` disjoint groups: clip i is in group i mod `groups`, with all of its frames.

  Reads each batch once and keeps none.
  """
  parts: list[list[Moments]] = [[] for _ in range(groups)]
  seen = 0
  for block in gathered(batches):
    for group in range(groups):
      rows = rows_of(block[(group - seen) % groups :: groups])
      if len(rows):
        parts[group] = [merge_all([*parts[group], streamed([rows])])]
    seen += len(block)
  return [part[0] for part in parts if part]


def rows_of(features: np.ndarray) -> np.ndarray:
  """Return `[n d]` unchanged, and the frames of `[n t d]` as rows of their own, `[n t, d]`."""
  return features.reshape(-1, features.shape[-1])


def check_rank(samples: Moments, what: str) -> None:
  """Warn if there are fewer samples than a covariance of full rank needs."""
  if samples.count <= len(samples.mean):
    warnings.warn(
      f'{what}: {samples.count} samples of {len(samples.mean)} features leave the covariance singular and the distance '
      f'far too large; use {len(samples.mean) + 1} or more.',
      stacklevel=2,
    )


def _without(groups: Sequence[Moments], left_out: int) -> list[tuple[Moments, ...]]:
  """All choices of all groups but one; and equally many of all but two, which are neighbors in the circle of groups."""
  count = len(groups)
  if left_out == 1:
    return list(itertools.combinations(groups, count - 1))
  return [tuple(groups[(start + i) % count] for i in range(count - left_out)) for start in range(count)]


def _check_count(found: Moments, name: str) -> None:
  if found.count < 2:
    raise ValueError(
      f'frechet_distance: {name} has {found.count} sample(s), but a covariance needs 2 or more; '
      'a meaningful distance needs hundreds.'
    )


def _figure(found: Distance) -> dict[str, Any]:
  values = {'value': found.value, 'spread': found.spread, 'extrapolated': found.extrapolated, 'bias': found.bias}
  return {name: None if math.isnan(value) else value for name, value in values.items()}


FRECHET = MetricKind(compute, lower_is_better=True, min_rows=2)  # a covariance
