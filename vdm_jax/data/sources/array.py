"""Clips in `.npy` files of numbers: one clip per file, or many of one length in one file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vdm_jax.data.sources.contract import Source
from vdm_jax.video.opening import check_bytes, check_size
from vdm_jax.video.reading import VideoInfo

TYPES = ('uint8', 'uint16', 'int16', 'int32', 'float16', 'float32', 'float64')


def open_array(path: str | os.PathLike, axes: str) -> np.ndarray:
  """Return the array of a .npy file, mapped into memory.

  Args:
    path: the file.
    axes: 't h w c' or 'n t h w c', the axes that the array must have.

  Raises:
    ValueError: the file holds anything else than numbers (TYPES) of these axes.
  """
  try:
    array = np.lib.format.open_memmap(path, mode='r')  # unlike np.load it reads .npy files only
  except Exception as error:  # a damaged header raises almost any exception
    raise ValueError(f'{path}: is not a valid .npy file ({error}); replace or remove it.') from error
  if array.dtype.name not in TYPES or array.ndim != len(axes.split()):
    raise ValueError(
      f'{path}: contains {array.dtype} {array.shape}, but must contain [{axes}] of uint8, or of {", ".join(TYPES[1:])} '
      'with data.normalization; replace or remove it.'
    )
  if 0 in array.shape:
    raise ValueError(f'{path}: contains no frames, its shape is {array.shape}; remove it.')
  check_size(path, *array.shape[-3:-1])
  return np.asarray(array)


def probe_array(path: str | os.PathLike) -> VideoInfo:
  """Return the number of frames and their size; arrays have no frame rate. Raises as `open_array` does."""
  array = open_array(path, 't h w c')
  return VideoInfo(len(array), 0.0, array.shape[1:3])


def read_array(path: str | os.PathLike, numbers: Sequence[int], *, max_bytes: int) -> np.ndarray:
  """Return the frames of these numbers, `[t h w c]` in the type of the file. Raises as `open_array` does."""
  clip = open_array(path, 't h w c')
  check_bytes(path, len(numbers), *clip.shape[1:3], max_bytes)
  if (size := len(numbers) * clip[0].nbytes) > max_bytes:
    raise ValueError(
      f'{path}: {len(numbers)} frames take {size / 1e9:.1f} GB, above the limit of {max_bytes / 1e9:.1f} GB for one '
      'read; cut the clip, or lower data.num_frames.'
    )
  return clip[list(numbers)]  # a copy


class Array(Source):
  """The clips of a .npy file of numbers `[n t h w c]`; only the frames of a window are read from the disk.

  The numbers are uint8 pictures, or those of TYPES and any channels with `data.normalization`. Clip i is named 'i' with
  leading zeros. There are no captions and no labels. Raises FileNotFoundError, and ValueError if the file contains
  anything else.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = os.fspath(path)
    if not os.path.isfile(path):
      raise FileNotFoundError(f'data.path={self.path!r} is not a file; it must name a .npy file of [n t h w c].')
    self._file = pathlib.Path(path).resolve()
    self._clips = open_array(self._file, 'n t h w c')
    self.names = [f'{i:08d}' for i in range(len(self._clips))]
    self.without_frame_rate = self.names[0]

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_clips': None}  # a worker maps the file itself

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._clips = open_array(self._file, 'n t h w c')

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    return path.name.lower().endswith('.npy') and path.is_file()

  def info(self, clip: int) -> VideoInfo:
    return VideoInfo(self._clips.shape[1], 0.0, self._clips.shape[2:4])

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    return self._clips[clip][list(numbers)]  # a copy
