"""Intervals over paired seeds, and what they say of a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

HOLDS, OPEN, REVERSED = 'holds', 'does not show', 'reversed'
SIGNS = {'lower': -1, 'higher': 1}


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
  """The mean of first - second over seeds, and half the width of its 95 % interval by Student's t.

  Raises ValueError for fewer than two pairs, which have no interval.
  """
  from scipy.stats import t as student

  differences = np.subtract(first, second, dtype=np.float64)
  count = len(differences)
  if count < 2:
    raise ValueError(f'{count} seed(s): a paired interval needs two or more.')
  spread = differences.std(ddof=1) / np.sqrt(count)
  return {'mean': float(differences.mean()), 'half_width': float(student.ppf(0.975, count - 1) * spread)}


def judge(difference: Mapping[str, float], expected: str) -> str:
  """HOLDS where the whole interval lies on the expected side of zero, REVERSED on the other, else OPEN."""
  sign = SIGNS[expected]
  nearest, farthest = (sign * difference['mean'] + side * difference['half_width'] for side in (-1, 1))
  return HOLDS if nearest > 0 else REVERSED if farthest < 0 else OPEN
