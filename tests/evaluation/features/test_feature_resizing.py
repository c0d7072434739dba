"""The three conventions of bilinear resizing follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax.evaluation.features.resizing import bilinear, weights

RULES = ('first corners', 'centers', 'corners')


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize(('size', 'new'), [(64, 224), (7, 7), (320, 299), (1, 5), (5, 1), (2, 3)])
def test_new_pixels_are_averages_of_at_most_two_neighbors(rule, size, new):
  matrix = weights(size, new, rule)
  np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
  assert matrix.min() >= 0 and (matrix > 0).sum(1).max() <= 2
  if size == new:
    np.testing.assert_allclose(matrix, np.eye(size), atol=1e-6)


def test_a_ramp_shows_the_positions_of_the_pixels():
  ramp = np.arange(4, dtype=np.float32)
  np.testing.assert_allclose(weights(4, 8, 'first corners') @ ramp, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3])
  np.testing.assert_allclose(weights(4, 8, 'centers') @ ramp, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
  np.testing.assert_allclose(weights(4, 7, 'corners') @ ramp, np.linspace(0, 3, 7))
  # Shrinking does not antialias: it selects pixels; only 'centers' samples the center of a new pixel.
  np.testing.assert_allclose(weights(4, 2, 'first corners') @ ramp, [0, 2])
  np.testing.assert_allclose(weights(4, 2, 'centers') @ ramp, [0.5, 2.5])
  np.testing.assert_allclose(weights(4, 2, 'corners') @ ramp, [0, 3])


@pytest.mark.parametrize('rule', RULES)
def test_rows_and_columns_are_resized_separately_for_each_channel_and_frame(rule):
  frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4, 3), dtype=np.uint8)
  made = np.asarray(bilinear(frames, 6, rule))
  assert made.dtype == np.float32
  expected = np.einsum('ih,jw,bthwc->btijc', weights(5, 6, rule), weights(4, 6, rule), frames.astype(np.float32))
  np.testing.assert_allclose(made, expected, rtol=1e-5)
