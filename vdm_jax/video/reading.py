"""Reading of video files, exact by frame number, with PyAV (FFmpeg)."""

from __future__ import annotations

import array
import contextlib
import functools
import math
import os
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.video.opening import MAX_FRAMES, MAX_SECONDS, Clock, check_bytes, open_video
from vdm_jax.video.transforms import frame_numbers

# Only these containers store exact times; in others, frames are counted from the start.
_TIMED = ('mov', 'matroska')
_PLANAR = ('yuv420p', 'yuvj420p', 'yuv422p', 'yuv444p', 'yuv420p10le')  # common pixel formats of camera footage


class VideoInfo(NamedTuple):
  """What is known of a video without decoding it."""

  num_frames: int
  frame_rate: float  # frames per second, the mean if it varies; 0 if unknown
  resolution: tuple[int, int] = (0, 0)  # height and width in pixels as stored, before any rotation


class _Index(NamedTuple):
  info: VideoInfo
  times: Sequence[int] | None  # presentation time of each frame; None if they are not reliable


def probe(path: str | os.PathLike) -> VideoInfo:
  """Return the number of frames, the frame rate and the size, without decoding. Raises as `read_video` does."""
  return _index(path).info


def read_video(
  path: str | os.PathLike,
  *,
  start: int = 0,
  num_frames: int | None = None,
  frame_skip: float = 1,
  max_bytes: int | None = None,
  max_seconds: float = math.inf,
) -> np.ndarray:
  """Return frames start, start + frame_skip, ... of a file: mp4, mov, mkv, webm, avi, gif, or one image.

  Args:
    path: the file.
    start: first frame, 0 or more.
    num_frames: number of frames; None: all from `start`.
    frame_skip: 1 or more; for a fraction, the nearest frames are read.
    max_bytes: limit of memory.
    max_seconds: limit of computing time.

  Returns:
    uint8 `[t h w 3]`, upright.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be decoded, has too few frames or frames larger than 8K video, or exceeds a limit.
  """
  if start < 0 or frame_skip < 1 or (num_frames is not None and num_frames < 1):
    raise ValueError(
      f'{path}: start={start}, num_frames={num_frames}, frame_skip={frame_skip} are not a valid selection of frames; '
      'start must be 0 or more, the others 1 or more.'
    )
  if num_frames is None:
    num_frames = max(0, math.ceil((_index(path).info.num_frames - start - 0.5) / frame_skip))
  numbers = frame_numbers(start, num_frames, frame_skip) or [start]
  return read_frames(path, numbers, max_bytes=max_bytes, max_seconds=max_seconds)


def read_frames(
  path: str | os.PathLike,
  numbers: Sequence[int],
  *,
  max_bytes: int | None = None,
  max_seconds: float = math.inf,
) -> np.ndarray:
  """Return the frames of these numbers, which increase, as uint8 `[t h w 3]`; see `read_video`."""
  index = _index(path)
  if numbers[-1] >= (available := index.info.num_frames):
    raise ValueError(
      f'{path}: frame {numbers[-1]} is needed, but the video has {available} frames; use a longer video.'
    )
  if max_bytes is not None:
    check_bytes(path, len(numbers), *index.info.resolution, max_bytes)
  clock = Clock(path, max_seconds)
  with _decoding(path):
    video = _decode(path, index, numbers, clock, seek=True)
    if video is None:
      video = _decode(path, index, numbers, clock, seek=False)
  if video is None:
    raise ValueError(f'{path}: frames {numbers[0]} to {numbers[-1]} cannot be decoded; re-encode or remove the file.')
  return video


def _index(path: str | os.PathLike) -> _Index:
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such video file; check the path.')
  stat = os.stat(path)
  with _decoding(path):
    index = _cached_index(os.path.abspath(path), stat.st_mtime_ns, stat.st_size)
  if index is None or not index.info.num_frames:
    raise ValueError(f'{path}: contains no video frames; re-encode or remove the file.')
  return index


@functools.lru_cache(maxsize=4096)  # 8 bytes per frame
def _cached_index(path: str, mtime_ns: int, size: int) -> _Index | None:
  """Index a file by its packets, without decoding them. A changed time or size misses the cache."""
  clock = Clock(path, MAX_SECONDS)
  with open_video(path) as container:
    if not container.streams.video:
      return None
    stream = container.streams.video[0]
    shown = []  # the presentation time of each packet
    for packet in container.demux(stream):
      clock.check()
      if packet.size and not packet.is_discard:
        shown.append(packet.pts)
      if len(shown) > MAX_FRAMES:
        raise ValueError(f'{path}: contains more than {MAX_FRAMES:,} frames; cut the video.')
    rate = float(stream.average_rate or 0)
    times = sorted(time for time in shown if time is not None)
    if len(times) > 1 and len(set(times)) == len(shown):
      rate = (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
    timed = any(name in container.format.name for name in _TIMED) and len(set(times)) == len(shown)
    size = (stream.codec_context.height, stream.codec_context.width)
    return _Index(VideoInfo(len(shown), rate, size), array.array('q', times) if timed else None)


def _decode(
  path: str | os.PathLike, index: _Index, wanted: Sequence[int], clock: Clock, seek: bool
) -> np.ndarray | None:
  """Return the wanted frames in order, or None if some are missing or damaged.

  FFmpeg fills in what it cannot decode and marks that frame alone as corrupt, but all frames up to the next key frame
  are predicted from it.
  """
  keys = wanted if index.times is None else [index.times[frame] for frame in wanted]
  places = {key: place for place, key in enumerate(keys)}
  video, scalers, damaged = None, _scalers(), False
  with open_video(path) as container:
    stream = container.streams.video[0]
    stream.thread_type, stream.codec_context.thread_count = 'NONE', 1  # Grain uses threads of its own
    seeking = seek and index.times is not None
    if seeking and wanted[0]:
      container.seek(keys[0], stream=stream, backward=True)
    frames = _needed(container, stream, places) if seeking else container.decode(stream)
    for number, frame in enumerate(frames):
      clock.check()
      place = places.pop(number if index.times is None else frame.pts, None)
      damaged = frame.is_corrupt or (damaged and not frame.key_frame)
      if place is not None:
        if damaged:
          return None
        picture = _to_rgb(frame, *scalers)
        video = np.empty((len(keys), *picture.shape), np.uint8) if video is None else video
        if picture.shape != video.shape[1:]:
          raise ValueError(f'{path}: its frames differ in size; re-encode or remove the file.')
        video[place] = picture
      if not places:
        return video
  return None


def _needed(container, stream, times: Container[int]) -> Iterator:
  """Yield the decoded frames of a stream, except frames at other times that no frame is predicted from.

  Only for H.264: HEVC marks such frames within their temporal layer, and frames of higher layers may depend on them.
  """
  context = stream.codec_context
  for packet in container.demux(stream):
    if context.codec.name == 'h264':
      context.skip_frame = 'DEFAULT' if packet.pts is None or packet.pts in times else 'NONREF'
    yield from packet.decode()


def _scalers() -> tuple:
  """Return one reformatter for each conversion of `_to_rgb`: each keeps its tables from frame to frame."""
  from av.video.reformatter import VideoReformatter

  return VideoReformatter(), VideoReformatter()


def _to_rgb(frame, to_planes, to_rgb) -> np.ndarray:
  """Convert a frame to upright uint8 [h w 3], a view of FFmpeg's memory.

  The conversion goes through planes of color, which swscale fills twice as fast; for even heights the bytes are equal.
  """
  from av.video.reformatter import ColorRange, Interpolation

  exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
  options = {'interpolation': exact, 'dst_color_range': ColorRange.JPEG, 'threads': 1}
  turns = round(frame.rotation / 90) % 4
  if frame.format.name in _PLANAR and frame.height % 2 == 0:
    frame = to_planes.reformat(frame, format='gbrp', **options)
  frame = to_rgb.reformat(frame, format='rgb24', **options)
  (plane,) = frame.planes
  pixels = np.ndarray((frame.height, frame.width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
  return np.rot90(pixels, turns)


@contextlib.contextmanager
def _decoding(path: str | os.PathLike):
  import av

  try:
    yield
  except av.error.FFmpegError as error:
    raise ValueError(
      f'{path}: cannot be decoded as a video ({error.strerror}); re-encode or remove the file.'
    ) from error
