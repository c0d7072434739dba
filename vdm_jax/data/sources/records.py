"""Clips in ArrayRecord shards: the format of a record, and the source that reads a folder of them.

A record is the bytes `VDMCLIP1`, the length of a header as four bytes (little endian), the header as JSON, and the
frames one after another, each a PNG. The header holds the clip's caption, label, frame rate and original resolution,
the number of bytes of each frame, so that a window is read without decoding the rest, and the times of the frames if
the frame rate varies. Written here because tf.train.Example must be parsed as a whole; nothing in a record is executed.
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

from vdm_jax.data.sources.contract import Clip, Source, clip_path
from vdm_jax.video import display
from vdm_jax.video.frame_index import VARIABLE_RATE
from vdm_jax.video.opening import MAX_BYTES, check_bytes, open_image
from vdm_jax.video.reading import VideoInfo

MAGIC = b'VDMCLIP1'
INFO = 'dataset.json'
SUFFIX = '.array_record'
_LENGTH = struct.Struct('<I')


class Header(NamedTuple):
  """The header of a record."""

  name: str
  split: str  # train or test
  caption: str
  label: int | None
  frame_rate: float  # frames per second; 0: unknown
  resolution: tuple[int, int]  # height and width before any resizing
  size: tuple[int, int]  # height and width of the stored frames
  frame_bytes: tuple[int, ...]  # number of bytes of each frame
  times: tuple[float, ...] | None = None  # of each frame in seconds; None, and not stored, at a constant rate


class IndexEntry(NamedTuple):
  """A clip in the index of a folder: the fields of its `Header`, and where its record is."""

  name: str
  split: str
  caption: str
  label: int | None
  frame_rate: float
  resolution: tuple[int, int]
  size: tuple[int, int]
  num_frames: int
  times: tuple[float, ...] | None = None
  record: int = 0  # number among the records of all shards, which is not in the index file


def encode(windows: Iterable[Clip], name: str, split: str, times: np.ndarray | None = None) -> bytes:
  """Return the record of a clip, whose pixels are kept exactly.

  Args:
    windows: the clip in parts of consecutive frames, uint8 `[t h w 1 or 3]`, with equal descriptions.
    name: name of the clip.
    split: train or test.
    times: time of each frame in seconds, float64 `[t]`; None at a constant frame rate.
  """
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
    None if times is None else tuple(map(float, times)),
  )
  text = json.dumps(_stored(header)).encode()
  return b''.join([MAGIC, _LENGTH.pack(len(text)), text, *frames])


def _stored(header: Header) -> dict[str, Any]:
  """Return the values of a header that are stored."""
  values = header._asdict()
  if header.times is None:
    del values['times']
  return values


def decode_header(record: bytes) -> tuple[Header, int]:
  """Return the header of a record and the offset of its first frame. Raises ValueError if the record is not valid."""
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
    raise ValueError('does not have the length that its header gives')
  return header, start + length


def decode_frames(record: bytes, where: str, numbers: Sequence[int], *, max_bytes: int) -> np.ndarray:
  """Return the frames of these numbers, uint8 `[t h w c]`. Raises ValueError, naming `where`, if one is damaged."""
  header, offset = decode_header(record)
  check_bytes(where, len(numbers), *header.size, max_bytes)
  offsets = offset + np.concatenate([[0], np.cumsum(header.frame_bytes)])
  frames = []
  for number in numbers:
    frames.append(decode_image(record[offsets[number] : offsets[number + 1]], f'{where}: frame {number}'))
    if frames[-1].shape[:2] != header.size:
      raise ValueError(f'{where}: frame {number} is {frames[-1].shape[:2]}, but its header gives {header.size}.')
  return np.stack(frames)


def decode_image(content: bytes, where: str) -> np.ndarray:
  """Return a PNG or JPEG as uint8 `[h w 1 or 3]`. Raises ValueError if it cannot be decoded or is too large."""
  try:
    with open_image(where, content) as image:
      gray = image.mode == 'L' and not image.has_transparency_data
      pixels = np.asarray(image) if gray else display.image_pixels(image)
  except Exception as error:  # a damaged image raises almost any exception
    raise ValueError(f'{where} cannot be decoded as an image ({type(error).__name__}).') from error
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


class Records(Source):
  """The clips of a folder that `python -m vdm_jax.data convert` wrote.

  Order, split, captions and labels are those of the converted data. Raises FileNotFoundError if there is no such
  folder, and ValueError if it is incomplete.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = os.fspath(path)
    self._clips, self._shards, self.num_classes = _open(pathlib.Path(path), self.path)
    self.names = [clip.name for clip in self._clips]
    self.without_frame_rate = next((clip.name for clip in self._clips if not clip.frame_rate), None)

  @classmethod
  def recognizes(cls, path: pathlib.Path) -> bool:
    return (path / INFO).is_file()

  def info(self, clip: int) -> VideoInfo:
    entry = self._clips[clip]
    return VideoInfo(entry.num_frames, entry.frame_rate, entry.size)

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    entry, where = self._clips[clip], clip_path(self, clip)
    try:
      record = self._shards[entry.record]
      header, _ = decode_header(record)
    except ValueError as error:
      raise ValueError(f'{where} {error}; convert the data again.') from error
    if header.name != entry.name:
      raise ValueError(f'{where}: its record belongs to {header.name}; convert the data again.')
    return decode_frames(record, where, numbers, max_bytes=MAX_BYTES)

  def times(self, clip: int) -> np.ndarray | None:
    times = self._clips[clip].times
    return None if times is None else np.array(times)

  def notes(self, clip: int) -> Sequence[str]:
    return () if self._clips[clip].times is None else (VARIABLE_RATE,)

  def caption(self, clip: int) -> str:
    return self._clips[clip].caption

  def label(self, clip: int) -> int | None:
    return self._clips[clip].label

  def resolution(self, clip: int) -> tuple[int, int]:
    return self._clips[clip].resolution

  def held_out(self) -> set[str]:
    return {clip.name for clip in self._clips if clip.split == 'test'}


def shard_files(path: pathlib.Path, count: int) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Return, for each shard, the file of its records and the file of its index, which is written after them."""
  stems = [f'clips-{i:05d}-of-{count:05d}' for i in range(count)]
  return [(path / f'{stem}{SUFFIX}', path / f'{stem}.jsonl') for stem in stems]


def index_line(record: bytes) -> dict[str, Any]:
  """Return the index entry of a record: its header with the number of frames in place of their sizes in bytes."""
  values = _stored(decode_header(record)[0])
  return values | {'num_frames': len(values.pop('frame_bytes'))}


def _open(path: pathlib.Path, data_path: str) -> tuple[list[IndexEntry], Shards, int | None]:
  """Return the clips in the order of their names, the records, and the number of classes."""
  if not (path / INFO).is_file():
    raise FileNotFoundError(
      f'data.path={data_path!r} has no {INFO}; make it with `python -m vdm_jax.data convert SRC DST`.'
    )
  try:
    info = json.loads((path / INFO).read_text())
    files = shard_files(path, info['num_shards'])
    missing = [file.name for pair in files for file in pair if not file.is_file()]
    if missing:
      raise ValueError(f'{missing[0]} is missing')
    lines = [line for _, index in files for line in index.read_text().splitlines()]
    clips = [_index_entry(json.loads(line), record) for record, line in enumerate(lines)]
    shards = Shards([file for file, index in files if index.stat().st_size])
    if len(shards) != len(clips):
      raise ValueError(f'it has {len(shards)} records, but {len(clips)} index entries')
    return sorted(clips, key=lambda clip: clip.name), shards, info['num_classes']
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'data.path={data_path!r} is incomplete ({error}); run the same `python -m vdm_jax.data convert` again.'
    ) from error


def _index_entry(values: dict[str, Any], record: int) -> IndexEntry:
  pairs = {key: tuple(values[key]) for key in ('resolution', 'size')}
  entry = IndexEntry(**values | pairs, record=record)
  if entry.times is not None and (len(entry.times) != entry.num_frames or (np.diff(entry.times) <= 0).any()):
    raise ValueError(f'the times of {entry.name} are not those of its frames')
  return entry


def _png(frame: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(frame if frame.shape[-1] == 3 else frame[..., 0]).save(buffer, 'PNG')
  return buffer.getvalue()
