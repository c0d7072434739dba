"""Noise levels of single frames in training: which frames of an example share a level, and which have none.

Diffusion forcing (Chen et al. 2024) trains every frame at a level of its own. A network that has seen unequal levels
can hold given frames by entering them without noise (`sampling.given_frames`), instead of being guided towards them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.schedule import LogsnrSampler
from vdm_jax.types import Array

# Which levels the frames of a training example have; values of `model.frame_logsnr`.
FRAME_LEVELS = ('shared', 'images', 'independent', 'given')
# Patterns under which a network learns to read frames without noise beside noisy ones.
HOLDS_FRAMES = ('independent', 'given')
# The level of a frame without noise: a standard deviation of 4.5e-5 of the signal's.
CLEAN_LOGSNR = 20.0


def frame_levels(
  pattern: str,
  sample_logsnr: LogsnrSampler,
  rng: Array,
  size: int,
  num_video: int,
  num_images: int = 0,
  *,
  sample_image_logsnr: LogsnrSampler | None = None,
) -> Array:
  """Return the noise levels of a batch of training examples, `[b]` or one per frame, `[b num_video + num_images]`.

  Every frame's level alone has the distribution of `sample_logsnr`, or an image's own that of `sample_image_logsnr`.
  The video's, or its first frame's, is that which 'shared' draws from the same key. Levels that are independent within
  an example are spread over the batch as evenly as those, each in a random order of its own (Latin hypercube sampling).

  Args:
    pattern: 'shared': one level for all frames, images included, returned as `[b]`.
      'images': one for the video, and one for each appended image. VDM does not say which levels those have.
      'independent': one for each frame (diffusion forcing).
      'given': the shared one, but some frames of the video are given, at CLEAN_LOGSNR: none in half of the examples, in
      the others each with a probability that is uniform in [0, 1] per example, though never all.
    sample_logsnr: the distribution of levels, `(rng, n) -> logsnr[n]`.
    rng: one key.
    size: the number b of examples.
    num_video, num_images: frames of the video, and appended images.
    sample_image_logsnr: the distribution of the levels of images that have their own; that of the video by default.

  Raises:
    ValueError: the pattern is unknown, or has no effect: 'images' without any, 'given' for a single frame.

  >>> import jax
  >>> from vdm_jax import diffusion
  >>> draw = lambda pattern: diffusion.frame_levels(pattern, diffusion.cosine_sampler(), jax.random.key(0), 8, 4, 2)
  >>> [draw(pattern).shape for pattern in ('shared', 'independent')]
  [(8,), (8, 6)]
  >>> [len(set(levels.tolist())) for levels in (draw('images')[0], draw('independent')[0])]
  [3, 6]
  """
  if pattern not in FRAME_LEVELS:
    raise ValueError(f'frame levels {pattern!r} are unknown: choose from {", ".join(FRAME_LEVELS)}.')
  if pattern == 'images' and not num_images:
    raise ValueError("model.frame_logsnr='images' has no effect without appended images: set data.num_images.")
  if pattern == 'given' and num_video < 2:
    raise ValueError("model.frame_logsnr='given' needs two frames or more, of which one is not given.")
  shared = sample_logsnr(rng, size)
  if pattern == 'shared':
    return shared
  video = jnp.broadcast_to(shared[:, None], (size, num_video))
  images = jnp.broadcast_to(shared[:, None], (size, num_images))
  others = jax.random.fold_in(rng, 1)
  if pattern == 'given':
    return jnp.concatenate([jnp.where(_given(others, size, num_video), CLEAN_LOGSNR, video), images], axis=1)
  if pattern == 'independent':
    frames = _permuted(sample_logsnr, jax.random.fold_in(others, 1), size, num_video - 1)
    video = jnp.concatenate([shared[:, None], frames], axis=1)
  images = _permuted(sample_image_logsnr or sample_logsnr, others, size, num_images)
  return jnp.concatenate([video, images], axis=1)


def _permuted(sample_logsnr: LogsnrSampler, rng: Array, size: int, count: int) -> Array:
  """Return `count` draws of a batch's levels, each in a random order of its own: `[b count]`."""

  def draw(key: Array) -> Array:
    levels, order = jax.random.split(key)
    return jax.random.permutation(order, sample_logsnr(levels, size))

  return jnp.stack([draw(key) for key in jax.random.split(rng, count)], axis=1) if count else jnp.zeros((size, 0))


def _given(rng: Array, size: int, num_video: int) -> Array:
  """Return which frames are given, bool `[b num_video]`."""
  shares, scores = jax.random.split(rng)
  share = jax.random.uniform(shares, (size, 1), minval=-1.0)
  score = jax.random.uniform(scores, (size, num_video))
  return (score < share) & (score < score.max(axis=1, keepdims=True))
