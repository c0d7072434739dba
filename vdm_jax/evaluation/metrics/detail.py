"""What is seen of pictures at full size that the readers of digits, which look at 16x16 means, do not see."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from vdm_jax.evaluation.metrics.frechet import frechet_distance
from vdm_jax.types import Array

SIDE = 16  # of the pictures of means
FRAMES = 4  # of each video, evenly spaced


def detail(samples: Array, real: Array) -> float | None:
  """How much of the fine structure of real videos samples have; both float `[n t h h c]` with h a multiple of 16.

  1 - F(samples, real) / F(flat, real), with F the Frechet distance of what is left of the pixels of a block when its
  mean is taken away, and the blocks those that a 16x16 picture has as pixels. 1: as real ones; 0: as a small picture
  enlarged by repeating its pixels; below 0: as far from real ones on the other side, such as noise. None at 16x16,
  where nothing is left. Raises ValueError for other sizes.
  """
  left, wanted = _left(samples), _left(real)
  if left.shape[1:] != wanted.shape[1:]:
    raise ValueError(f'detail: samples {np.shape(samples)} against real videos {np.shape(real)}; pass equal sizes.')
  if not wanted.any():
    return None
  return 1 - frechet_distance(left, wanted) / frechet_distance(np.zeros_like(wanted), wanted)


def _left(videos: Array) -> np.ndarray:
  """Pixels of all blocks without the block's mean: float32 [m d], d the pixels of a block."""
  videos = np.asarray(videos, np.float32)
  height, width = videos.shape[2:4]
  if height % SIDE or width % SIDE:
    raise ValueError(f'detail: videos have shape {videos.shape}; pass [n t h w c] with h and w multiples of {SIDE}.')
  frames = videos[:, np.linspace(0, videos.shape[1] - 1, min(FRAMES, videos.shape[1])).round().astype(int)]
  blocks = rearrange(frames, 'b t (h y) (w x) c -> (b t h w) (y x) c', h=SIDE, w=SIDE)
  return rearrange(blocks - blocks.mean(1, keepdims=True), 'n p c -> n (p c)')
