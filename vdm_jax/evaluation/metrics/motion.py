"""The amount of motion, which tells videos from still images that flicker."""

from __future__ import annotations

from typing import Any

import numpy as np

from vdm_jax.types import Array

DYNAMIC_IMAGE_RATIO = 0.5  # samples with less than this share of the data's motion count as dynamic images


def motion(videos: Array) -> np.ndarray:
  """Return the mean of |x_i - x_(i-1)| over each clip's frames and pixels, in units of [-1, 1]: float64 [n].

  Args:
    videos: uint8 `[n t h w c]`, t >= 2.

  Raises:
    ValueError: another dtype, another shape, or single frames.

  >>> import numpy as np
  >>> video = np.zeros((1, 3, 4, 4, 1), np.uint8)
  >>> video[:, 1] = 255  # black, white, black
  >>> motion(video)
  array([2.])
  """
  videos = np.asarray(videos)
  if videos.ndim != 5 or videos.dtype != np.uint8 or videos.shape[1] < 2:
    raise ValueError(f'motion: videos are {videos.dtype} {videos.shape}; pass uint8 [n t h w c] with 2 or more frames.')
  moved = [np.abs(np.diff(video.astype(np.int16), axis=0)).mean() for video in videos]
  return np.array(moved, np.float64) / 127.5


def compare_motion(samples: Array, data: Array) -> dict[str, Any]:
  """Return the mean motion of samples and of data, their ratio, and whether the samples are dynamic images.

  Snap Video (section 4.2) calls videos with little motion "dynamic images"; here, less than half of the data's.

  Args:
    samples: motion of each sample, `[n]`.
    data: motion of each real clip, `[m]`.

  >>> compare_motion([0.1, 0.2], [0.5, 0.7])
  {'samples': 0.15..., 'data': 0.6, 'ratio': 0.25..., 'dynamic_images': True}
  """
  made, real = float(np.mean(samples)), float(np.mean(data))
  ratio = made / real if real else None
  dynamic_images = ratio is not None and ratio < DYNAMIC_IMAGE_RATIO
  return {'samples': made, 'data': real, 'ratio': ratio, 'dynamic_images': dynamic_images}
