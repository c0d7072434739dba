"""Random streams: named constants that keys are folded with.

Every random number is a pure function of the seed and its purpose, so that resuming a run, another mesh or another
batch size changes none. Streams are numbered within the key that they are folded into. Renumbering one changes the
numbers that published models and unfinished runs draw.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from vdm_jax.types import Array


class ExampleStream(enum.IntEnum):
  """Streams of a training example's key."""

  LOGSNR = 0
  NOISE = 1
  SELF_CONDITIONING = 2
  AUGMENTATION_LEVEL = 3  # noise level of the low-resolution input of a second stage
  AUGMENTATION_NOISE = 4


class VideoStream(enum.IntEnum):
  """Streams of a sampled video's key."""

  INITIAL_NOISE = 0
  STEPS = 1  # folded again with the step's number
  SECOND_STAGE = 2  # the key of the same video in the second stage
  WINDOWS = 3  # long videos: folded again with the window's number


class SecondStageStream(enum.IntEnum):
  """Further streams of a second stage's video key, which also has streams 0 and 1 of `VideoStream`."""

  AUGMENTATION_NOISE = 2


class StepStream(enum.IntEnum):
  """Streams of the key of a composed sampling step."""

  INNER_STEP = 0
  NOISE = 1


def fold_in(rng: Array, stream: int) -> Array:
  """Return the key of a stream or number, from one key or from each of a batch of keys `[b]`.

  >>> import jax
  >>> from vdm_jax import rng
  >>> key = rng.fold_in(jax.random.key(0), rng.VideoStream.STEPS)
  >>> rng.fold_in(jax.random.split(key, 3), 7).shape
  (3,)
  """
  rng = as_keys(rng)
  stream = int(stream) if isinstance(stream, enum.IntEnum) else stream
  return jax.random.fold_in(rng, stream) if rng.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(rng, stream)


def as_keys(rng: Array) -> Array:
  """Return typed keys `[]` or `[b]`, also from the uint32 `[2]` or `[b 2]` of `jax.random.PRNGKey`."""
  return rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)


def unit_noise(rng: Array, shape: tuple[int, ...]) -> Array:
  """Return standard normal noise `[b ...]`, float32.

  Args:
    rng: one key, or a key per example `[b]`, in which case no example depends on its batch.
    shape: `(b, ...)`.

  >>> import jax
  >>> from vdm_jax import rng
  >>> rng.unit_noise(jax.random.split(jax.random.key(0), 2), (2, 4, 8, 8, 3)).shape
  (2, 4, 8, 8, 3)
  """
  rng = as_keys(rng)
  if rng.ndim == 0:
    return jax.random.normal(rng, shape)
  return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(rng)
