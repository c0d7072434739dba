"""Pixels on their way from a file to a batch: pure functions of arrays and a random generator."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def to_float(video: np.ndarray) -> np.ndarray:
  """uint8 0 ... 255 to float32 -1 ... 1, any shape; the inverse of `to_uint8`."""
  if video.dtype != np.uint8:
    raise ValueError(f'to_float: pixels are {video.dtype}, but uint8 0 ... 255 is needed; convert them first.')
  return video.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video) -> np.ndarray:
  """float -1 ... 1 to uint8 0 ... 255, any shape, rounded; values outside are clipped.

  Raises ValueError on other types and on values that are not finite, which would come out as a black picture.
  """
  video = np.asarray(video)
  if not np.issubdtype(video.dtype, np.floating):
    raise ValueError(f'to_uint8: pixels are {video.dtype}, but floats in -1 ... 1 are needed.')
  if not np.isfinite(video).all():
    bad = int((~np.isfinite(video)).sum())
    raise ValueError(f'to_uint8: {bad} of {video.size} pixels are not finite; check the sampler, not the file.')
  scaled = (video.astype(np.float32) + np.float32(1)) * np.float32(127.5)
  return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def to_channels(video: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [t h w 1 or 3] with 1 (luma, Rec. 601) or 3 (grey repeated) channels."""
  if video.shape[-1] == channels:
    return video
  if channels == 3:
    return np.repeat(video, 3, axis=-1)
  luma = video.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  return np.rint(luma).astype(np.uint8)[..., None]


def resize_and_crop(video: np.ndarray, height: int, width: int) -> np.ndarray:
  """uint8 [t h w c] to [t height width c]: scaled to cover it, aspect kept, and its centre cut out.

  The scale is the larger of height / h and width / w, by bicubic interpolation: a clip that is wider than asked loses
  equally much at its left and right, one that is higher at its top and bottom, and one of the same aspect nothing.
  Nothing is stretched or padded, and small clips are enlarged.
  """
  _, h, w, c = video.shape
  if (h, w) == (height, width):
    return video
  scale = min(h / height, w / width)  # source pixels per target pixel
  top, left = (h - scale * height) / 2, (w - scale * width) / 2
  box = (left, top, left + scale * width, top + scale * height)
  resized = np.empty((len(video), height, width, c), np.uint8)
  for source, target in zip(video, resized, strict=True):
    image = Image.fromarray(source if c == 3 else source[..., 0])
    scaled = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    target[:] = np.asarray(scaled).reshape(target.shape)
  return resized


def pad_rows(video: np.ndarray, rows: int) -> np.ndarray:
  """[t h w c] to [t h + 2 rows w c]: the first and the last row repeated `rows` times above and below."""
  return np.pad(video, ((0, 0), (rows, rows), (0, 0), (0, 0)), 'edge')


def frame_numbers(start: int, num_frames: int, frame_skip: float) -> list[int]:
  """The frames nearest to start, start + frame_skip, ...; of two equally near ones the later."""
  return [start + math.floor(frame * frame_skip + 0.5) for frame in range(num_frames)]


def window_span(num_frames: int, frame_skip: float) -> int:
  """Frames from the first to the last of `frame_numbers`, both included."""
  return frame_numbers(0, num_frames, frame_skip)[-1] + 1


def window_start(available: int, num_frames: int, frame_skip: float, rng: np.random.Generator | None) -> int:
  """A uniformly random first frame for `num_frames` frames, each `frame_skip` after the one before; 0 without a
  generator.

  Raises ValueError if `available` frames are too few.
  """
  span = window_span(num_frames, frame_skip)
  if available < span:
    raise ValueError(
      f'{available} frames are too few: num_frames={num_frames} with frame_skip={frame_skip} needs {span}; '
      'ask for fewer.'
    )
  return 0 if rng is None else int(rng.integers(available - span + 1))


def random_flip(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """[t h w c], mirrored left to right with probability one half."""
  return video[:, :, ::-1] if rng.random() < 0.5 else video
