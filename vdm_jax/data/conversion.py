"""Conversion of any stored clips to ArrayRecord shards, which `data.name='records'` reads."""

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
from vdm_jax.data.sources.stored_clips import StoredClips
from vdm_jax.runtime import progress
from vdm_jax.runtime.atomic_files import atomic_write, write_text
from vdm_jax.runtime.resumable import Work
from vdm_jax.video import transforms

PLAN = 'convert.json'
FORMAT = 'vdm_jax clips, version 1'
CLIPS_PER_SHARD = 100
FRAMES_AT_ONCE = 64


def convert(
  clips: StoredClips,
  destination: str | os.PathLike,
  *,
  size: tuple[int, int] | None = None,
  clips_per_shard: int = CLIPS_PER_SHARD,
  max_bad_share: float = 0.05,
  log: Callable[[str], None] = print,
) -> pathlib.Path:
  """Write clips as ArrayRecord shards. After an interruption, the same call continues with the first missing shard.

  Args:
    clips: the clips of both splits, opened with `train_on_all`.
    destination: a new folder, or one where this conversion was interrupted.
    size: height and width that frames are scaled to cover and cropped to, as in training; None keeps pixels exactly.
    clips_per_shard: clips of a shard.
    max_bad_share: fraction of clips that may be unusable. These are left out and listed in `quarantine.jsonl`.
    log: receives a line for each shard.

  Returns:
    The folder.

  Raises:
    ValueError: the folder contains anything but the beginning of this conversion.
    TooManyBadClips: more clips than `max_bad_share` are unusable.
  """
  destination = pathlib.Path(destination)
  count = math.ceil(len(clips) / clips_per_shard)
  _prepare(
    destination,
    {
      'format': FORMAT,
      'source': os.path.abspath(clips.path),
      'clips': _fingerprint(clips),
      'frame_rate': clips.frame_rate or None,  # older plans, which lack it, equal an unknown rate
      'size': None if size is None else list(size),
      'num_shards': count,
    },
  )
  quarantine = Quarantine(clips.path, clips.total, max_bad_share, destination)
  for number, (file, index) in enumerate(records.shard_files(destination, count)):
    if not index.exists():
      chosen = range(len(clips))[number * clips_per_shard : (number + 1) * clips_per_shard]
      written = _write_shard(clips, chosen, file, index, size=size, quarantine=quarantine)
      left_out = f', {len(chosen) - written} left out' if written < len(chosen) else ''
      log(f'{file.name}: {written} clips{left_out}')
  info = {'format': FORMAT, 'num_shards': count, 'num_classes': clips.num_classes}
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
  clips: StoredClips,
  chosen: range,
  file: pathlib.Path,
  index: pathlib.Path,
  *,
  size: tuple[int, int] | None,
  quarantine: Quarantine,
) -> int:
  """Write the records and then their index, each atomically; return the number of records."""
  from array_record.python.array_record_module import ArrayRecordWriter

  lines = []
  with atomic_write(file) as temporary:
    writer = ArrayRecordWriter(str(temporary), 'group_size:1')  # one record per chunk, so that only one is read
    try:
      for clip in chosen:
        progress.note(f'clip {clip + 1} of {len(clips)}')
        try:
          windows = _windows(clips, clip, size)
          record = records.encode(windows, clips.names[clip], clips.split_of(clip), clips.times(clip))
        except (ValueError, OSError, MemoryError) as error:
          quarantine.add(clips.names[clip], error)
          continue
        writer.write(record)
        lines.append(json.dumps(records.index_line(record)) + '\n')
    finally:
      writer.close()
  write_text(index, ''.join(lines))
  return len(lines)


def _windows(clips: StoredClips, index: int, size: tuple[int, int] | None) -> Iterator[Clip]:
  """Yield a whole clip, a few frames at a time, so that memory does not grow with its length."""
  length = clips.check(index).num_frames
  for start in range(0, length, FRAMES_AT_ONCE):
    clip = clips.window(index, start, min(FRAMES_AT_ONCE, length - start))
    if clip.video.dtype != 'uint8' or clip.video.shape[-1] not in (1, 3):
      raise ValueError(
        f'{os.path.join(clips.path, clips.names[index])}: contains {clip.video.dtype} with {clip.video.shape[-1]} '
        'channels, but shards hold pictures (uint8 with 1 or 3 channels); train on the arrays themselves.'
      )
    yield clip if size is None else clip._replace(video=transforms.resize_and_crop(clip.video, *size))


def _fingerprint(clips: StoredClips) -> str:
  """Return a hash of every clip's name, split, caption and label, and of the size and time of its files."""
  digest = hashlib.sha256()
  for index, name in enumerate(clips.names):
    path = os.path.join(clips.path, name)
    if os.path.isfile(path):
      state = [os.stat(path).st_size, os.stat(path).st_mtime_ns]
    else:  # a folder of images, a clip among others in a file, or a missing one, which will be quarantined
      state = clips.file_hash(index, blocks=0)
    line = [name, clips.split_of(index), *clips.description(index), state]
    digest.update(json.dumps(line).encode())
  return digest.hexdigest()
