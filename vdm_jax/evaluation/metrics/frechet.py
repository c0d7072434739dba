"""The Frechet distance between two sets of features, each seen as a Gaussian, and what few samples add to it."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.evaluation.metrics.moments import Moments, merge_all, moments
from vdm_jax.types import Array

GROUPS = 5  # of samples, that the spread and the bias are estimated from


class Distance(NamedTuple):
  """A distance and how far it can be trusted. What needs more samples than there are is NaN."""

  value: float
  spread: float  # standard error, by the jackknife over groups of samples
  extrapolated: float  # what is expected of infinitely many samples

  @property
  def bias(self) -> float:
    """What the number of samples adds to the value."""
    return self.value - self.extrapolated


def frechet_distance(features_a: Array, features_b: Array) -> float:
  """Squared 2-Wasserstein distance of the Gaussians fitted to two sets of features `[n d]` and `[m d]`.

    |mu_a - mu_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a^(1/2) C_b C_a^(1/2))^(1/2))

  (Dowson and Landau 1982; Heusel et al. 2017, Eq. 6), with the unbiased covariances C, in float64. The symmetric
  form needs only eigenvalues of symmetric matrices, so it is never complex and takes covariances of low rank.

  The estimate is too large by an amount that grows with d and shrinks with n and m: compare distances made with
  equal n and m only, and with the distance between two sets of real samples of those sizes.

  Raises ValueError for arrays that are not `[n d]`, fewer than 2 samples, different d, or values that are not finite.
  """
  a, b = moments(features_a, 'features_a'), moments(features_b, 'features_b')
  return distance_from(a, 'features_a', 'features_b')(b)


def distance_from(reference: Moments, name: str = 'reference', other: str = 'samples') -> Callable[[Moments], float]:
  """The function of samples' moments that is `frechet_distance` to the reference, whose root is taken once.

  Raises ValueError as `frechet_distance` does, where it is called for samples of too small a number or of another d.
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
    return max(float(apart + spread), 0.0)  # rounding can leave equal sets a hair below zero

  return distance


def estimate(groups: Sequence[Moments], reference: Moments) -> Distance:
  """The distance of all samples to the reference, from the moments of disjoint groups of equally drawn samples.

  The spread is the delete-one-group jackknife's. The expected distance of n samples is F + c / n to first order (Chong
  and Forsyth 2020, Eq. 3): a line through the distances of all groups, of all but one and of all but two against 1/n
  gives F, that of infinitely many samples. The reference is taken as it is. Groups of fewer than two samples leave
  spread and extrapolation NaN.
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


def check_rank(samples: Moments, what: str) -> None:
  """Warns of fewer samples than a covariance of full rank needs, with that number."""
  if samples.count <= len(samples.mean):
    warnings.warn(
      f'{what}: {samples.count} samples of {len(samples.mean)} features leave the covariance singular and the distance '
      f'far too large; take {len(samples.mean) + 1} or more.',
      stacklevel=2,
    )


def _without(groups: Sequence[Moments], left_out: int) -> list[tuple[Moments, ...]]:
  """All choices of all groups but one, and as many of all but two: neighbours in the circle of groups."""
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
