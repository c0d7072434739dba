"""Reading of video files, exact by frame number, with PyAV (FFmpeg)."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterator, Sequence
from typing import Any

import numpy as np

from vdm_jax.video import display
from vdm_jax.video.deinterlacing import deinterlace, with_neighbors
from vdm_jax.video.frame_index import INTERLACED, ROTATED, TRANSPARENT, Index, VideoInfo, decoding, index_file
from vdm_jax.video.opening import Clock, check_bytes, open_video
from vdm_jax.video.transforms import frame_numbers

_PLANAR = ('yuv420p', 'yuvj420p', 'yuv422p', 'yuv444p', 'yuv420p10le')  # common pixel formats of camera footage


def probe(path: str | os.PathLike) -> VideoInfo:
  """Return the number of frames, the frame rate and the size, without decoding. Raises as `read_video` does."""
  return index_file(path).info


def frame_times(path: str | os.PathLike) -> np.ndarray | None:
  """Return the time of each frame after the first one in seconds, float64 `[t]`; None if the frame rate is constant.

  Raises as `read_video` does.
  """
  return index_file(path).seconds


def notes(path: str | os.PathLike) -> tuple[str, ...]:
  """Return what is unusual about the pictures of a file, sorted: constants of `frame_index`.

  Transparency, and interlaced frames of which the header says nothing, are known once frames have been read. Raises as
  `read_video` does.
  """
  return tuple(sorted(index_file(path).notes))


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
    num_frames = max(0, math.ceil((index_file(path).info.num_frames - start - 0.5) / frame_skip))
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
  index = index_file(path)
  if numbers[-1] >= (available := index.info.num_frames):
    raise ValueError(
      f'{path}: frame {numbers[-1]} is needed, but the video has {available} frames; use a longer video.'
    )
  if max_bytes is not None:
    check_bytes(path, len(numbers), *index.info.resolution, max_bytes)
  clock = Clock(path, max_seconds)
  with decoding(path):
    video = _decode(path, index, numbers, clock, seek=True)
    if video is None:
      video = _decode(path, index, numbers, clock, seek=False)
  if video is None:
    raise ValueError(f'{path}: frames {numbers[0]} to {numbers[-1]} cannot be decoded; re-encode or remove the file.')
  return video


def _decode(
  path: str | os.PathLike, index: Index, wanted: Sequence[int], clock: Clock, seek: bool
) -> np.ndarray | None:
  """Return the wanted frames in order, or None if some are missing or damaged.

  FFmpeg fills in what it cannot decode and marks that frame alone as corrupt, but all frames up to the next key frame
  are predicted from it.
  """
  interlaced = index.interlaced
  needed = sorted(with_neighbors(wanted, index.info.num_frames)) if interlaced else wanted
  frames = _frames(path, index, needed, clock, seek)
  if interlaced:
    frames = deinterlace(frames, frozenset(needed))
  places = {number: place for place, number in enumerate(wanted)}
  video, scalers = None, _scalers()
  for number, frame in frames:
    place = places.pop(number, None)
    if frame is None:
      return None
    if place is None:
      continue
    if frame.interlaced_frame and not interlaced:  # the header did not say so: begin again, now with their neighbors
      index.notes.add(INTERLACED)
      return _decode(path, index, wanted, clock, seek)
    picture = _picture(frame, index, scalers)
    video = np.empty((len(wanted), *picture.shape), np.uint8) if video is None else video
    if picture.shape != video.shape[1:]:
      raise ValueError(f'{path}: its frames differ in size; re-encode or remove the file.')
    video[place] = picture
    if not places:
      return video
  return None


def _frames(
  path: str | os.PathLike, index: Index, needed: Sequence[int], clock: Clock, seek: bool
) -> Iterator[tuple[int, Any]]:
  """Yield the number and the frame of all needed frames, and of others; None for a damaged frame, which ends them."""
  keys = needed if index.times is None else [index.times[number] for number in needed]
  numbers = dict(zip(keys, needed, strict=True))
  with open_video(path) as container:
    stream = container.streams[index.stream]
    stream.thread_type, stream.codec_context.thread_count = 'NONE', 1  # Grain uses threads of its own
    seeking = seek and index.times is not None
    if seeking and needed[0]:
      container.seek(keys[0], stream=stream, backward=True)
    decoded, damaged = _decoded(container, stream, index, numbers if seeking else None), False
    for count, frame in enumerate(decoded):
      clock.check()
      number = numbers.pop(count if index.times is None else frame.pts, None)
      damaged = frame.is_corrupt or (damaged and not frame.key_frame)
      if number is not None:
        yield number, None if damaged else frame
      if not numbers:
        return


def _decoded(container, stream, index: Index, times: Container[int] | None) -> Iterator:
  """Yield the decoded frames of a stream from where it stands; with `times`, those that are not needed may lack."""
  if index.decoder is not None:
    return _decoded_by(index.decoder, container, stream)
  return container.decode(stream) if times is None else _needed(container, stream, times)


def _decoded_by(name: str, container, stream) -> Iterator:
  """Yield the frames of a stream, decoded by the decoder of this name."""
  import av

  if name not in av.codecs_available:
    raise ValueError(
      f'{container.name}: has transparency, which FFmpeg decodes with {name}; install a PyAV that includes it, such as '
      'the wheel of `pip install av`, or re-encode the file.'
    )
  context = av.CodecContext.create(name, 'r')
  context.thread_type, context.thread_count = 'NONE', 1
  context.options = stream.codec_context.options
  for packet in container.demux(stream):
    yield from context.decode(packet if packet.size else None)


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


def _picture(frame, index: Index, scalers: tuple) -> np.ndarray:
  """Return a frame as it is shown, uint8 `[h w 3]`, perhaps a view of FFmpeg's memory."""
  matrix, odd = display.frame_matrix(frame) if index.matrix is None else (index.matrix, False)
  if odd:
    index.notes.add(ROTATED)
  if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
    stored = _pixels(frame, 'rgba', scalers)
    pixels = stored[..., :3]
    if (stored[..., 3] != 255).any():
      pixels = display.composite(stored)
      index.notes.add(TRANSPARENT)
  else:
    pixels = _pixels(frame, 'rgb24', scalers)
  return display.show(pixels, index.crop, index.pixel_aspect, matrix)


def _pixels(frame, format: str, scalers: tuple) -> np.ndarray:
  """Convert a frame to uint8 [h w 3 or 4], a view of FFmpeg's memory.

  The conversion goes through planes of color, which swscale fills twice as fast; for even heights the bytes are equal.
  """
  from av.video.reformatter import ColorRange, Interpolation

  to_planes, to_rgb = scalers
  exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
  options = {'interpolation': exact, 'dst_color_range': ColorRange.JPEG, 'threads': 1}
  if frame.format.name in _PLANAR and frame.height % 2 == 0:
    frame = to_planes.reformat(frame, format='gbrp', **options)
  frame = to_rgb.reformat(frame, format=format, **options)
  (plane,) = frame.planes
  channels = len(format.removesuffix('24'))
  return np.ndarray((frame.height, frame.width, channels), np.uint8, plane, strides=(plane.line_size, channels, 1))
