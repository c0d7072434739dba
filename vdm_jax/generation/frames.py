"""Frames of long videos: their storage, and the part of it that a window observes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from vdm_jax.generation.conditional import Observed
from vdm_jax.generation.plan import Window
from vdm_jax.models import Model


class Frames(Protocol):
  """Storage of the frames of videos of one size, numbered from 0: float32 in [-1, 1] at this interface."""

  def read(self, videos: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """Return the frames `[len(videos) len(positions) h w c]`."""

  def write(self, videos: Sequence[int], positions: Sequence[int], x: np.ndarray) -> None:
    """Store frames of the shape that `read` returns."""


class InMemory:
  """Frames in an array `[n t h w c]`.

  >>> import numpy as np
  >>> from vdm_jax.generation.frames import InMemory
  >>> frames = InMemory(np.zeros((2, 16, 8, 8, 3), np.float32))
  >>> frames.read([0, 1], [3, 5, 7]).shape
  (2, 3, 8, 8, 3)
  """

  def __init__(self, videos: np.ndarray):
    self.videos = videos

  def read(self, videos: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    return self.videos[np.ix_(videos, positions)]

  def write(self, videos: Sequence[int], positions: Sequence[int], x: np.ndarray) -> None:
    self.videos[np.ix_(videos, positions)] = x


def frame_shape(model: Model) -> tuple[int, int, int]:
  """Return height, width and channels of the model's frames, without padding rows."""
  _, height, width, channels = model.video_shape
  return height - 2 * model.config['pad_rows'], width, channels


def unpad(model: Model, x: np.ndarray) -> np.ndarray:
  """Return videos `[b t h w c]` without padding rows."""
  rows = model.config['pad_rows']
  return x[:, :, rows : x.shape[2] - rows]


def observe(
  window: Window, model: Model, frames: Frames, videos: np.ndarray, low: Frames | None, index_of: Mapping[int, int]
) -> Observed | None:
  """Return what the window sees, or None if that is nothing: for this the sampler has a cheaper program."""
  if not any(window.seen) and low is None:
    return None
  rows = model.config['pad_rows']
  x = np.zeros((len(videos), len(window.frames), *frame_shape(model)), np.float32)
  _read(frames, videos, window, window.seen, lambda position: position, x)
  x = np.pad(x, ((0, 0), (0, 0), (rows, rows), (0, 0), (0, 0)), 'edge')
  seen = np.array(window.seen)
  if low is None:
    return Observed(x, seen)
  small = np.zeros((*x.shape[:2], *low.read(videos[:1], [0]).shape[2:]), np.float32)
  _read(low, videos, window, window.low_seen, index_of.__getitem__, small)
  return Observed(x, seen, small, np.array(window.low_seen))


def check_given(
  name: str,
  given: np.ndarray | None,
  positions: Sequence[int],
  count: int,
  shape: tuple[int, int, int],
  *,
  smaller: bool = False,
) -> None:
  """Raise ValueError unless these are the frames at `positions` of every video, or none are needed and none given."""
  if given is None and not positions:
    return
  height, width, channels = shape
  factor = height // np.shape(given)[2] if smaller and np.ndim(given) == 5 and 0 not in np.shape(given) else 1
  wanted = (count, len(positions), height // max(1, factor), width // max(1, factor), channels)
  if not positions or np.shape(given) != wanted or height % max(1, factor) or width % max(1, factor):
    also = ', or smaller by a whole factor' if smaller else ''
    raise ValueError(
      f'{name} has shape {np.shape(given)}, but the plan needs {(count, len(positions), *shape)}{also}: give the '
      f'frames of each video at plan.{name}.'
    )


def _read(
  frames: Frames,
  videos: np.ndarray,
  window: Window,
  which: Sequence[bool],
  index_of: Callable[[int], int],
  into: np.ndarray,
) -> None:
  """Read the chosen frames of a window into an array of all its frames."""
  chosen = np.flatnonzero(which)
  if len(chosen):
    into[:, chosen] = frames.read(videos, [index_of(window.frames[i]) for i in chosen])
