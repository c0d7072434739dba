"""Mean and covariance of features in one pass: float64, mergeable, and of one size whatever the number of samples."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from vdm_jax.types import Array

BLOCK = 1024  # rows that are gathered before their products are summed


class Moments(NamedTuple):
  """What a set of features leaves behind."""

  count: int
  mean: np.ndarray  # float64 [d]
  scatter: np.ndarray  # float64 [d d], the sum of (x - mean)(x - mean)^T

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased covariance, float64 [d d]; NaN for one sample."""
    with np.errstate(invalid='ignore'):
      return self.scatter / np.float64(self.count - 1)


def moments(features: Array, name: str = 'features') -> Moments:
  """The moments of features `[n d]`, which are centred before they are squared.

  Raises ValueError, naming them, for arrays that are not `[n d]` and for values that are not finite.
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2:
    raise ValueError(f'frechet_distance: {name} has shape {features.shape}; pass [n d], one row per sample.')
  if not np.isfinite(features).all():
    raise ValueError(f'frechet_distance: {name} holds NaN or infinity; look at the videos they were computed from.')
  if not len(features):
    return Moments(0, np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2))
  mean = features.mean(0)
  centred = features - mean
  return Moments(len(features), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
  """The moments of both sets together (Chan, Golub and LeVeque 1979, Eq. 2.1), whatever their sizes and order."""
  if not a.count or not b.count:
    return a if a.count else b
  count, apart = a.count + b.count, b.mean - a.mean
  mean = a.mean + apart * (b.count / count)
  return Moments(count, mean, a.scatter + b.scatter + np.outer(apart, apart * (a.count * b.count / count)))


def merge_all(parts: Iterable[Moments]) -> Moments:
  """The moments of all sets together. Raises TypeError where there are none."""
  return functools.reduce(merge, parts)


def streamed(batches: Iterable[Array], name: str = 'features', *, block: int = BLOCK) -> Moments:
  """The moments of features that come in batches `[b d]`, of which about `block` rows are held at a time.

  Batches cut in another way give the same up to rounding. Raises ValueError as `moments` does, and without batches.
  """
  parts = (moments(rows, name) for rows in gathered(batches, block))
  first = next(parts, None)
  if first is None:
    raise ValueError(f'frechet_distance: {name} is empty; pass one batch or more.')
  return functools.reduce(merge, parts, first)


def gathered(batches: Iterable[Array], rows: int = BLOCK) -> Iterator[np.ndarray]:
  """The same rows in larger batches, of `rows` or a little more."""
  held: list[np.ndarray] = []
  for batch in batches:
    held.append(np.asarray(batch))
    if sum(map(len, held)) >= rows:
      yield np.concatenate(held)
      held = []
  if held:
    yield np.concatenate(held)
