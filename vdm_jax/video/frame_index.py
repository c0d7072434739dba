"""Index of a video file by its packets: which stream is shown, its frames in the order shown, and when each is."""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.video import cropping, display
from vdm_jax.video.display import UPRIGHT, Crop, Matrix
from vdm_jax.video.opening import IMAGES, MAX_FRAMES, MAX_SECONDS, Clock, check_size, open_image, open_video

# Only these containers store exact times; in others, frames are counted from the start.
_TIMED = ('mov', 'matroska')
_START = 32  # packets and frames among which those are looked for that FFmpeg drops at the start of a cut
_MPEG = ('mpeg1video', 'mpeg2video')
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive
_ALPHA_DECODERS = {'vp8': 'libvpx', 'vp9': 'libvpx-vp9'}  # FFmpeg's own decoders ignore the alpha of WebM
# A frame further than this from where a constant rate would put it, in intervals, makes the rate variable; or further
# than one tick of the container, to which times are rounded, if there are several in an interval.
_IRREGULAR = 0.1

SEVERAL_STREAMS = 'several video streams'
VARIABLE_RATE = 'variable frame rate'
INTERLACED = 'interlaced'
TRANSPARENT = 'transparent'
PIXEL_ASPECT = 'pixels that are not square'
CROPPED = 'cropped by their metadata'
ROTATED = 'rotated by an odd angle'
HDR = ('HDR (PQ)', 'HDR (HLG)')
_TRANSFERS = {16: HDR[0], 18: HDR[1]}  # AVColorTransferCharacteristic


class VideoInfo(NamedTuple):
  """What is known of a video without decoding it."""

  num_frames: int
  frame_rate: float  # frames per second, the mean if it varies; 0 if unknown
  resolution: tuple[int, int] = (0, 0)  # height and width in square pixels, cropped, before any rotation is applied


@dataclasses.dataclass
class Index:
  """The stream of a file that is shown. `notes` grows as frames are decoded, which show what no header tells."""

  info: VideoInfo
  stream: int  # its number in the container
  times: Sequence[int] | None  # presentation time of each frame, by which it is found; None if not reliable
  seconds: np.ndarray | None  # float64 `[t]`, increasing, of each frame after the first; None at a constant rate
  pixel_aspect: float  # width of a pixel over its height
  crop: Crop
  matrix: Matrix | None  # orientation of an image; None: of each frame
  decoder: str | None  # that the codec's own one is replaced with
  notes: set[str]

  @property
  def interlaced(self) -> bool:
    """Whether frames may consist of two fields of different times."""
    return INTERLACED in self.notes


def index_file(path: str | os.PathLike) -> Index:
  """Return the index of a file. Raises as `reading.read_video` does."""
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{path}: there is no such video file; check the path.')
  stat = os.stat(path)
  with decoding(path):
    index = _cached_index(os.path.abspath(path), stat.st_mtime_ns, stat.st_size)
  if index is None or not index.info.num_frames:
    raise ValueError(f'{path}: contains no video frames, at most a cover picture; re-encode or remove the file.')
  return index


@contextlib.contextmanager
def decoding(path: str | os.PathLike):
  """Turn FFmpeg's errors into ValueError that names the file and the fix."""
  import av

  try:
    yield
  except av.error.FFmpegError as error:
    raise ValueError(
      f'{path}: cannot be decoded as a video ({error.strerror}); re-encode or remove the file.'
    ) from error


@functools.lru_cache(maxsize=4096)  # 8 bytes per frame
def _cached_index(path: str, mtime_ns: int, size: int) -> Index | None:
  """Index a file by its packets, without decoding them. A changed time or size misses the cache."""
  with open_video(path) as container:
    candidates = [stream for stream in container.streams.video if _is_shown(stream)]
    packets = _packets(path, container, candidates)
    if not any(packets.values()):
      return None
    stream = max(candidates, key=lambda stream: _preference(stream, len(packets[stream.index])))
    timed = any(name in container.format.name for name in _TIMED)
    shown = _without_dropped(path, stream, packets[stream.index], timed)
    rate = float(stream.average_rate or 0)
    times, seconds = sorted(time for time in shown if time is not None), None
    complete = len(set(times)) == len(shown)
    if len(times) > 1 and complete:
      rate = (len(times) - 1) / float((times[-1] - times[0]) * stream.time_base)
      seconds = _irregular(times, float(stream.time_base))
    is_image = container.format.name in IMAGES
    crop, factor = cropping.read_crop(path, stream)
    aspect = 1.0 if is_image else round(_pixel_aspect(stream) * factor, 9)  # viewers ignore the density of images
    context = stream.codec_context
    shape = display.shown_shape(context.height, context.width, crop, aspect)
    check_size(path, *shape)
    notes = {
      SEVERAL_STREAMS: sum(map(bool, packets.values())) > 1,
      VARIABLE_RATE: seconds is not None,
      INTERLACED: getattr(context, 'field_order', 0) not in _PROGRESSIVE,  # else the frames tell; not in PyAV 15
      PIXEL_ASPECT: aspect != 1,
      CROPPED: any(crop),
    }
    if context.color_trc in _TRANSFERS:
      notes[_TRANSFERS[context.color_trc]] = True
    return Index(
      info=VideoInfo(len(shown), rate, shape),
      stream=stream.index,
      times=array.array('q', times) if timed and complete else None,
      seconds=seconds,
      pixel_aspect=aspect,
      crop=crop,
      matrix=_image_matrix(path) if is_image else None,
      decoder=_ALPHA_DECODERS.get(context.codec.name) if stream.metadata.get('alpha_mode') == '1' else None,
      notes={note for note, true in notes.items() if true},
    )


def _is_shown(stream) -> bool:
  """Return whether a stream of pictures can be the video, and is no cover or thumbnail; FFmpeg must know its codec."""
  from av.stream import Disposition

  pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
  return stream.codec_context is not None and not stream.disposition & pictures


def _packets(path: str, container, streams: Sequence) -> dict[int, list[int | None]]:
  """Return the presentation times of the shown packets of each stream."""
  clock, shown = Clock(path, MAX_SECONDS), {stream.index: [] for stream in streams}
  for packet in container.demux(*streams) if streams else ():
    clock.check()
    times = shown[packet.stream.index]
    if packet.size and not packet.is_discard:
      times.append(packet.pts)
    if len(times) > MAX_FRAMES:
      raise ValueError(f'{path}: contains more than {MAX_FRAMES:,} frames; cut the video.')
  return shown


def _without_dropped(path: str, stream, shown: Sequence[int | None], timed: bool) -> list[int | None]:
  """Return the times without those of frames at the start that FFmpeg drops, which refer to frames before a cut.

  A file cut without encoding it again may start with frames that are predicted from pictures before the first key
  frame. Whether there are such is seen from packets shown before the first one, or without a time; only then, and for
  MPEG-1 and 2, which do not show it, the start is decoded. `timed`: the container stores the time of every frame.
  """
  start, number = shown[:_START], stream.index
  early = any(time is not None and time < start[0] for time in start) if start[0] is not None else timed
  if not (early or (timed and None in start) or stream.codec_context.name in _MPEG):
    return list(shown)
  decoded: list[int | None] = []
  with open_video(path) as container:
    stream = container.streams[number]
    stream.thread_type, stream.codec_context.thread_count = 'NONE', 1
    for frame in container.decode(stream):
      decoded.append(frame.pts)
      if len(decoded) == _START:
        break
  kept = collections.Counter(decoded)
  if (last := max((time for time in kept if time is not None), default=None)) is None:
    return list(shown)
  dropped = collections.Counter(time for time in shown if time is not None and time <= last) - kept
  if timed:
    dropped[None] = start.count(None) - kept[None]
  left = []
  for time in shown:
    if dropped[time] > 0:
      dropped[time] -= 1
    else:
      left.append(time)
  return left


def _preference(stream, num_frames: int) -> tuple:
  """Return a key that is largest for the stream that a player shows: not a single picture, by default, the largest."""
  from av.stream import Disposition

  context = stream.codec_context
  default = bool(stream.disposition & Disposition.default)
  return min(num_frames, 2), default, context.height * context.width, -stream.index


def _irregular(times: Sequence[int], time_base: float) -> np.ndarray | None:
  """Return the times of frames in seconds after the first; None if they are those of a constant rate, rounded."""
  ticks = np.asarray(times, np.int64) - times[0]
  interval = ticks[-1] / (len(ticks) - 1)
  deviation = np.abs(ticks - interval * np.arange(len(ticks))).max()
  allowed = max(_IRREGULAR * interval, 1.0 if interval >= 2 else 0.0)
  return None if deviation <= allowed else ticks * time_base


def _pixel_aspect(stream) -> float:
  """Return the width of a pixel over its height: the container's, or else the codec's; 1 if neither has one."""
  aspect = stream.sample_aspect_ratio
  return float(aspect) if aspect and math.isfinite(aspect) and aspect > 0 else 1.0


def _image_matrix(path: str) -> Matrix:
  try:
    with open_image(path) as image:
      return display.image_matrix(image)
  except Exception:  # damaged EXIF data raise almost any exception; FFmpeg decodes the image all the same
    return UPRIGHT
