from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.data.sources.digits import glyphs
from vdm_jax.evaluation import accuracy
from vdm_jax.evaluation.digits import digit_training
from vdm_jax.evaluation.digits.digit_training import calibrated, loss_fn, measure, render, train


def ink(n: int = 64) -> np.ndarray:
  return (glyphs('train')[0][:n] / 255).astype(np.float32)


def test_the_clean_half_of_a_batch_has_unchanged_glyphs():
  frames, center = map(np.asarray, jax.jit(render)(jax.random.key(0), ink()))
  corners = set()
  for glyph, frame, middle in zip(ink()[:32], frames[:32], center[:32], strict=True):
    y, x = corner = (middle - 3.5).astype(int)
    expected = np.full((16, 16), -1, np.float32)
    expected[y : y + 8, x : x + 8] = 2 * glyph - 1
    np.testing.assert_allclose(frame, expected, atol=1e-5)
    corners.add(tuple(corner))
  assert len(corners) > 16


def test_the_degraded_half_keeps_its_digits_at_their_centers():
  """Distortions are mild: the ink's center of mass, relative to the box, stays within a pixel or so."""
  frames, center = map(np.asarray, jax.jit(render)(jax.random.key(1), ink()))
  grid = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing='ij'), axis=-1)
  box = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing='ij'), axis=-1) - 3.5
  for glyph, frame, middle in zip(ink()[32:], frames[32:], center[32:], strict=True):
    mass = np.clip(frame + 0.4, 0, None)  # above the noise
    found = (mass[..., None] * grid).sum((0, 1)) / mass.sum() - middle
    wanted = (glyph[..., None] * box).sum((0, 1)) / glyph.sum()
    np.testing.assert_allclose(found, wanted, atol=1.6)
  assert np.abs(frames).max() <= 1


@pytest.mark.slow
def test_training_is_deterministic_and_learns(monkeypatch):
  monkeypatch.setattr(digit_training, 'BATCH_SIZE', 64)
  one, two = train(40, seed=3), train(40, seed=3)
  jax.tree.map(np.testing.assert_array_equal, one, two)
  _, digits = glyphs('train')
  frames, center = jax.jit(render)(jax.random.key(2), ink(256))
  # Knowing nothing costs ln 10 for the digit, and something for the place on top.
  assert loss_fn(one, frames, jnp.asarray(digits[:256]), center) < 0.9 * np.log(10)


@pytest.mark.slow
def test_training_reproduces_the_recorded_accuracy():
  fresh, record = measure(calibrated(train())), accuracy()
  for name, value in record.items():
    assert fresh[name] == pytest.approx(value, abs=0.01), name
