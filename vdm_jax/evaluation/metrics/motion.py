"""How much moves: the figure that tells a video from a picture that shimmers."""

from __future__ import annotations

from typing import Any

import numpy as np

from vdm_jax.types import Array

LEAST_MOTION = 0.5  # of the data's: below it, videos are called dynamic images


def motion(videos: Array) -> np.ndarray:
  """The mean of |x_i - x_(i-1)| over a clip's frames and pixels, in units of [-1, 1]: float64 [n] of uint8 [n t h w c].

  Raises ValueError for other arrays, and for single frames, which do not move.
  """
  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.dtype != np.uint8 or videos.shape[1] < 2:
    raise ValueError(f'motion: videos are {videos.dtype} {videos.shape}; pass uint8 [n t h w c] of 2 frames or more.')
  moved = [np.abs(np.diff(video.astype(np.int16), axis=0)).mean() for video in videos]
  return np.array(moved, np.float64) / 127.5


def compare_motion(samples: Array, data: Array) -> dict[str, Any]:
  """The mean motion [n] of samples and [m] of data, their ratio, and whether samples are what Snap (section 4.2) calls
  dynamic images: videos with dim motion, here less than half of the data's.
  """
  made, real = float(np.mean(samples)), float(np.mean(data))
  ratio = made / real if real else None
  return {'samples': made, 'data': real, 'ratio': ratio, 'dynamic_images': ratio is not None and ratio < LEAST_MOTION}
