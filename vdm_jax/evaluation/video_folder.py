"""Existing videos of any model in place of samples: a folder of video files, arrays or folders of frames."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.data.sources import frame_folders
from vdm_jax.data.sources.folder import VIDEOS
from vdm_jax.errors import InvalidInput
from vdm_jax.inputs.captions import clean, composed
from vdm_jax.inputs.text_files import read_lines
from vdm_jax.runtime.hashing import quick_hash
from vdm_jax.video.input_video import read_input_video
from vdm_jax.video.opening import MAX_BYTES

LIST = 'videos.jsonl'  # as --mode=sample writes it
KINDS = ('.npy', *VIDEOS)  # of files with the same stem, the first is read: it is exact
ACCEPTED = f'videos ({", ".join(KINDS)}) or folders of numbered images'


class VideoFolder:
  """The videos of a folder, in the order of their names; folders below it that are not videos are not read.

  The prompt of a video is `text` in the line of `videos.jsonl` with its `file_name`; without that file it is the name
  of the video without its number: `0001-a-dog.mp4` is `a dog`.

  Attributes:
    path: the folder.
    prompts: one per video.
    prompts_from: 'videos.jsonl' or 'names'.

  Raises InvalidInput if there is no such folder, it has no videos, or videos are not listed in its `videos.jsonl`.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)
    if not self.path.is_dir():
      raise InvalidInput(f'--videos={path} is not a folder: name a folder of {ACCEPTED}.')
    found: dict[str, Path] = {}
    ranked = [(rank, entry) for entry in self.path.iterdir() if (rank := _rank(entry)) is not None]
    for _, entry in sorted(ranked):
      found.setdefault(composed(entry.name if entry.is_dir() else entry.stem), entry)
    if not found:
      raise InvalidInput(f'--videos={path} has no videos: name a folder of {ACCEPTED}.')
    names = sorted(found)
    self._files = [found[name] for name in names]
    listed = _read_list(self.path / LIST)
    self.prompts_from = 'names' if listed is None else LIST
    if listed is not None and (missing := [name for name in names if name not in listed]):
      raise InvalidInput(
        f'{self.path / LIST} does not list {found[missing[0]].name}, nor {len(missing) - 1} others: add a line for '
        'each, with file_name and text, or remove the list.'
      )
    self.prompts = [_prompt(name) if listed is None else listed[name] for name in names]

  def __len__(self) -> int:
    return len(self._files)

  @property
  def description(self) -> dict[str, Any]:
    """What a record says of the videos."""
    return {'videos': {'folder': str(self.path), 'prompts': self.prompts_from}}

  def read(self, position: int, channels: int) -> np.ndarray:
    """Return a video, uint8 `[t h w channels]`, as it is stored. Raises InvalidInput if it cannot be read."""
    file = self._files[position]
    try:
      if file.is_dir():
        numbers = range(len(frame_folders.list_frames(file, self.path.resolve())))
        return frame_folders.read_frames(file, self.path.resolve(), numbers, max_bytes=MAX_BYTES)
      return read_input_video(file, channels=channels).video
    except (ValueError, OSError) as error:
      raise InvalidInput(str(error)) from error

  def videos(self, positions: Sequence[int], shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return videos of one shape (t, h, w, c), uint8 `[len(positions) t h w c]`.

    Raises:
      InvalidInput: a video has another shape, or cannot be read.
    """
    return np.stack([self._checked(int(position), shape) for position in positions])

  def by_prompt(self, prompts: Sequence[str]) -> list[int]:
    """Return the numbers of videos with these prompts; a prompt that is given n times stands for its first n videos.

    Raises:
      InvalidInput: there are fewer videos of a prompt.
    """
    left: dict[str, list[int]] = {}
    for number, prompt in enumerate(self.prompts):
      left.setdefault(prompt, []).append(number)
    found = []
    for prompt in prompts:
      if not left.get(prompt):
        count, wanted = self.prompts.count(prompt), prompts.count(prompt)
        raise InvalidInput(f'--videos={self.path} has {count} videos of {prompt!r}, but the protocol needs {wanted}.')
      found.append(left[prompt].pop(0))
    return found

  def files_hash(self, positions: Sequence[int]) -> str:
    """Return a hash of the files, which changes if one is replaced or edited."""
    lines = [f'{file.name} {quick_hash(file)}' for file in (self._files[int(position)] for position in positions)]
    return hashlib.sha256('\n'.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()

  def _checked(self, position: int, shape: tuple[int, int, int, int]) -> np.ndarray:
    video = self.read(position, shape[-1])
    if video.shape != shape:
      wanted, has = (' x '.join(map(str, size[:3])) for size in (shape, video.shape))
      raise InvalidInput(
        f'{self._files[position]} has {has} (frames, height, width), but the protocol measures {wanted}, and nothing '
        'is cut or resized: convert the videos, or use another protocol, such as --protocol=own.'
      )
    return video


def _rank(entry: Path) -> int | None:
  """The order in which kinds of entries are preferred, None for an entry that is no video."""
  if entry.name.startswith('.'):
    return None
  if entry.is_dir():
    return len(KINDS) if frame_folders.are_frames(os.listdir(entry)) else None
  suffix = entry.suffix.lower()
  return KINDS.index(suffix) if suffix in KINDS else None


def _read_list(path: Path) -> dict[str, str] | None:
  """The prompts in a list, by the names of the videos without suffix."""
  if not path.is_file():
    return None
  found = {}
  for number, line in enumerate(_lines(path), 1):
    try:
      entry = json.loads(line)
      found[composed(Path(entry['file_name']).stem)] = clean(str(entry['text']))
    except (ValueError, KeyError, TypeError) as error:
      raise InvalidInput(
        f'{path}, line {number}: needs file_name and text, as {{"file_name": "a.mp4", ...}}.'
      ) from error
  return found


def _lines(path: Path) -> Iterator[str]:
  try:
    yield from read_lines(path)
  except ValueError as error:
    raise InvalidInput(str(error)) from error


def _prompt(name: str) -> str:
  """The prompt that a name stands for.

  >>> _prompt('0001-a-dog_running'), _prompt('two cats')
  ('a dog running', 'two cats')
  """
  return clean(re.sub('[-_]+', ' ', re.sub('^[0-9]+([-_]+|$)', '', name)))
