"""Clips inside larger files, read as the files that they were: the same bytes give the same frames as in a folder.

FFmpeg reads files, not memory, so a member is written to a temporary file for the time of one read.
"""

from __future__ import annotations

import abc
import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.data.sources import array, frame_folders
from vdm_jax.data.sources.contract import PROVIDED, Source
from vdm_jax.data.sources.folder import SUFFIXES, TEST, TRAIN
from vdm_jax.video import reading
from vdm_jax.video.opening import MAX_BYTES, MAX_SECONDS
from vdm_jax.video.reading import VideoInfo

CAPTION_KEYS = ('text', 'caption')  # of JSON objects and columns; the first one that is there


class Probed(NamedTuple):
  """What is known of a clip before its frames are read."""

  info: VideoInfo
  times: np.ndarray | None = None  # as `Source.times`
  notes: tuple[str, ...] = ()  # as `Source.notes`: what the header tells


class Archive(Source):
  """Clips inside larger files, each read as a whole. What its header tells is kept once a clip has been opened."""

  def __init__(self):
    self._probed: dict[int, Probed] = {}

  @abc.abstractmethod
  def _content(self, clip: int) -> Mapping[str, bytes]:
    """Return the files of a clip, as `read` takes them. Raises ValueError if they cannot be used."""

  @abc.abstractmethod
  def _where(self, clip: int) -> str:
    """Return what names a clip in messages."""

  def info(self, clip: int) -> VideoInfo:
    return self._probe(clip).info

  def times(self, clip: int) -> np.ndarray | None:
    return self._probe(clip).times

  def notes(self, clip: int) -> Sequence[str]:
    return self._probe(clip).notes

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    return read(self._content(clip), self._where(clip), numbers)

  def caption_origin(self, clip: int) -> str | None:
    return PROVIDED if self.caption(clip) else None

  def _probe(self, clip: int) -> Probed:
    if clip not in self._probed:
      self._probed[clip] = probe(self._content(clip), self._where(clip))
    return self._probed[clip]


def probe(files: Mapping[str, bytes], where: str) -> Probed:
  """Probe a clip from its files: one video or array, or numbered images. Raises as `read` does."""
  with _written(files, where) as (path, root):
    if path.is_dir():
      return Probed(frame_folders.probe_frames(path, root))
    if path.suffix == '.npy':
      return Probed(array.probe_array(path))
    return Probed(reading.probe(path), reading.frame_times(path), reading.notes(path))


def read(files: Mapping[str, bytes], where: str, numbers: Sequence[int]) -> np.ndarray:
  """Return frames of a clip, uint8 `[t h w c]`.

  Args:
    files: content by suffix ('.mp4', '.npy'), one item; or numbered images by name ('0001.png').
    where: names the clip in messages.
    numbers: of the frames.

  Raises:
    ValueError: the clip cannot be used.
  """
  with _written(files, where) as (path, root):
    if path.is_dir():
      return frame_folders.read_frames(path, root, numbers, max_bytes=MAX_BYTES)
    if path.suffix == '.npy':
      return np.array(array.read_array(path, numbers, max_bytes=MAX_BYTES))
    return reading.read_frames(path, numbers, max_bytes=MAX_BYTES, max_seconds=MAX_SECONDS)


def holds_only(path: pathlib.Path, suffixes: tuple[str, ...]) -> bool:
  """Return whether a path is a file with one of these suffixes, or a folder with such files, and no clips beside them.

  The files may be in subfolders, of splits.
  """
  if path.is_file():
    return path.suffix in suffixes
  files = [file for pattern in ('*', '*/*') for file in path.glob(pattern) if not file.name.startswith('.')]
  return any(file.suffix in suffixes for file in files) and not any(file.suffix.lower() in SUFFIXES for file in files)


def split_of_folders(names: Sequence[str]) -> set[str] | None:
  """Return the names of the test split if every name begins with the folder of a split, None if not."""
  first = {pathlib.PurePosixPath(name).parts[0] for name in names}
  if TRAIN in first and len(first) > 1 and first <= {TRAIN, *TEST}:
    return {name for name in names if not name.startswith(f'{TRAIN}/')}
  return None


@contextlib.contextmanager
def _written(files: Mapping[str, bytes], where: str) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """Write a clip to a temporary folder; yield its file, or the folder of its images, and the temporary folder."""
  with tempfile.TemporaryDirectory(prefix='vdm_jax_') as folder:
    root = pathlib.Path(folder).resolve()
    whole = next(iter(files)) in SUFFIXES
    path = root / (f'clip{next(iter(files))}' if whole else 'clip')
    if not whole:
      path.mkdir()
    for name, content in files.items():
      (path if whole else path / name).write_bytes(content)
    try:
      yield path, root
    except (ValueError, OSError) as error:
      raise ValueError(str(error).replace(str(path), where)) from error
