"""Windows of frames at even times, in clips whose frame rate varies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-6  # seconds: times are rounded, so that those halfway between two frames are so only nearly
_DRAWS = 16  # of a start at random, before all starts are computed


class TimedWindows:
  """The windows of a clip that take the frames nearest to a frame's time and to even steps after it.

  A window has no frame twice, and each of its frames is at most half a step from its time, so that a clip whose frames
  are further apart somewhere has fewer windows.

  Args:
    times: float64 `[t]`, increasing, in seconds.
    num_frames: frames of a window.
    interval: step in seconds.
  """

  def __init__(self, times: np.ndarray, num_frames: int, interval: float):
    self._times, self._num_frames, self._interval = times, num_frames, interval
    last = times[-1] + (times[-1] - times[-2]) / 2  # until which the last frame is the nearest one
    self._room = int(np.searchsorted(times + (num_frames - 1) * interval, last - _EPSILON))  # starts that end in time

  @property
  def description(self) -> str:
    """What the windows are, for messages."""
    return (
      f'{self._num_frames} frames about {self._interval:.4g} s apart: its {len(self._times)} frames last '
      f'{self._times[-1]:.4g} s, and their rate varies'
    )

  def at(self, start: int) -> list[int] | None:
    """Return the frames of the window that starts at a frame; None if it is none."""
    if start >= self._room:
      return None
    wanted = self._times[start] + self._interval * np.arange(self._num_frames)
    picked, near = self._nearest(wanted)
    return picked.tolist() if near.all() and (np.diff(picked) > 0).all() else None

  def starts(self) -> np.ndarray:
    """Return the first frames of all windows, int `[n]`, increasing."""
    first = self._times[: self._room]
    previous, valid = np.arange(self._room), np.ones(self._room, bool)
    for step in range(1, self._num_frames):
      picked, near = self._nearest(first + step * self._interval)
      valid &= near & (picked > previous)
      previous = picked
    return np.flatnonzero(valid)

  def draw(self, rng: np.random.Generator | None) -> list[int]:
    """Return the frames of a window drawn uniformly, or of the first one if `rng` is None.

    Raises ValueError if there is none.
    """
    for _ in range(_DRAWS if self._room else 0):
      start = 0 if rng is None else int(rng.integers(self._room))
      if (numbers := self.at(start)) is not None:
        return numbers
      if rng is None:
        break
    starts = self.starts()
    if not len(starts):
      raise ValueError(f'has no {self.description}')
    return self.at(int(starts[0 if rng is None else rng.integers(len(starts))]))

  def _nearest(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames nearest to times, the later one of two, and whether they are within half a step."""
    picked = nearest_frames(self._times, wanted)
    return picked, np.abs(self._times[picked] - wanted) <= self._interval / 2 + _EPSILON


def nearest_frames(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Return the number of the frame nearest to each time in seconds, the later one of two.

  >>> nearest_frames(np.array([0.0, 0.1, 0.5]), np.array([0.0, 0.3, 0.9]))
  array([0, 2, 2])
  """
  later = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
  return np.where(wanted - times[later - 1] < times[later] - wanted - _EPSILON, later - 1, later)


def mean_frame_rate(times: np.ndarray | None, numbers: Sequence[int], frame_rate: float) -> float:
  """Return the frames per second of these frames by their times; `frame_rate` if there is one frame or no times.

  >>> mean_frame_rate(np.array([0.0, 0.1, 0.5]), [0, 1, 2], 24.0)
  4.0
  """
  if times is None or len(numbers) < 2:
    return frame_rate
  return float((len(numbers) - 1) / (times[numbers[-1]] - times[numbers[0]]))
