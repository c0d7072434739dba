"""Trains the scene reader and rewrites its weights file: `python -m vdm_jax.evaluation.digits.scene_training`.

Takes minutes on two cores; the result is reproducible on the same machine. Every picture shows two train glyphs of
different colors at random positions; half of the pictures are degraded as for the digit classifier. One color is
queried, which is absent in a quarter of the pictures. Held-out glyphs are used for the final measurement only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.data.sources.digits import COLORS, Digits, Phrase, parse_caption
from vdm_jax.evaluation.digits.digit_classifier import SIDE, Weights
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
from vdm_jax.evaluation.digits.scene_reader import (
  ABSENT,
  INKS,
  READER,
  WEIGHTS_PATH,
  glyph_features,
  read_scenes,
  score,
  unmixed,
)
from vdm_jax.types import Array, Params
from vdm_jax.video import to_float

NUM_STEPS = 1500
NUM_CLIPS = 500  # for the measurement
SIZES = (16, 64)  # pixels per side of the clips for the measurement


def render(rng: Array, ink: Array) -> tuple[Array, Array, Array]:
  """Render pairs of glyphs, float32 [n 2 8 8] in [0, 1], into pictures, with a queried color for each.

  Returns:
    The reader's input [n 16 16 2] in [-1, 1]; which glyph has the queried color, int [n], 2 if none; and the centers
    [n 2 2] of the glyphs' boxes, (y, x) in pixels. The second half is degraded.
  """
  n = len(ink)
  rough = jnp.arange(n) >= n // 2
  names = ('corner', 'shape', 'fade', 'blur', 'noise', 'level', 'color', 'queried')
  keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
  center = jax.random.uniform(keys['corner'], (n, 2, 2), maxval=SIDE - GLYPH) + (GLYPH - 1) / 2
  shape = jax.random.normal(keys['shape'], (n, 2, 4)) * rough[:, None, None]
  shown = jax.vmap(jax.vmap(place))(ink, center, shape)  # [n 2 16 16]
  inks = jnp.stack([jnp.asarray(INKS[name]) for name in COLORS])
  order = jax.vmap(lambda key: jax.random.permutation(key, len(COLORS)))(jax.random.split(keys['color'], n))
  frames = (shown[..., None] * inks[order[:, :2], None, None]).max(1)
  frames = (degrade(keys, frames, rough) + 1) / 2
  queried = jnp.minimum(jax.random.randint(keys['queried'], (n,), 0, 8) // 3, 2)  # 3, 3 and 2 of 8
  ink = jnp.take_along_axis(inks[order], queried[:, None, None], axis=1)
  return 2 * jnp.stack(unmixed(frames, ink[:, :, None]), axis=-1) - 1, queried, center


def loss_fn(params: Params, frames: Array, digit: Array, center: Array) -> Array:
  """Return the loss for digits [n] with centers [n 2]; where the digit is ABSENT, its center is ignored."""
  read = READER.apply(params, frames)
  return classification_loss(read.logits, digit, read.position, center, digit != ABSENT)


def train(num_steps: int = NUM_STEPS, *, seed: int = 0) -> Params:
  """Return parameters of the reader, trained on the train glyphs."""

  def loss(params: Params, rng: Array) -> Array:
    digit_key, glyph_key, render_key = jax.random.split(rng, 3)
    digit, ink = random_glyphs(digit_key, glyph_key, (BATCH_SIZE, 2))
    frames, queried, center = render(render_key, ink)
    rows, one = jnp.arange(BATCH_SIZE), jnp.minimum(queried, 1)
    return loss_fn(params, frames, jnp.where(queried < 2, digit[rows, one], ABSENT), center[rows, one])

  return fit(READER, (SIDE, SIDE, 2), loss, num_steps, seed=seed)


def clips(split: str, count: int, side: int, *, seed: int) -> tuple[np.ndarray, list[tuple[Phrase, ...]]]:
  """Return clips [n 16 side side 3] in [-1, 1] of two digits with all motions, and their phrases."""
  modes = dict(num_digits=2, colors=True, motions=True, channels=3)  # noqa: C408
  source = Digits(split=split, seed=seed, num_frames=16, height=side, width=side, **modes)
  shown = [source[index] for index in range(count)]
  return to_float(np.stack([clip.video for clip in shown])), [parse_caption(clip.caption) for clip in shown]


def calibrated(params: Params) -> Weights:
  """Return weights with the mean and scale of the features of glyphs in training clips."""
  videos, _ = clips('train', NUM_CLIPS, SIDE, seed=1)
  raw = glyph_features(read_scenes(videos, weights=Weights(params, np.float32(0), np.float32(1))))
  return Weights(params, raw.mean(0).astype(np.float32), np.maximum(raw.std(0), 1e-3).astype(np.float32))


def measure(weights: Weights, num_clips: int = NUM_CLIPS, *, seed: int = 0) -> dict[str, float]:
  """Return the accuracy on clips of held-out glyphs; `absent` is that for colors that no digit has."""
  found: dict[str, float] = {}
  for side in SIZES:
    videos, captions = clips('test', num_clips, side, seed=seed)
    reading = read_scenes(videos, weights=weights)
    right = score(reading, captions)
    right['absent'] = np.array(
      [
        reading.present[row, index] < 0.5
        for row, phrases in enumerate(captions)
        for index, color in enumerate(COLORS)
        if color not in {phrase.color for phrase in phrases}
      ]
    )
    found |= {f'{name}_{side}': round(float(values.mean()), 4) for name, values in right.items()}
  return found | {'clips': num_clips}


if __name__ == '__main__':
  make_weights(__doc__, WEIGHTS_PATH, NUM_STEPS, lambda num_steps: calibrated(train(num_steps)), measure)
