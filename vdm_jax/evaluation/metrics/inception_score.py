"""The Inception Score of a classifier's logits, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vdm_jax.evaluation.metrics.contract import MetricInputs, MetricKind
from vdm_jax.types import Array

SPLITS = (1, 10)  # numbers of splits that a record reports


def inception_score(batches: Iterable[Array], count: int, *, splits: int = 1) -> tuple[float, float]:
  """Return exp E_x KL(p(y|x) || p(y)) (Salimans et al. 2016): its mean over splits, and their standard deviation.

  Args:
    batches: logits `[b k]`, `count` rows in all. Row i belongs to split i * splits // count, so the samples should be
      in random order. Sums are float64; one row per split is held in memory.
    count: total number of rows.
    splits: number of parts, each scored with its own p(y). The score is biased downward for few samples: with 10 splits
      it is lower than with one.

  Raises:
    ValueError: another number of rows, fewer rows than splits, logits that are not `[b k]` or not finite.

  >>> import numpy as np
  >>> sure_and_diverse = 100 * np.eye(4)
  >>> score, deviation = inception_score([sure_and_diverse], count=4)
  >>> round(score, 6), round(deviation, 6)  # at most the number of classes
  (4.0, 0.0)
  """
  if count < splits or splits < 1:
    raise ValueError(f'inception_score: {count} samples in {splits} splits; use at least one sample per split.')
  sums: np.ndarray | None = None
  seen, entropy = 0, np.zeros(splits)
  for batch in batches:
    log_probs = _log_softmax(np.asarray(batch, np.float64))
    probs = np.exp(log_probs)
    which = np.arange(seen, seen + len(probs)) * splits // count
    seen += len(probs)
    if seen > count:
      break
    sums = np.zeros((splits, probs.shape[1])) if sums is None else sums
    np.add.at(sums, which, probs)
    np.add.at(entropy, which, (probs * log_probs).sum(1))
  if seen != count or sums is None:
    raise ValueError(f'inception_score: got logits of at least {seen} samples, but count={count}.')
  members = sums.sum(1)  # probabilities add up to one per sample
  mean = sums / members[:, None]
  marginal = (mean * np.log(np.where(mean > 0, mean, 1))).sum(1)
  scores = np.exp(entropy / members - marginal)
  return float(scores.mean()), float(scores.std())


def compute(inputs: MetricInputs) -> dict[str, dict[str, Any]]:
  """Return the score with each number of SPLITS that the samples suffice for; the spread is over splits."""
  found = {}
  for splits in SPLITS:
    if splits <= inputs.count:
      value, spread = inception_score(inputs.samples(), inputs.count, splits=splits)
      found[f'splits_{splits}'] = {'value': value, 'spread': spread if splits > 1 else None}
  return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  if logits.ndim != 2:
    raise ValueError(f'inception_score: logits have shape {logits.shape}; pass [n k], one row per sample.')
  if not np.isfinite(logits).all():
    raise ValueError('inception_score: logits contain NaN or infinity; check the videos they were computed from.')
  return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


INCEPTION = MetricKind(compute, lower_is_better=False)
