"""Input videos: reading and checking the video that a user wants to continue, interpolate or enlarge."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.video.reading import probe, read_video
from vdm_jax.video.transforms import to_channels, to_uint8

ACCEPTED = (
  'a video (mp4, mov, mkv, webm, avi, gif), an image, or a .npy array of uint8 or of floats in [-1, 1] with the axes '
  '[frames, height, width, 1 or 3 channels]'
)
# 2 % accepts 23.976 for 24 and 29.97 for 30, but not 25 for 24. GIF stores integer hundredths of a second: a rounded
# frame time is off by at most half of one, 6 % at 12 frames per second; 24 frames per second stored as 25 are 4 % off.
RATE_TOLERANCE = 0.02
GIF_RATE_TOLERANCE = 0.06


class InputVideo(NamedTuple):
  """A video of the user."""

  video: np.ndarray  # uint8 [t h w c]; read-only
  frame_rate: float | None  # frames per second; None if the file has none


def read_input_video(
  path: str | os.PathLike,
  *,
  channels: int,
  height: int | None = None,
  width: int | None = None,
  max_frames: int = 100_000,
) -> InputVideo:
  """Read a file that `read_video` reads (one image is a video of one frame), or a .npy file `[t h w c]`.

  Frames are never resized. A uint8 array with the wanted channels is memory-mapped.

  Args:
    path: the file. An array is uint8, or float in [-1, 1].
    channels: 1 or 3; channels are converted.
    height: height that the frames must have; None: any.
    width: width that the frames must have; None: any.
    max_frames: number of frames that is read at most.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be decoded, contains another kind of array, or has no frames, more than `max_frames`,
      another size, or pixels outside [-1, 1].
  """
  path = os.fspath(path)
  if channels not in (1, 3):
    raise ValueError(f'channels={channels} is not supported for video files: use a model with 1 or 3 channels.')
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such file; check the path, or use {ACCEPTED}.')
  if path.lower().endswith('.npy'):
    array, rate = _map(path), None
    _check_length(path, len(array), max_frames)
    _check_size(path, array.shape[1:3], (height, width), 'resize the array before saving it')
  else:
    length, rate, _ = _with_alternatives(probe, path)
    _check_length(path, length, max_frames)
    first = _with_alternatives(read_video, path, num_frames=1)  # a long video of the wrong size is not decoded
    _check_size(path, first.shape[1:3], (height, width), _resize_command(path, length, height, width))
    array = _with_alternatives(read_video, path)
    rate = rate if length > 1 and rate > 0 else None  # a single frame has no frame rate, even if its header has one
  video = _convert(path, array, channels)
  video.flags.writeable = False
  return InputVideo(video, rate)


def check_frame_rate(
  input_video: InputVideo, wanted: float, path: str | os.PathLike, remedy: str | None = None
) -> None:
  """Check the frame rate of an input video; a file without one passes.

  Args:
    input_video: the video.
    wanted: frames per second.
    path: its file, for the message.
    remedy: how to request the frame rate of the file, for the message.

  Raises:
    ValueError: the frame rates differ by more than 2 % (GIF: 6 %).
  """
  rate = input_video.frame_rate
  tolerance = GIF_RATE_TOLERANCE if os.fspath(path).lower().endswith('.gif') else RATE_TOLERANCE
  if rate is not None and not abs(rate / wanted - 1) <= tolerance:
    command = f'ffmpeg -i {shlex.quote(os.fspath(path))} -vf fps={wanted:g} OUT.mp4'
    remedy = remedy or f'request {rate:.4g}'
    raise ValueError(
      f'{path}: the file has {rate:.4g} frames per second, but {wanted:g} are requested: {remedy}, convert the file, '
      f'for example with `{command}`, or use a .npy file, which has no frame rate.'
    )


def _with_alternatives(read: Callable[..., Any], path: str, **options: Any) -> Any:
  """Return `read(path)`; errors also name the accepted files."""
  try:
    return read(path, **options)
  except ValueError as error:
    raise ValueError(f'{error} Or use {ACCEPTED}.') from error


def _map(path: str) -> np.ndarray:
  """Map the array of a .npy file, [t h w 1 or 3] of uint8 or float, into memory."""
  try:
    array = np.asarray(np.lib.format.open_memmap(path, mode='r'))  # unlike np.load it reads .npy files only
  except Exception as error:  # a damaged header raises almost any exception
    raise ValueError(f'{path}: is not a valid .npy file ({error}); use {ACCEPTED}.') from error
  if array.ndim != 4 or array.shape[-1] not in (1, 3):
    raise ValueError(f'{path}: {array.shape} is not a valid shape; use {ACCEPTED}.')
  if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f'{path}: {array.dtype} is not a valid type of pixels; use {ACCEPTED}.')
  return array


def _convert(path: str, video: np.ndarray, channels: int) -> np.ndarray:
  """Convert to uint8 [t h w channels] frame by frame, so that only the result is in memory."""
  if video.dtype == np.uint8 and video.shape[-1] == channels:
    return video
  result = np.empty((*video.shape[:-1], channels), np.uint8)
  for number, frame in enumerate(video):
    if frame.dtype != np.uint8:
      if not (np.abs(frame) <= 1).all():
        raise ValueError(
          f'{path}: frame {number} has NaNs or values outside [-1, 1]; scale the array to [-1, 1], or save it as uint8.'
        )
      frame = to_uint8(frame)
    result[number] = to_channels(frame, channels)
  return result


def _check_length(path: str, length: int, max_frames: int) -> None:
  if not length:
    raise ValueError(f'{path}: contains no frames; use a video with one or more.')
  if length > max_frames:
    raise ValueError(f'{path}: has {length} frames, above the limit of {max_frames}; cut the video.')


def _check_size(path: str, size: tuple[int, ...], wanted: tuple[int | None, int | None], remedy: str) -> None:
  if None not in wanted and tuple(size) != wanted:
    raise ValueError(
      f'{path}: the frames are {size[0]}x{size[1]} (height x width), but {wanted[0]}x{wanted[1]} are needed: {remedy}. '
      'The mp4 files that this library writes for small videos are enlarged; the .npy file beside them is exact.'
    )


def _resize_command(path: str, length: int, height: int | None, width: int | None) -> str:
  output = 'OUT.mp4' if length > 1 else 'OUT.png'
  return f'resize them, for example with `ffmpeg -i {shlex.quote(path)} -vf scale={width}:{height} {output}`'
