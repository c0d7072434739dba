"""The crop in the headers of MP4, MOV, Matroska and WebM files, which FFmpeg's libraries leave to the player.

Written here because PyAV does not show it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

from vdm_jax.video.display import Crop

_STEPS = 4096  # elements of a Matroska file that are passed over in search of its tracks
_PATH = (b'mdia', b'minf', b'stbl', b'stsd')  # below a track of MP4
_SAMPLE_ENTRY = 86  # bytes before the boxes of a video format
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_CROPS = {'top': 0x54BB, 'bottom': 0x54AA, 'left': 0x54CC, 'right': 0x54DD}


def read_crop(path: str | os.PathLike, stream) -> tuple[Crop, float]:
  """Return the pixels at the edges of a stream of PyAV that are not shown, and a factor of its pixel aspect ratio.

  Without a pixel aspect ratio in an MP4 file, FFmpeg divides the size shown by the stored size, which is larger than
  what is cropped: the factor corrects that. Impossible values crop nothing.
  """
  formats, height, width = stream.container.format.name, stream.codec_context.height, stream.codec_context.width
  if 'mov' not in formats and 'matroska' not in formats:
    return Crop(), 1.0
  with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
    try:
      if 'mov' in formats:
        crop, has_aspect = _clean_aperture(content, stream.id, height, width)
      else:
        crop, has_aspect = _pixel_crop(content, stream.index), True
    except (struct.error, IndexError, ZeroDivisionError):
      return Crop(), 1.0
  shown_height, shown_width = height - crop.top - crop.bottom, width - crop.left - crop.right
  if min(crop) < 0 or shown_height <= 0 or shown_width <= 0:
    return Crop(), 1.0
  guessed = stream.sample_aspect_ratio not in (None, 0, 1) and not has_aspect
  return crop, (width / shown_width) / (height / shown_height) if guessed else 1.0


def _clean_aperture(content: mmap.mmap, track_id: int, height: int, width: int) -> tuple[Crop, bool]:
  """Return the crop of the `clap` box of a track (ISO/IEC 14496-12, 12.1.4), and whether it has a `pasp` box."""
  for start, end in _inside(content, b'moov', 0, len(content)):
    if content.find(b'clap', start, end) < 0:
      continue
    for track, track_end in _inside(content, b'trak', start, end):
      for header, _ in _inside(content, b'tkhd', track, track_end):
        found = struct.unpack_from('>I', content, header + (20 if content[header] else 12))[0]
        if found != track_id:
          continue
        for place in _format_boxes(content, b'clap', track, track_end):
          values = struct.unpack_from('>IIIIiIiI', content, place)
          shown_width, shown_height, right, down = (n / d for n, d in zip(values[::2], values[1::2], strict=True))
          left, top = round((width - shown_width) / 2 + right), round((height - shown_height) / 2 + down)
          crop = Crop(top, height - top - round(shown_height), left, width - left - round(shown_width))
          return crop, any(_format_boxes(content, b'pasp', track, track_end))
  return Crop(), True


def _format_boxes(content: mmap.mmap, kind: bytes, start: int, end: int) -> Iterator[int]:
  """Yield the start of the body of each box of a kind in the video formats of a track."""
  places = [(start, end)]
  for step in _PATH:
    places = [inside for place in places for inside in _inside(content, step, *place)]
  for place, table_end in places:
    for _, entry, entry_end in _boxes(content, place + 8, table_end):
      yield from (body for body, _ in _inside(content, kind, entry - 8 + _SAMPLE_ENTRY, entry_end))


def _inside(content: mmap.mmap, kind: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
  """Yield the start and the end of the body of each box of a kind."""
  return ((body, body_end) for found, body, body_end in _boxes(content, start, end) if found == kind)


def _boxes(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
  """Yield the kind, and the start and the end of the body, of each box."""
  while start + 8 <= end:
    size, kind = struct.unpack_from('>I4s', content, start)
    body = start + 8
    if size == 1:
      (size,) = struct.unpack_from('>Q', content, body)
      body += 8
    stop = start + size if size else end
    if stop < body or stop > end:
      return
    yield kind, body, stop
    start = stop


def _pixel_crop(content: mmap.mmap, number: int) -> Crop:
  """Return the PixelCrop elements of a track of Matroska, whose tracks FFmpeg numbers in their order."""
  for _, start, end in (e for e in _elements(content, 0, len(content)) if e[0] == _SEGMENT):
    for _, tracks, tracks_end in (e for e in _elements(content, start, end) if e[0] == _TRACKS):
      entries = [e for e in _elements(content, tracks, tracks_end) if e[0] == _TRACK]
      _, entry, entry_end = entries[number]
      for _, video, video_end in (e for e in _elements(content, entry, entry_end) if e[0] == _VIDEO):
        values = {
          kind: int.from_bytes(content[at:stop], 'big') for kind, at, stop in _elements(content, video, video_end)
        }
        return Crop(**{edge: values.get(kind, 0) for edge, kind in _CROPS.items()})
      return Crop()
  return Crop()


def _elements(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
  """Yield the kind, and the start and the end of the body, of each element; one of unknown size extends to the end."""
  for _ in range(_STEPS):
    if start >= end:
      return
    length = 9 - content[start].bit_length()
    kind = int.from_bytes(content[start : start + length], 'big')
    start += length
    length = 9 - content[start].bit_length()
    size = int.from_bytes(content[start : start + length], 'big') & (1 << 7 * length) - 1
    body = start + length
    stop = end if size == (1 << 7 * length) - 1 else min(body + size, end)
    yield kind, body, stop
    start = stop
