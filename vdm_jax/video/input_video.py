"""Input videos: reading and checking the video that a user wants to continue, interpolate or enlarge."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.names import choose
from vdm_jax.video.reading import frame_times, probe, read_frames, read_video
from vdm_jax.video.timed_windows import nearest_frames
from vdm_jax.video.transforms import frame_numbers, resize_and_crop, resize_and_pad, squash, to_channels, to_uint8

ACCEPTED = (
  'a video (mp4, mov, mkv, webm, avi, gif), an image, or a .npy array of uint8 or of floats in [-1, 1] with the axes '
  '[frames, height, width, 1 or 3 channels]'
)
# 2 % accepts 23.976 for 24 and 29.97 for 30, but not 25 for 24. GIF stores integer hundredths of a second: a rounded
# frame time is off by at most half of one, 6 % at 12 frames per second; 24 frames per second stored as 25 are 4 % off.
RATE_TOLERANCE = 0.02
GIF_RATE_TOLERANCE = 0.06


FITS = {'cover': resize_and_crop, 'contain': resize_and_pad, 'squash': squash, 'none': None}
_CHUNK_BYTES = 2**28  # of decoded frames that are held while they are fitted


class InputVideo(NamedTuple):
  """A video of the user."""

  video: np.ndarray  # uint8 [t h w c]; read-only
  frame_rate: float | None  # frames per second; None if the file has none
  fitted: str = ''  # what was done to its frames, for a message


class TooFewFrames(ValueError):
  """A file has fewer frames than are needed."""


class Measured(NamedTuple):
  """What is known of a file before its frames are read."""

  num_frames: int
  frame_rate: float | None  # frames per second; None if the file has none
  size: tuple[int, int]  # height and width of its frames
  times: np.ndarray | None = None  # seconds of each frame, if their rate varies


def measure_input_video(path: str | os.PathLike, *, max_frames: int = 100_000) -> Measured:
  """Return the number, rate and size of the frames of a file for `read_input_video`, and raise as it does."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such file; check the path, or use {ACCEPTED}.')
  if path.lower().endswith('.npy'):
    array = _map(path)
    _check_length(path, len(array), max_frames)
    return Measured(len(array), None, array.shape[1:3])
  length, rate, *_ = _with_alternatives(probe, path)
  _check_length(path, length, max_frames)
  first = _with_alternatives(read_video, path, num_frames=1)  # a long video of the wrong size is not decoded
  # A single frame has no frame rate, even if its header has one.
  rate = rate if length > 1 and rate > 0 else None
  return Measured(length, rate, first.shape[1:3], None if rate is None else frame_times(path))


def read_input_video(
  path: str | os.PathLike,
  *,
  channels: int,
  height: int | None = None,
  width: int | None = None,
  fit: str = 'none',
  frame_rate: float | None = None,
  num_frames: int | None = None,
  max_frames: int = 100_000,
) -> InputVideo:
  """Read a file that `read_video` reads (one image is a video of one frame), or a .npy file `[t h w c]`.

  A uint8 array with the wanted size and channels is memory-mapped.

  Args:
    path: the file. An array is uint8, or float in [-1, 1].
    channels: 1 or 3; channels are converted.
    height: height that the frames must have; None: any.
    width: width that the frames must have; None: any.
    fit: what becomes of frames of another size: 'cover' scales and crops them as training does, 'contain' scales and
      pads them with black, 'squash' stretches them, 'none' refuses them.
    frame_rate: frames per second to pick the frames nearest in time at, as training does; None: all frames. A file
      without a frame rate is taken to have this one.
    num_frames: number of frames to read from the start, after picking; None: all.
    max_frames: number of frames that a file may have.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be decoded, contains another kind of array, has no frames, too few, or more than
      `max_frames`, frames of another size that are not to be fitted, or so slow that one would be taken twice, or
      pixels outside [-1, 1].
  """
  path = os.fspath(path)
  choose('fit', fit, FITS)
  if channels not in (1, 3):
    raise ValueError(f'channels={channels} is not supported for video files: use a model with 1 or 3 channels.')
  measured = measure_input_video(path, max_frames=max_frames)
  numbers = _pick(path, measured, frame_rate, num_frames)
  size = measured.size if height is None or width is None else (height, width)
  if size != measured.size and fit == 'none':
    _check_size(path, measured.size, size, _remedy(path, measured.num_frames, *size))
  if path.lower().endswith('.npy'):
    video = _convert(path, _map(path), numbers, channels, size, fit)
  else:
    video = np.empty((len(numbers), *size, channels), np.uint8)
    step = max(1, _CHUNK_BYTES // (3 * math.prod(measured.size)))
    for start in range(0, len(numbers), step):
      some = _with_alternatives(read_frames, path, numbers=numbers[start : start + step])
      video[start : start + step] = to_channels(_fit(some, size, fit), channels)
  video.flags.writeable = False
  fitted = _describe(path, measured, numbers, frame_rate, size, fit)
  return InputVideo(video, measured.frame_rate if frame_rate is None else frame_rate, fitted)


def check_frame_rate(
  input_video: InputVideo | Measured, wanted: float, path: str | os.PathLike, remedy: str | None = None
) -> None:
  """Check the frame rate of an input video; a file without one passes.

  Args:
    input_video: the video.
    wanted: frames per second.
    path: the file, for the message.
    remedy: how to request the frame rate of the file, for the message.

  Raises:
    ValueError: the frame rates differ by more than 2 % (GIF: 6 %).
  """
  rate = input_video.frame_rate
  if rate is not None and not abs(rate / wanted - 1) <= _tolerance(path):
    command = f'ffmpeg -i {shlex.quote(os.fspath(path))} -vf fps={wanted:g} OUT.mp4'
    remedy = remedy or f'request {rate:.4g}'
    raise ValueError(
      f'{path}: the file has {rate:.4g} frames per second, but {wanted:g} are requested: {remedy}, convert the file, '
      f'for example with `{command}`, or use a .npy file, which has no frame rate.'
    )


def _tolerance(path: str | os.PathLike) -> float:
  return GIF_RATE_TOLERANCE if os.fspath(path).lower().endswith('.gif') else RATE_TOLERANCE


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


def _convert(
  path: str, array: np.ndarray, numbers: Sequence[int], channels: int, size: tuple[int, int], fit: str
) -> np.ndarray:
  """Convert to uint8 [t h w channels] frame by frame, so that only the result is in memory."""
  if array.dtype == np.uint8 and array.shape[1:] == (*size, channels) and numbers == [*range(len(numbers))]:
    return array if len(array) == len(numbers) else array[: len(numbers)]
  result = np.empty((len(numbers), *size, channels), np.uint8)
  for place, number in enumerate(numbers):
    frame = array[number]
    if frame.dtype != np.uint8:
      if not (np.abs(frame) <= 1).all():
        raise ValueError(
          f'{path}: frame {number} has NaNs or values outside [-1, 1]; scale the array to [-1, 1], or save it as uint8.'
        )
      frame = to_uint8(frame)
    result[place] = to_channels(_fit(frame[None], size, fit), channels)[0]
  return result


def _fit(video: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
  """Return frames of a size."""
  return video if video.shape[1:3] == tuple(size) else FITS[fit](video, *size)


def _pick(path: str, measured: Measured, frame_rate: float | None, num_frames: int | None) -> list[int]:
  """Return the numbers of the frames to read."""
  ratio = 1.0 if None in (frame_rate, measured.frame_rate) else measured.frame_rate / frame_rate
  if measured.times is not None and frame_rate is not None:
    numbers = _nearest(measured.times, frame_rate)
  else:
    skip = 1.0 if abs(ratio - 1) <= _tolerance(path) else ratio
    numbers = frame_numbers(0, max(1, math.ceil((measured.num_frames - 0.5) / skip)), skip)
  count = len(numbers) if num_frames is None else num_frames
  if count > len(numbers):
    raise TooFewFrames(
      f'{count} frames are needed, but {path} has only {len(numbers)}'
      + ('' if len(numbers) == measured.num_frames else f' at {frame_rate:g} per second')
      + ': ask for at most that many, or give a longer video.'
    )
  if len(set(numbers[:count])) < count:
    varying = '' if measured.times is None else ', which vary'
    raise ValueError(
      f'{path}: the file has {measured.frame_rate:.4g} frames per second{varying}, but {frame_rate:g} are needed, '
      f'which would repeat frames: request fewer than {measured.frame_rate:.4g}, or give a faster video.'
    )
  return numbers[:count]


def _nearest(times: np.ndarray, frame_rate: float) -> list[int]:
  """Return the frames that are nearest to even times, the later one of two, where their rate varies."""
  wanted = np.arange(math.floor(times[-1] * frame_rate + 0.5) + 1) / frame_rate
  return nearest_frames(times, wanted).tolist()


def _describe(
  path: str, measured: Measured, numbers: list[int], frame_rate: float | None, size: tuple[int, int], fit: str
) -> str:
  """Return what was done to the frames of a file, '' for nothing."""
  done = []
  if tuple(size) != tuple(measured.size):
    ways = {'cover': 'scaled to cover', 'contain': 'scaled into, with black borders,', 'squash': 'stretched to'}
    done.append(f'frames of {measured.size[0]}x{measured.size[1]} {ways[fit]} {size[0]}x{size[1]}')
  if numbers != [*range(len(numbers))]:
    done.append(
      f'{len(numbers)} of {measured.num_frames} frames picked, at {frame_rate:g} of its {measured.frame_rate:.4g} per '
      'second'
    )
  return '; '.join(done)


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


def _remedy(path: str, length: int, height: int, width: int) -> str:
  if path.lower().endswith('.npy'):
    return "resize the array before saving it, or fit it with 'cover'"
  output = 'OUT.mp4' if length > 1 else 'OUT.png'
  cover = f'scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height}'
  return f"fit them with 'cover', or for example with `ffmpeg -i {shlex.quote(path)} -vf {cover} {output}`"
