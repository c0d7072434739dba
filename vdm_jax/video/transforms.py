"""Transforms of frames between files and batches: pure functions of arrays and a random generator."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image


def to_float(video: np.ndarray) -> np.ndarray:
  """Convert uint8 in [0, 255] to float32 in [-1, 1], any shape; the inverse of `to_uint8`.

  >>> to_float(np.array([0, 255], np.uint8))
  array([-1.,  1.], dtype=float32)
  """
  if video.dtype != np.uint8:
    raise ValueError(f'to_float: {video.dtype} is not a valid type of pixels; convert them to uint8 in [0, 255].')
  return video.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(video) -> np.ndarray:
  """Convert float in [-1, 1] to uint8 in [0, 255], any shape, rounded; values outside are clipped.

  Raises ValueError on other types, and on NaN or infinite values, which would become black pixels.

  >>> to_uint8(np.array([-1.0, 0.0, 1.5]))
  array([  0, 128, 255], dtype=uint8)
  """
  video = np.asarray(video)
  if not np.issubdtype(video.dtype, np.floating):
    raise ValueError(f'to_uint8: {video.dtype} is not a valid type of pixels; convert them to float in [-1, 1].')
  if not np.isfinite(video).all():
    bad = int((~np.isfinite(video)).sum())
    raise ValueError(f'to_uint8: {bad} of {video.size} pixels are NaN or infinite; check the sampler, not the file.')
  scaled = (video.astype(np.float32) + np.float32(1)) * np.float32(127.5)
  return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def to_channels(video: np.ndarray, channels: int) -> np.ndarray:
  """Convert uint8 `[t h w 1 or 3]` to 1 channel (luma, Rec. 601) or 3 (gray repeated).

  Raises ValueError for other data with another number of channels, which have no such conversion.
  """
  if video.shape[-1] == channels:
    return video
  if video.dtype != np.uint8 or {video.shape[-1], channels} != {1, 3}:
    raise ValueError(
      f'the data are {video.dtype} with {video.shape[-1]} channels, but data.channels={channels}; set it to '
      f'{video.shape[-1]}.'
    )
  if channels == 3:
    return np.repeat(video, 3, axis=-1)
  luma = video.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  return np.rint(luma).astype(np.uint8)[..., None]


def resize_and_crop(video: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scale `[t h w c]` to cover the size, keeping the aspect ratio, and crop its center: `[t height width c]`.

  The scale is the larger of height / h and width / w, with bicubic interpolation. A wider clip loses equal parts at its
  left and right, a taller one at its top and bottom. Nothing is stretched or padded, and small clips are enlarged.
  Pixels are uint8; other types become float32, and their channels are scaled one by one.
  """
  _, h, w, _ = video.shape
  if (h, w) == (height, width):
    return video
  scale = min(h / height, w / width)  # source pixels per target pixel
  top, left = (h - scale * height) / 2, (w - scale * width) / 2
  return _resize(video, height, width, (left, top, left + scale * width, top + scale * height))


def resize_and_pad(video: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scale `[t h w c]` to fit into the size, keeping the aspect ratio, centered on black: `[t height width c]`."""
  t, h, w, c = video.shape
  scale = min(height / h, width / w)
  inner = max(1, round(h * scale)), max(1, round(w * scale))
  top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
  fitted = squash(video, *inner)
  padded = np.zeros((t, height, width, c), fitted.dtype)
  padded[:, top : top + inner[0], left : left + inner[1]] = fitted
  return padded


def squash(video: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scale `[t h w c]` to the size, whatever its aspect ratio: `[t height width c]`."""
  _, h, w, _ = video.shape
  return video if (h, w) == (height, width) else _resize(video, height, width, (0, 0, w, h))


def _resize(video: np.ndarray, height: int, width: int, box: tuple[float, float, float, float]) -> np.ndarray:
  """Scale the box (left, top, right, bottom) of each frame to the size, with bicubic interpolation."""
  if video.dtype != np.uint8 or video.shape[-1] not in (1, 3):
    return _resize_channels(video, height, width, box)
  resized = np.empty((len(video), height, width, video.shape[-1]), np.uint8)
  for source, target in zip(video, resized, strict=True):
    image = Image.fromarray(source if video.shape[-1] == 3 else source[..., 0])
    scaled = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    target[:] = np.asarray(scaled).reshape(target.shape)
  return resized


def _resize_channels(video: np.ndarray, height: int, width: int, box: tuple[float, ...]) -> np.ndarray:
  kept = np.uint8 if video.dtype == np.uint8 else np.float32
  resized = np.empty((len(video), height, width, video.shape[-1]), kept)
  for source, target in zip(video, resized, strict=True):
    for channel in range(video.shape[-1]):
      image = Image.fromarray(np.ascontiguousarray(source[..., channel], kept))
      target[..., channel] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))
  return resized


RESIZES = {'cover': resize_and_crop, 'squash': squash}  # values of data.resize


def pad_rows(video: np.ndarray, rows: int) -> np.ndarray:
  """Pad `[t h w c]` to `[t h + 2 rows w c]` by repeating the first and the last row `rows` times."""
  return np.pad(video, ((0, 0), (rows, rows), (0, 0), (0, 0)), 'edge')


def frame_numbers(start: int, num_frames: int, frame_skip: float) -> list[int]:
  """Return the frames nearest to start, start + frame_skip, ...; ties go to the later frame.

  >>> frame_numbers(3, 3, 2.5)
  [3, 6, 8]
  """
  return [start + math.floor(frame * frame_skip + 0.5) for frame in range(num_frames)]


def window_span(num_frames: int, frame_skip: float) -> int:
  """Return the number of frames from the first to the last of `frame_numbers`, both included."""
  return frame_numbers(0, num_frames, frame_skip)[-1] + 1


def window_start(available: int, num_frames: int, frame_skip: float, rng: np.random.Generator | None) -> int:
  """Draw the first of `num_frames` frames, each `frame_skip` after the previous one, uniformly; 0 if `rng` is None.

  Raises ValueError if `available` frames are too few.
  """
  span = window_span(num_frames, frame_skip)
  if available < span:
    raise ValueError(
      f'{available} frames are too few: num_frames={num_frames} with frame_skip={frame_skip} needs {span}; '
      'use fewer frames.'
    )
  return 0 if rng is None else int(rng.integers(available - span + 1))


def random_flip(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Mirror `[t h w c]` left to right with probability one half."""
  return video[:, :, ::-1] if rng.random() < 0.5 else video
