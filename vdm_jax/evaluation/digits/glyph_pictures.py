"""Training of the digit and scene classifiers: pictures of train glyphs, the loss, and the optimizer."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.scipy.ndimage import map_coordinates

from vdm_jax.data.sources.digits import glyphs
from vdm_jax.evaluation.digits.digit_classifier import SIDE, Weights, save_weights
from vdm_jax.types import Array, Params

GLYPH = 8  # pixels per side of a glyph
BATCH_SIZE = 256
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.05
BLUR = np.outer((1, 2, 1), (1, 2, 1)) / 16


def random_glyphs(digit_key: Array, glyph_key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
  """Return uniformly random digits int [*shape], and train glyphs of them [*shape 8 8] in [0, 1]."""
  images, digits = glyphs('train')
  order = np.argsort(digits, kind='stable')
  ink, count = jnp.asarray(images[order] / 255, jnp.float32), np.bincount(digits)
  first = jnp.asarray(np.cumsum(count) - count)
  digit = jax.random.randint(digit_key, shape, 0, 10)
  which = jax.random.randint(glyph_key, shape, 0, 2**20) % jnp.asarray(count)[digit]
  return digit, ink[first[digit] + which]


def place(ink: Array, center: Array, shape: Array) -> Array:
  """Return a picture [16 16] with a glyph [8 8]; `shape` is unit normals for angle, height, width and slant."""
  angle, slant = 0.1 * shape[0], 0.1 * shape[3]
  stretch = jnp.exp(0.07 * shape[1:3])
  turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle) + slant, jnp.cos(angle)]])
  pixels = jnp.stack(jnp.meshgrid(*2 * [jnp.arange(SIDE, dtype=jnp.float32)], indexing='ij'))
  source = jnp.einsum('ij,jhw->ihw', turn * stretch, pixels - center[:, None, None], precision='highest')
  return map_coordinates(ink, list(source + (GLYPH - 1) / 2), order=1, mode='constant')


def degrade(keys: Mapping[str, Array], frames: Array, rough: Array) -> Array:
  """Return frames [n h w c] in [0, 1] as frames in [-1, 1], faded, blurred and noisy where `rough` [n].

  Args:
    keys: random keys for 'fade', 'blur', 'level' and 'noise'.
    frames: the frames.
    rough: which of them to degrade.
  """
  n, rough = len(frames), rough[:, None, None, None]
  fade = 1 - 0.35 * jax.random.uniform(keys['fade'], (n, 1, 1, 1)) * rough
  blur = 0.8 * jax.random.uniform(keys['blur'], (n, 1, 1, 1)) * rough
  soft = jax.scipy.signal.convolve(frames, jnp.asarray(BLUR, jnp.float32)[None, :, :, None], mode='same')
  frames = 2 * fade * (frames + blur * (soft - frames)) - 1
  level = 0.25 * jax.random.uniform(keys['level'], (n, 1, 1, 1)) ** 2 * rough
  return jnp.clip(frames + level * jax.random.normal(keys['noise'], frames.shape), -1, 1)


def classification_loss(
  logits: Array, label: Array, position: Array, center: Array, located: Array | float = 1.0
) -> Array:
  """Return the cross entropy of labels [n] plus the Huber loss of positions [n 2] where `located` [n]."""
  target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), LABEL_SMOOTHING)
  missed = optax.huber_loss(position, center).sum(-1) * located
  return (optax.softmax_cross_entropy(logits, target) + 0.2 * missed).mean()


def fit(
  network: nn.Module, shape: tuple[int, ...], loss: Callable[[Params, Array], Array], num_steps: int, *, seed: int
) -> Params:
  """Return parameters of a network for pictures of `shape`, trained on `loss(params, key)` with a new key each step."""
  schedule = optax.cosine_onecycle_schedule(num_steps, LEARNING_RATE, pct_start=0.1)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params: Params, state: optax.OptState, rng: Array) -> tuple[Params, optax.OptState]:
    updates, state = optimizer.update(jax.grad(loss)(params, rng), state, params)
    return optax.apply_updates(params, updates), state

  init_key, train_key = jax.random.split(jax.random.key(seed))
  params = jax.jit(network.init)(init_key, jnp.zeros((1, *shape)))
  state = optimizer.init(params)
  # A Python loop, because XLA:CPU runs gradients of convolutions far slower inside a scan.
  for index in range(num_steps):
    params, state = step(params, state, jax.random.fold_in(train_key, index))
  return jax.tree.map(np.asarray, params)


def make_weights(
  description: str,
  path: Path,
  num_steps: int,
  train: Callable[[int], Weights],
  measure: Callable[[Weights], dict[str, float]],
) -> None:
  """Run the command that trains a classifier, measures it, and rewrites its weights file."""
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, default=path, help='weights file to write')
  parser.add_argument('--steps', type=int, default=num_steps, help='training steps')
  args = parser.parse_args()
  began = time.monotonic()
  weights = train(args.steps)
  record = measure(weights)
  save_weights(args.out, weights, record)
  print(f'{args.out}: {record}, {time.monotonic() - began:.0f} s')
