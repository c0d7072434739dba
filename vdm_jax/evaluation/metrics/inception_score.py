"""The Inception Score of a classifier's logits, in one pass."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vdm_jax.types import Array


def inception_score(batches: Iterable[Array], count: int, *, splits: int = 1) -> tuple[float, float]:
  """exp E_x KL(p(y|x) || p(y)) (Salimans et al. 2016): its mean over splits, and their standard deviation.

  Args:
    batches: logits `[b k]`, in all `count` rows. Row i belongs to split i * splits // count, so that the samples should
      be in random order; sums are float64 and one row per split is held.
    splits: how many parts are scored each by its own p(y). The score of few samples is too small: that of 10 splits is
      below that of one.

  Raises ValueError for another number of rows, fewer rows than splits, logits that are not `[b k]` or not finite.
  """
  if count < splits or splits < 1:
    raise ValueError(f'inception_score: {count} samples in {splits} splits; give one sample or more to each.')
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
    raise ValueError(f'inception_score: there are logits of {seen} samples or more, but count={count}.')
  members = sums.sum(1)  # probabilities add up to one per sample
  mean = sums / members[:, None]
  marginal = (mean * np.log(np.where(mean > 0, mean, 1))).sum(1)
  scores = np.exp(entropy / members - marginal)
  return float(scores.mean()), float(scores.std())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
  if logits.ndim != 2:
    raise ValueError(f'inception_score: logits have shape {logits.shape}; pass [n k], one row per sample.')
  if not np.isfinite(logits).all():
    raise ValueError('inception_score: logits hold NaN or infinity; look at the videos they were computed from.')
  return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
