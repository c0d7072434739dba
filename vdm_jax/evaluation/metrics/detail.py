"""Fine structure of videos at full size, which the digit and scene classifiers do not see: they read 16x16 means."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from vdm_jax.evaluation.metrics.frechet import frechet_distance
from vdm_jax.types import Array

SIDE = 16  # pixels per side of the pictures of means
FRAMES = 4  # of each video, evenly spaced


def detail(samples: Array, real: Array) -> float | None:
  """Return how much of the fine structure of real videos samples have.

  1 - F(samples, real) / F(flat, real), with F the Fréchet distance between what is left of a block's pixels after its
  mean is subtracted, and blocks as large as a pixel of the 16x16 picture. 1: as in real videos. 0: as in a 16x16
  picture enlarged by repeating pixels. Below 0: farther from real videos than that, such as noise.

  Args:
    samples: float `[n t h h c]`, h a multiple of 16.
    real: real videos of the same size, `[m t h h c]`.

  Returns:
    The value, or None at 16x16, where blocks are single pixels.

  Raises:
    ValueError: other or unequal sizes.

  >>> import numpy as np
  >>> real = np.random.default_rng(0).uniform(-1, 1, (2, 4, 32, 32, 1))
  >>> round(detail(real, real), 3), detail(np.zeros_like(real), real)
  (1.0, 0.0)
  """
  left, wanted = _residuals(samples), _residuals(real)
  if left.shape[1:] != wanted.shape[1:]:
    raise ValueError(f'detail: samples {np.shape(samples)} and real videos {np.shape(real)} differ; pass equal sizes.')
  if not wanted.any():
    return None
  return 1 - frechet_distance(left, wanted) / frechet_distance(np.zeros_like(wanted), wanted)


def _residuals(videos: Array) -> np.ndarray:
  """Pixels of all blocks minus the block's mean: float32 [m d], d pixels per block."""
  videos = np.asarray(videos, np.float32)
  height, width = videos.shape[2:4]
  if height % SIDE or width % SIDE:
    raise ValueError(f'detail: videos have shape {videos.shape}; pass [n t h w c] with h and w multiples of {SIDE}.')
  frames = videos[:, np.linspace(0, videos.shape[1] - 1, min(FRAMES, videos.shape[1])).round().astype(int)]
  blocks = rearrange(frames, 'b t (h y) (w x) c -> (b t h w) (y x) c', h=SIDE, w=SIDE)
  return rearrange(blocks - blocks.mean(1, keepdims=True), 'n p c -> n (p c)')
