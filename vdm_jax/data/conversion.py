"""Writes the clips of any source as ArrayRecord shards, which `data.name='records'` reads."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from vdm_jax.data.quarantine import Quarantine
from vdm_jax.data.sources import records
from vdm_jax.data.sources.contract import Clip
from vdm_jax.data.sources.stored_clips import Stored
from vdm_jax.runtime.atomic_files import atomic_write, write_text
from vdm_jax.runtime.resumable import Work
from vdm_jax.video import transforms

PLAN = 'convert.json'
FORMAT = 'vdm_jax clips, version 1'
CLIPS_PER_SHARD = 100
FRAMES_AT_ONCE = 64


def convert(
  source: Stored,
  destination: str | os.PathLike,
  *,
  size: tuple[int, int] | None = None,
  clips_per_shard: int = CLIPS_PER_SHARD,
  max_bad_share: float = 0.05,
  say: Callable[[str], None] = print,
) -> pathlib.Path:
  """Writes all clips of a source that has both splits, made with `train_on_all`; returns the folder.

  Frames are kept exactly, or with `size` (height, width) scaled to cover it and cut, as training would. After an
  interruption the same call goes on with the first shard that is not finished. Clips that cannot be decoded are left
  out and listed in `quarantine.jsonl`.

  Raises ValueError if the folder holds anything but the beginning of this very conversion, and TooManyBadClips above
  `max_bad_share`.
  """
  destination = pathlib.Path(destination)
  count = math.ceil(len(source) / clips_per_shard)
  _prepare(
    destination,
    {
      'format': FORMAT,
      'source': os.path.abspath(source.path),
      'clips': _fingerprint(source),
      'size': None if size is None else list(size),
      'num_shards': count,
    },
  )
  quarantine = Quarantine(source.path, source.total, max_bad_share, destination)
  for number, (file, index) in enumerate(records.shard_files(destination, count)):
    if not index.exists():
      chosen = range(len(source))[number * clips_per_shard : (number + 1) * clips_per_shard]
      written = _write_shard(source, chosen, file, index, size, quarantine)
      left_out = f', {len(chosen) - written} left out' if written < len(chosen) else ''
      say(f'{file.name}: {written} clips{left_out}')
  info = {'format': FORMAT, 'num_shards': count, 'num_classes': source.num_classes}
  write_text(destination / records.INFO, json.dumps(info, indent=2) + '\n')
  return destination


def _prepare(destination: pathlib.Path, plan: dict[str, Any]) -> None:
  """Create the folder and write the plan. Raises ValueError if there are other data or another plan."""
  if destination.exists() and not destination.is_dir():
    raise ValueError(f'{destination} is a file; name a new folder.')
  work = Work(destination, plan, file=PLAN)
  if not work.begun and destination.exists() and any(destination.iterdir()):
    raise ValueError(f'{destination} is not empty and does not hold a conversion; name a new folder.')
  work.begin()


def _write_shard(
  source: Stored,
  chosen: range,
  file: pathlib.Path,
  index: pathlib.Path,
  size: tuple[int, int] | None,
  quarantine: Quarantine,
) -> int:
  """The records and then their index, each seen only when it is whole; returns the number of records."""
  from array_record.python.array_record_module import ArrayRecordWriter

  lines = []
  with atomic_write(file) as temporary:
    writer = ArrayRecordWriter(str(temporary), 'group_size:1')  # one record per chunk: none is read in vain
    try:
      for clip in chosen:
        try:
          record = records.encode(_windows(source, clip, size), source.names[clip], source.split_of(clip))
        except (ValueError, OSError, MemoryError) as error:
          quarantine.add(source.names[clip], error)
          continue
        writer.write(record)
        lines.append(json.dumps(records.index_line(record)) + '\n')
    finally:
      writer.close()
  write_text(index, ''.join(lines))
  return len(lines)


def _windows(source: Stored, index: int, size: tuple[int, int] | None) -> Iterator[Clip]:
  """A whole clip, a few frames at a time, so that memory does not grow with the frames' size and number."""
  length = source.check(index).num_frames
  for start in range(0, length, FRAMES_AT_ONCE):
    clip = source.window(index, start, min(FRAMES_AT_ONCE, length - start))
    yield clip if size is None else clip._replace(video=transforms.resize_and_crop(clip.video, *size))


def _fingerprint(source: Stored) -> str:
  """Changes when a clip, its caption, label or split, or the size or time of its file does."""
  digest = hashlib.sha256()
  for index, name in enumerate(source.names):
    try:
      stat = os.stat(os.path.join(source.path, name))
      state = [stat.st_size, stat.st_mtime_ns]
    except OSError:
      state = []  # not a file, or one that is missing and will be listed
    line = [name, source.split_of(index), source.caption(index), source.label(index), state]
    digest.update(json.dumps(line).encode())
  return digest.hexdigest()
