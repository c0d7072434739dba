"""Trains the digit scorer and rewrites its weights file: `python -m vdm_jax.evaluation.digit_training`.

Minutes on two cores; the same machine gives the same file. Every frame is drawn anew from a train glyph. Half of them
are clean, as in the data set; the others are moved by parts of a pixel, turned, stretched, blurred, faded and noisy, so
that the softness of generated clips does not decide the verdict. The held-out glyphs serve the final measurement only.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.scipy.ndimage import map_coordinates

from vdm_jax.data.digits import Digits, glyphs
from vdm_jax.evaluation.digits import SIDE, WEIGHTS_PATH, FrameReader, Weights, parse_caption, read_clips, save_weights
from vdm_jax.types import Array, Params

GLYPH = 8  # pixels per side of a glyph
BATCH_SIZE = 256
NUM_STEPS = 1500
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.05
NUM_CLIPS = 1000  # in the measurement
BLUR = np.outer((1, 2, 1), (1, 2, 1)) / 16

_OUT = flags.DEFINE_string('out', str(WEIGHTS_PATH), 'Weights file to write.')
_STEPS = flags.DEFINE_integer('steps', NUM_STEPS, 'Training steps.', lower_bound=1)


def draw(rng: Array, ink: Array) -> tuple[Array, Array]:
  """Draws glyphs float32 [n 8 8] in [0, 1] into frames [n 16 16] in [-1, 1], the later half distorted.

  Returns the frames and the centres [n 2] of the glyphs' boxes, (y, x) in pixels.
  """
  n = len(ink)
  rough = jnp.arange(n) >= n // 2
  keys = dict(zip(('corner', 'shape', 'fade', 'blur', 'noise', 'level'), jax.random.split(rng, 6), strict=True))
  corner = jax.random.uniform(keys['corner'], (n, 2), maxval=SIDE - GLYPH + 1)
  corner = jnp.where(rough[:, None], jnp.minimum(corner, SIDE - GLYPH), jnp.floor(corner))
  centre = corner + (GLYPH - 1) / 2
  frames = jax.vmap(_place)(ink, centre, jax.random.normal(keys['shape'], (n, 4)) * rough[:, None])
  fade = 1 - 0.35 * jax.random.uniform(keys['fade'], (n, 1, 1)) * rough[:, None, None]
  blur = 0.8 * jax.random.uniform(keys['blur'], (n, 1, 1)) * rough[:, None, None]
  soft = jax.scipy.signal.convolve(frames, jnp.asarray(BLUR, jnp.float32)[None], mode='same')
  frames = 2 * fade * (frames + blur * (soft - frames)) - 1
  level = 0.25 * jax.random.uniform(keys['level'], (n, 1, 1)) ** 2 * rough[:, None, None]
  noise = level * jax.random.normal(keys['noise'], frames.shape)
  return jnp.clip(frames + noise, -1, 1), centre


def _place(ink: Array, centre: Array, shape: Array) -> Array:
  """One glyph [8 8] in a picture [16 16]; `shape` holds unit normals for angle, height, width and slant."""
  angle, slant = 0.1 * shape[0], 0.1 * shape[3]
  stretch = jnp.exp(0.07 * shape[1:3])
  turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle) + slant, jnp.cos(angle)]])
  pixels = jnp.stack(jnp.meshgrid(*2 * [jnp.arange(SIDE, dtype=jnp.float32)], indexing='ij'))
  source = jnp.einsum('ij,jhw->ihw', turn * stretch, pixels - centre[:, None, None], precision='highest')
  return map_coordinates(ink, list(source + (GLYPH - 1) / 2), order=1, mode='constant')


def loss_fn(params: Params, frames: Array, digit: Array, centre: Array) -> Array:
  read = FrameReader().apply(params, frames)
  target = optax.smooth_labels(jax.nn.one_hot(digit, 10), LABEL_SMOOTHING)
  located = optax.huber_loss(read.position, centre).sum(-1)
  return (optax.softmax_cross_entropy(read.logits, target) + 0.2 * located).mean()


def train(num_steps: int = NUM_STEPS, *, seed: int = 0) -> Params:
  """Trains the frame network on the train glyphs; digits are drawn evenly, like those of the data set."""
  images, digits = glyphs('train')
  order = np.argsort(digits, kind='stable')
  ink, count = jnp.asarray(images[order] / 255, jnp.float32), np.bincount(digits)
  first = jnp.asarray(np.cumsum(count) - count)
  schedule = optax.cosine_onecycle_schedule(num_steps, LEARNING_RATE, pct_start=0.1)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params: Params, state: optax.OptState, rng: Array) -> tuple[Params, optax.OptState]:
    digit_key, glyph_key, draw_key = jax.random.split(rng, 3)
    digit = jax.random.randint(digit_key, (BATCH_SIZE,), 0, 10)
    which = jax.random.randint(glyph_key, (BATCH_SIZE,), 0, 2**20) % jnp.asarray(count)[digit]
    frames, centre = draw(draw_key, ink[first[digit] + which])
    grads = jax.grad(loss_fn)(params, frames, digit, centre)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  init_key, train_key = jax.random.split(jax.random.key(seed))
  params = jax.jit(FrameReader().init)(init_key, jnp.zeros((1, SIDE, SIDE)))
  state = optimizer.init(params)
  # Steps are dispatched one by one: XLA:CPU runs the gradients of convolutions far slower inside of a scan.
  for index in range(num_steps):
    params, state = step(params, state, jax.random.fold_in(train_key, index))
  return jax.tree.map(np.asarray, params)


def clips(split: str, num_clips: int, *, seed: int) -> tuple[np.ndarray, list[str]]:
  """Clean 8x16x16 clips in [-1, 1] and their captions, first half plain, second half with `random_start`."""
  shown = []
  for random_start, number in ((False, num_clips - num_clips // 2), (True, num_clips // 2)):
    source = Digits(split=split, seed=seed, random_start=random_start)
    shown += [source[index] for index in range(number)]
  videos = np.stack([clip.video for clip in shown]).astype(np.float32) / 127.5 - 1
  return videos, [clip.caption for clip in shown]


def calibrated(params: Params) -> Weights:
  """Adds the mean and the scale of each clip feature on clean training clips."""
  videos, _ = clips('train', NUM_CLIPS, seed=1)
  raw = read_clips(videos, weights=Weights(params, np.float32(0), np.float32(1))).features
  return Weights(params, raw.mean(0).astype(np.float32), np.maximum(raw.std(0), 1e-3).astype(np.float32))


def measure(weights: Weights, num_clips: int = NUM_CLIPS, *, seed: int = 0) -> dict[str, float]:
  """Accuracy on clean clips of held-out glyphs: shares of right clips, frames and directions, and the consistency."""
  videos, captions = clips('test', num_clips, seed=seed)
  digit, direction = np.array([parse_caption(caption) for caption in captions]).T
  read = read_clips(videos, weights=weights)
  shares = {
    'digit': read.digit == digit,
    'frame_digit': read.frame_digits == digit[:, None],
    'direction': read.direction == direction,
    'frame_consistency': read.frame_digits == read.digit[:, None],
  }
  return {name: round(float(right.mean()), 4) for name, right in shares.items()} | {'clips': num_clips}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {argv[1:]}')
  began = time.monotonic()
  weights = calibrated(train(_STEPS.value))
  record = measure(weights)
  save_weights(Path(_OUT.value), weights, record)
  print(f'{_OUT.value}: {record}, {time.monotonic() - began:.0f} s')


if __name__ == '__main__':
  app.run(main)
