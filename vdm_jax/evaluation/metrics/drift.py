"""Drift along a long video: color and motion of its blocks, and the visibility of the seams between them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.types import Array

HALF_RANGE = 127.5  # levels of uint8 per unit of [-1, 1]


def drift(video: Array, starts: Sequence[int], *, chunk: int = 2**22) -> dict[str, Any]:
  """Return color and motion of each block of a video, and how visible the seams between blocks are.

  Sums are of integers, so the result does not depend on `chunk`.

  Args:
    video: uint8 `[t h w c]`, an array or a memory-mapped file.
    starts: first frame of each block, increasing; block k is frames starts[k] to starts[k + 1] - 1. Frames before
      starts[0] were given to the model and are a block of their own.
    chunk: values (frames x pixels x channels) to read at a time, about.

  Returns:
    A record for JSON, in units of pixels in [-1, 1], with |x - y| the mean over pixels and channels:
    - `frames`: t.
    - `blocks`: for each block its `name` ('given', '0', '1', ...), `first` and `last` frame, `color_mean` and
      `color_std` [c] over all pixels of its frames, and `motion`, the mean of |x_i - x_(i-1)| over its pairs of frames
      (None for one frame).
    - `seams`: for each block but the first its first `frame` s, the `change` |x_s - x_(s-1)|, and the `score`: change
      divided by the mean of |x_i - x_(i-1)| over all pairs inside the two blocks. 1: no visible seam. 2: the picture
      changes twice as much as usual. None: nothing moves in both blocks.
    - `seam_score`: the mean of the scores that are not None, or None.

  Raises:
    ValueError: not such a video, or `starts` are not increasing frame numbers of it.

  >>> import numpy as np
  >>> levels = np.array([10, 12, 14, 16, 76, 83, 90], np.uint8)  # jumps at frame 4
  >>> record = drift(levels[:, None, None, None], starts=[0, 4])
  >>> record['seams'][0]['frame'], record['seam_score']
  (4, 15.0)
  """
  if video.ndim != 4 or video.dtype != np.uint8 or 0 in video.shape:
    raise ValueError(f'drift: the video is {video.dtype} {list(video.shape)}; pass uint8 [t h w c].')
  blocks = _blocks(starts, len(video))
  values = math.prod(video.shape[1:])
  frames = max(1, chunk // values)
  sums = [_sum(video, first, last, frames) for _, first, last in blocks]
  unit = values * HALF_RANGE
  seams = []
  for (_, start, _), before, after in zip(blocks[1:], sums[:-1], sums[1:], strict=True):
    change = _changed(video[start - 1 : start + 1])
    moved, pairs = before.moved + after.moved, before.pairs + after.pairs
    seams.append({'frame': start, 'change': change / unit, 'score': change * pairs / moved if moved else None})
  scores = [seam['score'] for seam in seams if seam['score'] is not None]
  return {
    'frames': len(video),
    'blocks': [
      {'name': name, 'first': first, 'last': last} | _describe(block, unit)
      for (name, first, last), block in zip(blocks, sums, strict=True)
    ],
    'seams': seams,
    'seam_score': math.fsum(scores) / len(scores) if scores else None,
  }


class _Sums(NamedTuple):
  """Sums over a block, in uint8 levels: integers, which are exact."""

  count: int  # values per channel
  total: list[int]  # [c]
  squares: list[int]  # [c]
  moved: int  # |x_i - x_(i-1)|, over all values of all pairs of frames
  pairs: int


def _blocks(starts: Sequence[int], length: int) -> list[tuple[str, int, int]]:
  """Name, first and last frame of each block."""
  try:
    starts = [operator.index(start) for start in starts]
  except TypeError as error:
    raise ValueError(f'drift: starts={starts} are not integers; pass the first frame of each block.') from error
  rising = all(low < high for low, high in zip(starts[:-1], starts[1:], strict=True))
  if not starts or not rising or starts[0] < 0 or starts[-1] >= length:
    raise ValueError(f'drift: starts={starts} must be one or more increasing frame numbers from 0 to {length - 1}.')
  named = [(str(number), start) for number, start in enumerate(starts)]
  if starts[0]:
    named.insert(0, ('given', 0))
  ends = [start for _, start in named[1:]] + [length]
  return [(name, first, end - 1) for (name, first), end in zip(named, ends, strict=True)]


def _sum(video: Array, first: int, last: int, frames: int) -> _Sums:
  """Return the sums over frames first to last, reading `frames` of them and the following one at a time."""
  channels = video.shape[-1]
  total, squares, moved = np.zeros(channels, np.int64), np.zeros(channels, np.int64), 0
  for start in range(first, last + 1, frames):
    part = np.asarray(video[start : min(start + frames, last) + 1])
    levels = part[:frames].reshape(-1, channels)
    total += levels.sum(axis=0, dtype=np.int64)
    squares += np.square(levels, dtype=np.uint32).sum(axis=0, dtype=np.int64)
    moved += _changed(part)
  count = (last - first + 1) * math.prod(video.shape[1:3])
  return _Sums(count, total.tolist(), squares.tolist(), moved, last - first)


def _changed(frames: Array) -> int:
  """Sum of |x_i - x_(i-1)| over all values of [t h w c], in uint8 levels."""
  return int(np.abs(np.diff(np.asarray(frames).astype(np.int16), axis=0)).sum(dtype=np.int64))


def _describe(block: _Sums, unit: float) -> dict[str, Any]:
  spreads = [block.count * squares - total**2 for total, squares in zip(block.total, block.squares, strict=True)]
  return {
    'color_mean': [total / block.count / HALF_RANGE - 1 for total in block.total],
    'color_std': [math.sqrt(spread) / block.count / HALF_RANGE for spread in spreads],
    'motion': block.moved / block.pairs / unit if block.pairs else None,
  }
