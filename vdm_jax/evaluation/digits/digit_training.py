"""Trains the digit classifier and rewrites its weights file: `python -m vdm_jax.evaluation.digits.digit_training`.

Takes minutes on two cores; the result is reproducible on the same machine. Every frame is rendered from a train glyph.
Half of the frames are clean, as in the data set. The others are shifted by fractions of a pixel, rotated, stretched,
blurred, faded and noisy, so that the soft edges of generated clips do not change the prediction. Held-out glyphs are
used for the final measurement only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.data.sources.digits import Digits
from vdm_jax.evaluation.digits.digit_classifier import (
  SIDE,
  WEIGHTS_PATH,
  FrameClassifier,
  Weights,
  parse_caption,
  read_clips,
)
from vdm_jax.evaluation.digits.glyph_pictures import (
  BATCH_SIZE,
  GLYPH,
  classification_loss,
  degrade,
  fit,
  make_weights,
  place,
  random_glyphs,
)
from vdm_jax.types import Array, Params

NUM_STEPS = 1500
NUM_CLIPS = 1000  # for the measurement


def render(rng: Array, ink: Array) -> tuple[Array, Array]:
  """Render glyphs float32 [n 8 8] in [0, 1] into frames; the second half is distorted.

  Returns:
    Frames [n 16 16] in [-1, 1], and the centers [n 2] of the glyphs' boxes, (y, x) in pixels.
  """
  n = len(ink)
  rough = jnp.arange(n) >= n // 2
  keys = dict(zip(('corner', 'shape', 'fade', 'blur', 'noise', 'level'), jax.random.split(rng, 6), strict=True))
  corner = jax.random.uniform(keys['corner'], (n, 2), maxval=SIDE - GLYPH + 1)
  corner = jnp.where(rough[:, None], jnp.minimum(corner, SIDE - GLYPH), jnp.floor(corner))
  center = corner + (GLYPH - 1) / 2
  frames = jax.vmap(place)(ink, center, jax.random.normal(keys['shape'], (n, 4)) * rough[:, None])
  return degrade(keys, frames[..., None], rough)[..., 0], center


def loss_fn(params: Params, frames: Array, digit: Array, center: Array) -> Array:
  """Return the loss of the network on frames [n 16 16] of digits [n] with centers [n 2]."""
  read = FrameClassifier().apply(params, frames)
  return classification_loss(read.logits, digit, read.position, center)


def train(num_steps: int = NUM_STEPS, *, seed: int = 0) -> Params:
  """Return parameters of the network, trained on the train glyphs."""

  def loss(params: Params, rng: Array) -> Array:
    digit_key, glyph_key, render_key = jax.random.split(rng, 3)
    digit, ink = random_glyphs(digit_key, glyph_key, (BATCH_SIZE,))
    frames, center = render(render_key, ink)
    return loss_fn(params, frames, digit, center)

  return fit(FrameClassifier(), (SIDE, SIDE), loss, num_steps, seed=seed)


def clips(split: str, num_clips: int, *, seed: int) -> tuple[np.ndarray, list[str]]:
  """Return clean 8x16x16 clips in [-1, 1] and their captions; the second half has `random_start`."""
  shown = []
  for random_start, number in ((False, num_clips - num_clips // 2), (True, num_clips // 2)):
    source = Digits(split=split, seed=seed, random_start=random_start)
    shown += [source[index] for index in range(number)]
  videos = np.stack([clip.video for clip in shown]).astype(np.float32) / 127.5 - 1
  return videos, [clip.caption for clip in shown]


def calibrated(params: Params) -> Weights:
  """Return weights with the mean and scale of each clip feature on clean training clips."""
  videos, _ = clips('train', NUM_CLIPS, seed=1)
  raw = read_clips(videos, weights=Weights(params, np.float32(0), np.float32(1))).features
  return Weights(params, raw.mean(0).astype(np.float32), np.maximum(raw.std(0), 1e-3).astype(np.float32))


def measure(weights: Weights, num_clips: int = NUM_CLIPS, *, seed: int = 0) -> dict[str, float]:
  """Return the accuracy on clean clips of held-out glyphs: of clips, frames and directions, and the consistency."""
  videos, captions = clips('test', num_clips, seed=seed)
  digit, direction = np.array([parse_caption(caption) for caption in captions]).T
  read = read_clips(videos, weights=weights)
  correct = {
    'digit': read.digit == digit,
    'frame_digit': read.frame_digits == digit[:, None],
    'direction': read.direction == direction,
    'frame_consistency': read.frame_digits == read.digit[:, None],
  }
  return {name: round(float(right.mean()), 4) for name, right in correct.items()} | {'clips': num_clips}


if __name__ == '__main__':
  make_weights(__doc__, WEIGHTS_PATH, NUM_STEPS, lambda num_steps: calibrated(train(num_steps)), measure)
