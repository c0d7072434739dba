"""Random keys: what each draw is derived from, by name.

Every random number is a pure function of the seed and of what it is for, so that resumption, another mesh or another
batch size changes none. A key is folded with the streams below, each numbered within the key it belongs to; renumbering
one changes the numbers that published models and unfinished runs draw.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from vdm_jax.types import Array


class ExampleStream(enum.IntEnum):
  """Draws of one training example, from the example's key."""

  LOGSNR = 0
  NOISE = 1
  SELF_CONDITIONING = 2
  AUGMENTATION_LEVEL = 3  # noise level of the low-resolution input of a second stage
  AUGMENTATION_NOISE = 4


class VideoStream(enum.IntEnum):
  """Draws of one sampled video, from the video's key."""

  INITIAL_NOISE = 0
  STEPS = 1  # folded again with the step's number
  SECOND_STAGE = 2  # the key of the second stage's video, with streams of its own
  WINDOWS = 3  # long videos: folded again with the window's number


class SecondStageStream(enum.IntEnum):
  """Further draws of a second stage, from its video's key (after `VideoStream`, whose 0 and 1 it also uses)."""

  AUGMENTATION_NOISE = 2


class StepStream(enum.IntEnum):
  """Draws of a composed sampling step, from the step's key."""

  INNER_STEP = 0
  NOISE = 1


def fold_in(rng: Array, stream: int) -> Array:
  """Return the key of a stream or number, derived from one key or from each of a batch of keys `[b]`."""
  rng = as_keys(rng)
  stream = int(stream) if isinstance(stream, enum.IntEnum) else stream
  return jax.random.fold_in(rng, stream) if rng.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(rng, stream)


def as_keys(rng: Array) -> Array:
  """Return typed keys `[]` or `[b]`, also from the uint32 `[2]` or `[b 2]` that `jax.random.PRNGKey` makes."""
  return rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)


def unit_noise(rng: Array, shape: tuple[int, ...]) -> Array:
  """Return standard normal noise `[b ...]`, float32.

  `rng` is one key, or a key per example `[b]`, in which case no example depends on its batch.
  """
  rng = as_keys(rng)
  if rng.ndim == 0:
    return jax.random.normal(rng, shape)
  return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(rng)
