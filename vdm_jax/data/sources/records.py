"""Clips in ArrayRecord shards: what one record holds, and the source that reads a folder of them.

A record is the bytes `VDMCLIP1`, the length of a header as four bytes (little endian), the header as JSON, and the
frames one after another, each a PNG. The header names the clip's caption, label, frame rate and original resolution,
and the number of bytes of each frame: a window is read without decoding the rest, and nothing in a record is executed.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from PIL import Image

from vdm_jax.data.sources.contract import Clip
from vdm_jax.data.sources.stored_clips import Stored
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import check_bytes, open_picture
from vdm_jax.video.transforms import frame_numbers

MAGIC = b'VDMCLIP1'
INFO = 'dataset.json'
SUFFIX = '.array_record'
_LENGTH = struct.Struct('<I')


class Header(NamedTuple):
  """What a record says of its clip."""

  name: str
  split: str  # train or test
  caption: str
  label: int | None
  frame_rate: float  # 0: not known
  resolution: tuple[int, int]  # height and width before any resizing
  size: tuple[int, int]  # height and width of the stored frames
  frame_bytes: tuple[int, ...]  # of each frame


class Line(NamedTuple):
  """What the index of a folder says of a clip; its fields are those of `Header`, and where the clip is."""

  name: str
  split: str
  caption: str
  label: int | None
  frame_rate: float
  resolution: tuple[int, int]
  size: tuple[int, int]
  num_frames: int
  record: int = 0  # number among the records of all shards, which is not in the file


def encode(windows: Iterable[Clip], name: str, split: str) -> bytes:
  """A record of a clip that comes in windows, uint8 [t h w 1 or 3], one after another; pixels are kept exactly."""
  frames = []
  for clip in windows:
    frames += [_png(frame) for frame in clip.video]
  header = Header(
    name,
    split,
    clip.caption,
    clip.label,
    clip.frame_rate,
    tuple(map(int, clip.resolution)),
    clip.video.shape[1:3],
    tuple(len(frame) for frame in frames),
  )
  text = json.dumps(header._asdict()).encode()
  return b''.join([MAGIC, _LENGTH.pack(len(text)), text, *frames])


def decode_header(record: bytes) -> tuple[Header, int]:
  """The header of a record, and where its frames begin. Raises ValueError if it is no such record or is damaged."""
  start = len(MAGIC) + _LENGTH.size
  if record[: len(MAGIC)] != MAGIC or len(record) < start:
    raise ValueError('is not a clip that `python -m vdm_jax.data convert` wrote')
  (length,) = _LENGTH.unpack_from(record, len(MAGIC))
  try:
    header = Header(**json.loads(record[start : start + length]))
    sizes = [int(size) for size in header.frame_bytes]
    header = header._replace(resolution=tuple(header.resolution), size=tuple(header.size), frame_bytes=tuple(sizes))
  except (ValueError, TypeError) as error:
    raise ValueError(f'has a damaged header ({error})') from error
  if min(sizes, default=-1) < 0 or start + length + sum(sizes) != len(record):
    raise ValueError('is not as long as its header says')
  return header, start + length


def decode_frames(
  record: bytes, where: str, *, start: int, num_frames: int, frame_skip: float, max_bytes: int
) -> np.ndarray:
  """Frames start, start + frame_skip, ...; uint8 [t h w c]. Raises ValueError if one is damaged."""
  header, offset = decode_header(record)
  check_bytes(where, num_frames, *header.size, max_bytes)
  offsets = offset + np.concatenate([[0], np.cumsum(header.frame_bytes)])
  frames = []
  for number in frame_numbers(start, num_frames, frame_skip):
    frames.append(decode_picture(record[offsets[number] : offsets[number + 1]], f'{where}: frame {number}'))
    if frames[-1].shape[:2] != header.size:
      raise ValueError(f'{where}: frame {number} is {frames[-1].shape[:2]}, but the header says {header.size}.')
  return np.stack(frames)


def decode_picture(content: bytes, where: str) -> np.ndarray:
  """uint8 [h w 1 or 3] of a PNG or JPEG. Raises ValueError if it cannot be decoded or is too large."""
  try:
    with open_picture(where, content) as image:
      pixels = np.asarray(image if image.mode in ('L', 'RGB') else image.convert('RGB'))
  except Exception as error:  # a damaged picture raises almost any of them
    raise ValueError(f'{where} cannot be decoded as a picture ({type(error).__name__}).') from error
  return pixels if pixels.ndim == 3 else pixels[..., None]


class Shards:
  """Records of several ArrayRecord files as one sequence."""

  def __init__(self, files: Sequence[pathlib.Path]):
    self._records = grain.sources.ArrayRecordDataSource([str(file) for file in files])

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> bytes:
    try:
      return bytes(self._records[index])
    except (RuntimeError, IndexError) as error:
      raise ValueError(f'record {index} cannot be read ({str(error).splitlines()[0]})') from error


class Records(Stored):
  """The clips of one split of a folder that `python -m vdm_jax.data convert` wrote.

  Order, split, captions and labels are those of the data it was made from. Raises FileNotFoundError if there is no such
  folder, and ValueError if it is not complete.
  """

  def __init__(self, path: str | os.PathLike, split: str, **settings: Any):
    self._clips, self._shards, self.num_classes = _open(pathlib.Path(path), os.fspath(path))
    names = [clip.name for clip in self._clips]
    held_out = {clip.name for clip in self._clips if clip.split == 'test'}
    without_rate = next((clip.name for clip in self._clips if not clip.frame_rate), None)
    super().__init__(path, split, names, held_out, without_rate=without_rate, **settings)

  def _info(self, place: int) -> VideoInfo:
    clip = self._clips[place]
    return VideoInfo(clip.num_frames, clip.frame_rate, clip.size)

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    clip = self._clips[place]
    where = os.path.join(self.path, clip.name)
    try:
      record = self._shards[clip.record]
      header, _ = decode_header(record)
    except ValueError as error:
      raise ValueError(f'{where} {error}; convert the data anew.') from error
    if header.name != clip.name:
      raise ValueError(f'{where}: its record is of {header.name}; convert the data anew.')
    return decode_frames(record, where, start=start, num_frames=num_frames, frame_skip=frame_skip, max_bytes=max_bytes)

  def _caption(self, place: int) -> str:
    return self._clips[place].caption

  def _label(self, place: int) -> int | None:
    return self._clips[place].label

  def _resolution(self, place: int) -> tuple[int, int]:
    return self._clips[place].resolution


def shard_files(path: pathlib.Path, count: int) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """The records of each shard, and the index that is written after them."""
  stems = [f'clips-{i:05d}-of-{count:05d}' for i in range(count)]
  return [(path / f'{stem}{SUFFIX}', path / f'{stem}.jsonl') for stem in stems]


def index_line(record: bytes) -> dict[str, Any]:
  """What the index of a shard says of a record: its header without the bytes of frames, and their number."""
  values = decode_header(record)[0]._asdict()
  return values | {'num_frames': len(values.pop('frame_bytes'))}


def _open(path: pathlib.Path, given: str) -> tuple[list[Line], Shards, int | None]:
  """The clips in the order of their names, the records, and the number of classes."""
  remedy = 'make it with `python -m vdm_jax.data convert SRC DST`'
  if not (path / INFO).is_file():
    raise FileNotFoundError(f'data.path={given!r} has no {INFO}; {remedy}.')
  try:
    info = json.loads((path / INFO).read_text())
    files = shard_files(path, info['num_shards'])
    missing = [file.name for pair in files for file in pair if not file.is_file()]
    if missing:
      raise ValueError(f'{missing[0]} is missing')
    lines = [line for _, index in files for line in index.read_text().splitlines()]
    clips = [_line(json.loads(line), record) for record, line in enumerate(lines)]
    shards = Shards([file for file, index in files if index.stat().st_size])
    if len(shards) != len(clips):
      raise ValueError(f'there are {len(shards)} records, but {len(clips)} in the index')
    return sorted(clips, key=lambda clip: clip.name), shards, info['num_classes']
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'data.path={given!r} is not complete ({error}); run the same `python -m vdm_jax.data convert` again.'
    ) from error


def _line(values: dict[str, Any], record: int) -> Line:
  pairs = {key: tuple(values[key]) for key in ('resolution', 'size')}
  return Line(**values | pairs, record=record)


def _png(frame: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(frame if frame.shape[-1] == 3 else frame[..., 0]).save(buffer, 'PNG')
  return buffer.getvalue()
