"""Statistics of distances between single features: diversity, precision and recall, memorization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vdm_jax.types import Array

ROWS = 512  # of a distance matrix, held in memory at a time
NEIGHBORS = 3  # Kynkaanniemi et al. 2019 use k = 3
NEAR = 0.05  # quantile of the held-out clips' distances below which a sample counts as near


def mean_pairwise(features: Array, groups: Sequence[int] | None = None) -> float | None:
  """Return the mean Euclidean distance between two different samples, or None if no group has two samples.

  Args:
    features: `[n d]`, one row per sample.
    groups: n integers: only pairs within a group count, each pair once, whatever the sizes of the groups.

  >>> import numpy as np
  >>> mean_pairwise(np.array([[0.0], [1.0], [5.0]]), groups=[0, 0, 1])
  1.0
  """
  features = _checked(features, 'features')
  which = np.zeros(len(features), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
  total, pairs = 0.0, 0
  for group in range(which.max(initial=-1) + 1):
    members = features[which == group]
    total += sum(float(rows.sum()) for _, rows in _distances(members, members))
    pairs += len(members) * (len(members) - 1)
  return total / pairs if pairs else None


def precision_recall(samples: Array, real: Array, *, k: int = NEIGHBORS) -> dict[str, float]:
  """Return improved precision and recall (Kynkaanniemi et al. 2019, Eqs. 1 and 2).

  Precision is the share of samples that are within the distance of some real feature to its k-th nearest other real
  feature. Recall is the same with samples and real features exchanged. Both depend on n and m: compare equal numbers.

  Args:
    samples: features `[n d]`.
    real: features `[m d]`.
    k: number of neighbors.

  Raises:
    ValueError: k or fewer samples, or k or fewer real features.

  >>> import numpy as np
  >>> real = np.array([[0.0], [1.0], [10.0], [11.0]])
  >>> precision_recall(np.array([[0.1], [0.9], [0.5]]), real, k=1)
  {'precision': 1.0, 'recall': 0.5}
  """
  samples, real = _checked(samples, 'samples'), _checked(real, 'real')
  if min(len(samples), len(real)) <= k:
    raise ValueError(f'precision_recall: {len(samples)} samples, {len(real)} real clips; pass more than k={k} of each.')
  return {'precision': _covered(samples, real, k), 'recall': _covered(real, samples, k)}


def nearest(features: Array, others: Array) -> np.ndarray:
  """Return the Euclidean distance of each feature `[n d]` to the nearest of `others` `[m d]`: float64 [n].

  >>> import numpy as np
  >>> nearest(np.array([[0.0], [4.0]]), np.array([[1.0], [9.0]]))
  array([1., 3.])
  """
  features, others = _checked(features, 'features'), _checked(others, 'others')
  return np.concatenate([rows.min(1) for _, rows in _distances(features, others)])


def memorization(samples: Array, held_out: Array, train: Array) -> dict[str, Any]:
  """Return whether samples are nearer to training clips than clips that were never trained on.

  Records store this under the key `memorisation`, which published records use too.

  Args:
    samples: features `[n d]`.
    held_out: features `[m d]` of real clips that were not trained on.
    train: features `[k d]` of training clips.

  Returns:
    `samples`, `held_out`: median distance to the nearest training clip; `ratio`: of these medians, None for 0;
    `share_near`: share of samples that are nearer than the nearest 5 % of held-out clips, about 0.05 for a model that
    has learned the distribution and about 1 for one that copies its training clips; `training_clips`: k.

  >>> import numpy as np
  >>> train, held_out = np.arange(4.0)[:, None], np.arange(4.0)[:, None] + 0.5
  >>> memorization(train, held_out, train)['share_near']  # copies
  1.0
  """
  made, never_seen = nearest(samples, train), nearest(held_out, train)
  medians = float(np.median(made)), float(np.median(never_seen))
  return {
    'samples': medians[0],
    'held_out': medians[1],
    'ratio': medians[0] / medians[1] if medians[1] else None,
    'share_near': float((made < np.quantile(never_seen, NEAR)).mean()),
    'training_clips': len(train),
  }


def _covered(points: np.ndarray, centers: np.ndarray, k: int) -> float:
  """The share of points inside any ball around a center whose radius is the distance to its k-th nearest other one."""
  radii = np.concatenate([np.partition(rows, k, axis=1)[:, k] for _, rows in _distances(centers, centers)])
  return float(np.concatenate([(rows <= radii).any(1) for _, rows in _distances(points, centers)]).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yield blocks of rows of the distance matrix, with the number of the first row; 0 on the diagonal if a is b."""
  shift = b.mean(0) if len(b) else 0.0  # of both: a large common mean would cost precision
  a_centered, b_centered = a - shift, b - shift
  squares = (b_centered**2).sum(1)
  for start in range(0, len(a), ROWS):
    part = a_centered[start : start + ROWS]
    table = (part**2).sum(1)[:, None] + squares - 2 * part @ b_centered.T
    if a is b:
      table[np.arange(len(part)), np.arange(start, start + len(part))] = 0
    yield start, np.sqrt(np.clip(table, 0, None))


def _checked(features: Array, name: str) -> np.ndarray:
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not np.isfinite(features).all():
    raise ValueError(f'{name} have shape {features.shape}; pass finite [n d], one row per sample.')
  return features
