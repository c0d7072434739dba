"""Reads the video that a user wants continued, interpolated or enlarged, and says what is wrong with it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.video.codecs import probe, read_video
from vdm_jax.video.transforms import to_channels, to_uint8

ACCEPTED = (
  'a video (mp4, mov, mkv, webm, avi, gif), a picture, or a .npy array of uint8 or of floats in [-1, 1] with the axes '
  '[frames, height, width, 1 or 3 channels]'
)
# 2 % takes 23.976 for 24 and 29.97 for 30, but not 25 for 24. GIF stores whole hundredths of a second: a rounded frame
# time is wrong by at most half of one, 6 % at 12 frames per second; 24 frames per second stored as 25 are wrong by 4 %.
RATE_TOLERANCE = 0.02
GIF_RATE_TOLERANCE = 0.06


class Given(NamedTuple):
  video: np.ndarray  # uint8 [t h w c]; read-only
  frame_rate: float | None  # frames per second; None: the file does not tell


def read_given(
  path: str | os.PathLike,
  *,
  channels: int,
  height: int | None = None,
  width: int | None = None,
  max_frames: int = 100_000,
) -> Given:
  """Reads what `read_video` reads (one picture is a video of one frame), or a .npy file [t h w c].

  The array is uint8, or float in [-1, 1]. Channels are converted to 1 or 3. Frames are never resized: they
  must be `height` x `width`, or of any size where these are None. A uint8 array of the wanted channels stays in its
  file, mapped into memory.

  Raises FileNotFoundError, and ValueError if the file cannot be decoded, holds another kind of array, or has no frames,
  more than `max_frames`, another size, or pixels outside [-1, 1].
  """
  path = os.fspath(path)
  if channels not in (1, 3):
    raise ValueError(f'channels={channels}, but files of videos have 1 or 3: use a model of 1 or 3 channels.')
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such file; check the path, or give {ACCEPTED}.')
  if path.lower().endswith('.npy'):
    array, rate = _map(path), None
    _check_length(path, len(array), max_frames)
    _check_size(path, array.shape[1:3], (height, width), 'resize the array before it is saved')
  else:
    length, rate, _ = _or_else(probe, path)
    _check_length(path, length, max_frames)
    first = _or_else(read_video, path, num_frames=1)  # a long video of the wrong size is not decoded
    _check_size(path, first.shape[1:3], (height, width), _resize_command(path, length, height, width))
    array = _or_else(read_video, path)
    rate = rate if length > 1 and rate > 0 else None  # one frame has no rate, whatever its format says
  video = _convert(path, array, channels)
  video.flags.writeable = False
  return Given(video, rate)


def check_frame_rate(given: Given, wanted: float, path: str | os.PathLike, ask: str | None = None) -> None:
  """Raises ValueError if the file tells a rate more than 2 % (GIF: 6 %) off `wanted` frames per second.

  `ask` says how to ask for the file's rate, as the message's first remedy.
  """
  told = given.frame_rate
  tolerance = GIF_RATE_TOLERANCE if os.fspath(path).lower().endswith('.gif') else RATE_TOLERANCE
  if told is not None and not abs(told / wanted - 1) <= tolerance:
    command = f'ffmpeg -i {shlex.quote(os.fspath(path))} -vf fps={wanted:g} OUT.mp4'
    ask = ask or f'ask for {told:.4g}'
    raise ValueError(
      f'{path}: the file has {told:.4g} frames per second, but {wanted:g} are wanted: {ask}, convert the '
      f'file, for example with `{command}`, or give a .npy file, which tells no rate.'
    )


def _or_else(read: Callable[..., Any], path: str, **options: Any) -> Any:
  """`read(path)`, whose errors also say what else could be given."""
  try:
    return read(path, **options)
  except ValueError as error:
    raise ValueError(f'{error} Or give {ACCEPTED}.') from error


def _map(path: str) -> np.ndarray:
  """The array of a .npy file, [t h w 1 or 3] of uint8 or float, without reading its pixels."""
  try:
    array = np.asarray(np.lib.format.open_memmap(path, mode='r'))  # unlike np.load it reads .npy files only
  except Exception as error:  # a damaged header raises almost any of them
    raise ValueError(f'{path}: cannot be read as a .npy file ({error}); give {ACCEPTED}.') from error
  if array.ndim != 4 or array.shape[-1] not in (1, 3):
    raise ValueError(f'{path}: the array has the shape {array.shape}; give {ACCEPTED}.')
  if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f'{path}: the array holds {array.dtype}; give {ACCEPTED}.')
  return array


def _convert(path: str, video: np.ndarray, channels: int) -> np.ndarray:
  """uint8 [t h w channels], frame by frame, so that only the result is ever in memory."""
  if video.dtype == np.uint8 and video.shape[-1] == channels:
    return video
  result = np.empty((*video.shape[:-1], channels), np.uint8)
  for number, frame in enumerate(video):
    if frame.dtype != np.uint8:
      if not (np.abs(frame) <= 1).all():
        raise ValueError(
          f'{path}: frame {number} has values outside of [-1, 1] or not finite; scale the array to [-1, 1], or save it '
          'as uint8.'
        )
      frame = to_uint8(frame)
    result[number] = to_channels(frame, channels)
  return result


def _check_length(path: str, length: int, max_frames: int) -> None:
  if not length:
    raise ValueError(f'{path}: there are no frames in this file; give one or more.')
  if length > max_frames:
    raise ValueError(f'{path}: there are {length} frames in this file, but at most {max_frames} are read; cut it.')


def _check_size(path: str, size: tuple[int, ...], wanted: tuple[int | None, int | None], remedy: str) -> None:
  if None not in wanted and tuple(size) != wanted:
    raise ValueError(
      f'{path}: the frames are {size[0]}x{size[1]} (height x width), but {wanted[0]}x{wanted[1]} are needed: {remedy}. '
      'The mp4 files that this library writes of small videos are enlarged; the .npy file beside them is exact.'
    )


def _resize_command(path: str, length: int, height: int | None, width: int | None) -> str:
  output = 'OUT.mp4' if length > 1 else 'OUT.png'
  return f'resize them, for example with `ffmpeg -i {shlex.quote(path)} -vf scale={width}:{height} {output}`'
