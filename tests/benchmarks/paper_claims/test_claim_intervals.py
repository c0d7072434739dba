"""Intervals against closed forms, and the verdicts that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vdm_jax.benchmarks.paper_claims.intervals import paired, verdict


def test_the_interval_is_students_t():
  interval = paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
  assert interval == {'mean': 2.0, 'half_width': pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)}


def test_pairing_removes_common_effects_of_the_seeds():
  shared = np.array([0.0, 5.0, -3.0, 8.0])
  assert paired(shared + 1, shared) == {'mean': 1.0, 'half_width': 0.0}


def test_one_seed_has_no_interval():
  with pytest.raises(ValueError, match='1 seed'):
    paired([1.0], [2.0])


@pytest.mark.parametrize(
  ('mean', 'half_width', 'lower', 'higher'),
  [
    (-2.0, 1.0, 'holds', 'reversed'),
    (2.0, 1.0, 'reversed', 'holds'),
    (-1.0, 1.5, 'not shown', 'not shown'),
    (1.0, 1.0, 'not shown', 'not shown'),  # an interval that ends at zero contains it
    (0.0, 0.0, 'not shown', 'not shown'),  # no difference in any seed
    (-0.1, 0.0, 'holds', 'reversed'),
  ],
)
def test_the_whole_interval_decides_the_verdict(mean, half_width, lower, higher):
  difference = {'mean': mean, 'half_width': half_width}
  assert (verdict(difference, 'lower'), verdict(difference, 'higher')) == (lower, higher)
