"""Confidence intervals over paired seeds, and the verdicts that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

HOLDS, INCONCLUSIVE, REVERSED = 'holds', 'not shown', 'reversed'
SIGNS = {'lower': -1, 'higher': 1}


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
  """Return the mean of first - second over seeds, and half the width of its 95 % interval by Student's t.

  Raises:
    ValueError: fewer than two pairs.
  """
  from scipy.stats import t as student

  differences = np.subtract(first, second, dtype=np.float64)
  count = len(differences)
  if count < 2:
    raise ValueError(f'{count} seed(s): a paired interval needs at least two.')
  spread = differences.std(ddof=1) / np.sqrt(count)
  return {'mean': float(differences.mean()), 'half_width': float(student.ppf(0.975, count - 1) * spread)}


def verdict(difference: Mapping[str, float], expected: str) -> str:
  """Return HOLDS if the whole interval is on the expected side of zero, REVERSED if on the other, else INCONCLUSIVE."""
  sign = SIGNS[expected]
  nearest, farthest = (sign * difference['mean'] + side * difference['half_width'] for side in (-1, 1))
  return HOLDS if nearest > 0 else REVERSED if farthest < 0 else INCONCLUSIVE
