"""What distances between single features tell: diversity, precision and recall, memorisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vdm_jax.types import Array

ROWS = 512  # of a table of distances that are held at a time
NEIGHBOURS = 3  # Kynkaanniemi et al. 2019 use k = 3
NEAR = 0.05  # share of held-out clips that are called near


def mean_pairwise(features: Array, groups: Sequence[int] | None = None) -> float | None:
  """The mean Euclidean distance between two different samples of `[n d]`, of one group where `groups` [n] are given.

  Every pair counts once, whatever the sizes of the groups. None where no group has two samples.
  """
  features = _checked(features, 'features')
  which = np.zeros(len(features), int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
  total, pairs = 0.0, 0
  for group in range(which.max(initial=-1) + 1):
    members = features[which == group]
    total += sum(float(rows.sum()) for _, rows in _distances(members, members))
    pairs += len(members) * (len(members) - 1)
  return total / pairs if pairs else None


def precision_recall(samples: Array, real: Array, *, k: int = NEIGHBOURS) -> dict[str, float]:
  """Improved precision and recall (Kynkaanniemi et al. 2019, Eqs. 1 and 2) of features `[n d]` and `[m d]`.

  precision: share of samples within the distance of some real feature to its k-th nearest other real one. recall: share
  of real features within that of some sample. Both change with n and m: compare equal numbers only. Raises ValueError
  for k or fewer of either.
  """
  samples, real = _checked(samples, 'samples'), _checked(real, 'real')
  if min(len(samples), len(real)) <= k:
    raise ValueError(f'precision_recall: {len(samples)} samples, {len(real)} real clips; give more than k={k} of each.')
  return {'precision': _covered(samples, real, k), 'recall': _covered(real, samples, k)}


def nearest(features: Array, others: Array) -> np.ndarray:
  """The Euclidean distance of each of `[n d]` to the nearest of `[m d]`, float64 [n]."""
  features, others = _checked(features, 'features'), _checked(others, 'others')
  return np.concatenate([rows.min(1) for _, rows in _distances(features, others)])


def memorisation(samples: Array, held_out: Array, train: Array) -> dict[str, Any]:
  """Are samples nearer to training clips than clips are that were never trained on? Features `[n d]` of each.

  Returns the medians of the distance to the nearest training clip, of samples and of held-out clips, their ratio, and
  the share of samples that are nearer than the nearest 5 % of held-out clips: about 0.05 for a model that has learned
  the distribution, near 1 for one that repeats what it has seen.
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


def _covered(points: np.ndarray, centres: np.ndarray, k: int) -> float:
  """The share of points inside of any of the balls around the centres that reach to their k-th nearest other one."""
  radii = np.concatenate([np.partition(rows, k, axis=1)[:, k] for _, rows in _distances(centres, centres)])
  return float(np.concatenate([(rows <= radii).any(1) for _, rows in _distances(points, centres)]).mean())


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Rows of the table of distances, a few at a time, with the number of the first; exactly 0 on the same array."""
  shift = b.mean(0) if len(b) else 0.0  # of both: large common means would cost digits
  a_centred, b_centred = a - shift, b - shift
  squares = (b_centred**2).sum(1)
  for start in range(0, len(a), ROWS):
    part = a_centred[start : start + ROWS]
    table = (part**2).sum(1)[:, None] + squares - 2 * part @ b_centred.T
    if a is b:
      table[np.arange(len(part)), np.arange(start, start + len(part))] = 0
    yield start, np.sqrt(np.clip(table, 0, None))


def _checked(features: Array, name: str) -> np.ndarray:
  features = np.asarray(features, np.float64)
  if features.ndim != 2 or not np.isfinite(features).all():
    raise ValueError(f'{name} are {features.shape}; pass finite [n d], one row per sample.')
  return features
