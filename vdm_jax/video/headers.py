"""Check of the frame count in the header of an MP4 or MOV file, before FFmpeg allocates an index for it.

Written here because FFmpeg has no such limit: a few bytes can claim a billion samples, whose index takes gigabytes.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

_FIRST = (b'ftyp', b'moov', b'moof', b'mdat', b'free', b'skip', b'wide', b'styp', b'sidx', b'pnot')
_TABLES = (b'moov', b'moof')


def check_frame_count(path: str | os.PathLike, max_frames: int) -> None:
  """Check the numbers of samples in the tables of an MP4 or MOV file; files of other formats pass.

  Args:
    path: the file.
    max_frames: limit for fragments, whose entries may take no bytes.

  Raises:
    ValueError: a table of samples claims more than the file can hold, or a fragment more than `max_frames`.
  """
  length = os.path.getsize(path)
  with open(path, 'rb') as file:
    if length < 16 or file.read(8)[4:] not in _FIRST:
      return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
      for start, end in _tables(content, length):
        for place in _boxes(content, b'stsz', start, end):
          size, count = struct.unpack_from('>II', content, place + 8)
          _check(path, count, count * (size or 4) <= length)
        for place in _boxes(content, b'trun', start, end):
          flags, count = struct.unpack_from('>II', content, place + 4)
          entry = 4 * (flags >> 8 & 0xF).bit_count()
          _check(path, count, count * entry <= length if entry else count <= max_frames)


def _check(path: str | os.PathLike, count: int, possible: bool) -> None:
  if not possible:
    raise ValueError(f'{path}: claims {count:,} samples, more than a file of this size can hold; remove it.')


def _tables(content: mmap.mmap, length: int) -> Iterator[tuple[int, int]]:
  """Yield the start and the end of the boxes that contain tables."""
  start = 0
  while start + 16 <= length:
    size, kind = struct.unpack_from('>I4s', content, start)
    if size == 1:
      (size,) = struct.unpack_from('>Q', content, start + 8)
    end = min(length, start + size) if size >= 8 else length  # 0: to the end of the file
    if kind in _TABLES:
      yield start, end
    start = end


def _boxes(content: mmap.mmap, kind: bytes, start: int, end: int) -> Iterator[int]:
  """Yield the offset of the name of each box of a kind; boxes too short for their numbers are skipped."""
  place = content.find(kind, start, end)
  while place >= 0:
    if place + 16 <= end and struct.unpack_from('>I', content, place - 4)[0] >= 16:
      yield place
    place = content.find(kind, place + 4, end)
