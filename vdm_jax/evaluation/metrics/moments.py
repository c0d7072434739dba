"""Mean and covariance of features in one pass: in float64, mergeable, in memory independent of the sample count."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from vdm_jax.types import Array

BLOCK = 1024  # rows that are gathered before their products are summed


class Moments(NamedTuple):
  """Count, mean and scatter matrix of a set of features.

  >>> import numpy as np
  >>> moments(np.array([[0.0, 1.0], [2.0, 5.0]])).covariance
  array([[2., 4.],
         [4., 8.]])
  """

  count: int
  mean: np.ndarray  # float64 [d]
  scatter: np.ndarray  # float64 [d d], the sum of (x - mean)(x - mean)^T

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased covariance, float64 [d d]; NaN for one sample."""
    with np.errstate(invalid='ignore'):
      return self.scatter / np.float64(self.count - 1)


def moments(features: Array, name: str = 'features') -> Moments:
  """Return the moments of features, which are centered before they are squared.

  Args:
    features: `[n d]`, one row per sample; n may be 0.
    name: what to call the features in error messages.

  Raises:
    ValueError: the array is not `[n d]`, or has values that are not finite.

  >>> import numpy as np
  >>> moments(np.array([[0.0, 1.0], [2.0, 5.0]])).mean
  array([1., 3.])
  """
  features = np.asarray(features, np.float64)
  if features.ndim != 2:
    raise ValueError(f'frechet_distance: {name} has shape {features.shape}; pass [n d], one row per sample.')
  if not np.isfinite(features).all():
    raise ValueError(f'frechet_distance: {name} contains NaN or infinity; check the videos they were computed from.')
  if not len(features):
    return Moments(0, np.zeros(features.shape[1]), np.zeros((features.shape[1],) * 2))
  mean = features.mean(0)
  centered = features - mean
  return Moments(len(features), mean, centered.T @ centered)


def merge(a: Moments, b: Moments) -> Moments:
  """Return the moments of the union of two sets (Chan, Golub and LeVeque 1979, Eq. 2.1).

  >>> import numpy as np
  >>> merge(moments(np.array([[0.0]])), moments(np.array([[2.0], [4.0]]))).mean
  array([2.])
  """
  if not a.count or not b.count:
    return a if a.count else b
  count, apart = a.count + b.count, b.mean - a.mean
  mean = a.mean + apart * (b.count / count)
  return Moments(count, mean, a.scatter + b.scatter + np.outer(apart, apart * (a.count * b.count / count)))


def merge_all(parts: Iterable[Moments]) -> Moments:
  """Return the moments of the union of one or more sets.

  Raises:
    TypeError: there are no parts.

  >>> import numpy as np
  >>> merge_all(moments(np.full((1, 1), value)) for value in (1.0, 2.0, 6.0)).mean
  array([3.])
  """
  return functools.reduce(merge, parts)


def streamed(batches: Iterable[Array], name: str = 'features', *, block: int = BLOCK) -> Moments:
  """Return the moments of features that arrive in batches. How they are batched changes only the rounding.

  Args:
    batches: arrays `[b d]`, one or more.
    name: what to call the features in error messages.
    block: rows held in memory at a time, about.

  Raises:
    ValueError: as in `moments`, or there are no batches.

  >>> import numpy as np
  >>> streamed(np.full((2, 1), value) for value in (1.0, 3.0)).mean
  array([2.])
  """
  parts = (moments(rows, name) for rows in gathered(batches, block))
  first = next(parts, None)
  if first is None:
    raise ValueError(f'frechet_distance: {name} is empty; pass one or more batches.')
  return functools.reduce(merge, parts, first)


def gathered(batches: Iterable[Array], rows: int = BLOCK) -> Iterator[np.ndarray]:
  """Yield the same rows in larger batches of at least `rows` rows, except the last."""
  held: list[np.ndarray] = []
  for batch in batches:
    held.append(np.asarray(batch))
    if sum(map(len, held)) >= rows:
      yield np.concatenate(held)
      held = []
  if held:
    yield np.concatenate(held)
