"""Videos that are made frame by frame, in files: memory does not grow with their length, and progress is kept.

Written here rather than on a memory map, whose pages would count as memory of this process.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.runtime.atomic_files import atomic_write
from vdm_jax.video.transforms import to_float, to_uint8


class FrameStore:
  """One `.npy` file of uint8 `[t h w c]` per video, all of one size; frames that were never written are black.

  Existing files of that size are opened, missing ones created. Frames are read as float32 in [-1, 1], after rounding to
  uint8, so that resumed work sees what uninterrupted work sees.

  Args:
    paths: the file of each video.
    shape: `(t, h, w, c)`.

  Raises:
    ValueError: a file contains an array of another size or type.
  """

  def __init__(self, paths: Sequence[str | os.PathLike], shape: tuple[int, int, int, int]):
    self.paths = [pathlib.Path(path) for path in paths]
    self.shape = tuple(shape)
    for path in self.paths:
      if not path.exists():
        _make(path, self.shape)
    self._offsets = [_offset(path, self.shape) for path in self.paths]
    self._frame_bytes = int(np.prod(self.shape[1:]))

  def read(self, videos: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """Return frames, float32 `[len(videos) len(positions) h w c]`."""
    frames = np.empty((len(videos), len(positions), *self.shape[1:]), np.uint8)
    for row, video in zip(frames, videos, strict=True):
      with open(self.paths[video], 'rb') as file:
        for frame, position in zip(row, positions, strict=True):
          file.seek(self._offset(video, position))
          frame[:] = np.frombuffer(file.read(self._frame_bytes), np.uint8).reshape(self.shape[1:])
    return to_float(frames)

  def write(self, videos: Sequence[int], positions: Sequence[int], x: np.ndarray) -> None:
    """Write frames `[len(videos) len(positions) h w c]`, float in [-1, 1]; on return they are on disk."""
    for row, video in zip(to_uint8(x), videos, strict=True):
      with open(self.paths[video], 'r+b') as file:
        for frame, position in zip(row, positions, strict=True):
          file.seek(self._offset(video, position))
          file.write(frame.tobytes())
        file.flush()
        os.fsync(file.fileno())

  def video(self, number: int) -> np.ndarray:
    """Return a whole video, uint8 `[t h w c]`, as a read-only memory map."""
    return np.load(self.paths[number], mmap_mode='r', allow_pickle=False)

  def _offset(self, video: int, position: int) -> int:
    if not 0 <= position < self.shape[0]:
      raise IndexError(f'{self.paths[video]}: frame {position} is out of range; use 0 to {self.shape[0] - 1}.')
    return self._offsets[video] + position * self._frame_bytes


def _make(path: pathlib.Path, shape: tuple[int, ...]) -> None:
  """Create a sparse file of the full size."""
  with atomic_write(path) as temporary, open(temporary, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': shape})
    file.truncate(file.tell() + int(np.prod(shape)))


def _offset(path: pathlib.Path, shape: tuple[int, ...]) -> int:
  """Return the offset of the first frame in a file."""
  with open(path, 'rb') as file:
    try:
      version = np.lib.format.read_magic(file)
      found, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
      raise ValueError(f'{path} is not a valid array of frames ({error}); remove it, or write elsewhere.') from error
    if version != (1, 0) or found != shape or by_columns or dtype != np.uint8:
      raise ValueError(f'{path} contains {dtype} {found}, not uint8 {shape}; remove it, or write elsewhere.')
    return file.tell()
