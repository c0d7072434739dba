"""Clips in `.npy` files of uint8: one clip per file, or many of one length in one file."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from vdm_jax.data.sources.stored_clips import Stored, held_out_names
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import check_bytes, check_size
from vdm_jax.video.transforms import frame_numbers


def open_array(path: str | os.PathLike, axes: str) -> np.ndarray:
  """The array of a .npy file mapped into memory, uint8 [t h w c] or [n t h w c] as `axes` says, c = 1 or 3.

  Raises ValueError if the file holds anything else.
  """
  try:
    array = np.lib.format.open_memmap(path, mode='r')  # unlike np.load it reads .npy files only
  except Exception as error:  # a damaged header raises almost any of them
    raise ValueError(f'{path}: cannot be read as a .npy file ({error}); replace or remove it.') from error
  if array.dtype != np.uint8 or array.ndim != len(axes.split()) or array.shape[-1] not in (1, 3):
    raise ValueError(
      f'{path}: holds {array.dtype} {array.shape}, but uint8 [{axes}] with 1 or 3 channels is needed; replace or '
      'remove it.'
    )
  if 0 in array.shape:
    raise ValueError(f'{path}: there are no frames in this file, its shape is {array.shape}; remove it.')
  check_size(path, *array.shape[-3:-1])
  return np.asarray(array)


def probe_array(path: str | os.PathLike) -> VideoInfo:
  """Number of frames and their size; arrays tell no frame rate. Raises as `open_array` does."""
  array = open_array(path, 't h w c')
  return VideoInfo(len(array), 0.0, array.shape[1:3])


def read_array(
  path: str | os.PathLike, *, start: int, num_frames: int, frame_skip: float, max_bytes: int
) -> np.ndarray:
  """Frames start, start + frame_skip, ... of one clip; uint8 [t h w c]. Raises as `open_array` does."""
  return _copy(path, open_array(path, 't h w c'), start, num_frames, frame_skip, max_bytes)


class Array(Stored):
  """The clips of one split of a .npy file of uint8 [n t h w c]; only the frames of a window are read from the disk.

  Clip i is called 'i' with leading zeros; by a hash of it one in ten belongs to the test split. There are no captions
  and no labels. Raises FileNotFoundError, and ValueError if the file holds anything else.
  """

  def __init__(self, path: str | os.PathLike, split: str, **settings: Any):
    if not os.path.isfile(path):
      raise FileNotFoundError(
        f'data.path={os.fspath(path)!r} is not a file; it must name a .npy file of uint8 [n t h w c].'
      )
    self._path = pathlib.Path(path).resolve()
    self._clips = open_array(self._path, 'n t h w c')
    names = [f'{i:08d}' for i in range(len(self._clips))]
    super().__init__(path, split, names, held_out_names(names), without_rate=names[0], **settings)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_clips': None}  # a worker maps the file itself

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._clips = open_array(self._path, 'n t h w c')

  def _info(self, place: int) -> VideoInfo:
    return VideoInfo(self._clips.shape[1], 0.0, self._clips.shape[2:4])

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    return _copy(self._path, self._clips[place], start, num_frames, frame_skip, max_bytes)


def _copy(path, clip: np.ndarray, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
  check_bytes(path, num_frames, *clip.shape[1:3], max_bytes)
  return clip[frame_numbers(start, num_frames, frame_skip)]  # a copy
