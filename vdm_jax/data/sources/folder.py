"""A folder of clips: video files, `.npy` files and folders of numbered pictures, with captions and labels."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from vdm_jax.data.sources import array, frame_folders, metadata
from vdm_jax.data.sources.metadata import check_inside
from vdm_jax.data.sources.stored_clips import Stored, held_out_names
from vdm_jax.video import codecs
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import MAX_SECONDS

VIDEOS = ('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi', '.gif')
SUFFIXES = (*VIDEOS, '.npy')
LAYOUT = (
  f'A data folder holds clips ({", ".join(SUFFIXES)}, or folders of numbered pictures), each with an optional caption '
  f'beside it: clip.mp4 and clip.txt, or a line of {metadata.FILE}.'
)
GIVEN = 'given'  # origin of a caption that came with its clip
TRAIN, TEST = 'train', ('test', 'val', 'valid', 'validation', 'validate')


class Folder(Stored):
  """The clips of one split below `path`, in the order of their names, by random access.

  A clip is a video file, a .npy file of uint8 [t h w c], or a folder whose pictures all end in a number
  (frame_0001.png). Its caption is the text file beside it, or `text` in a line of metadata.jsonl, which then lists
  every clip; a clip with neither has that which `python -m vdm_jax.data caption` made. Its label is `label` there;
  without metadata it is the folder of the clip, where every clip lies in a folder of its class. Only video files tell a
  frame rate.

  Where every clip lies in a folder `train` or `test` (or val, valid, validation, validate), these are the splits. Else
  one clip in ten, by a hash of its name, belongs to the test split, and one at least where there are two or more.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no clip for this split, metadata that do
  not fit the clips, or a link to somewhere else.
  """

  layout = LAYOUT  # of such a folder, for messages
  suffixes = SUFFIXES  # that a caption's file does without

  def __init__(self, path: str | os.PathLike, split: str, **settings: Any):
    if not os.fspath(path):
      raise ValueError(f'data.path is empty, but it must name a folder of clips. {self.layout}')
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data.path={str(path)!r} is not a folder; check the path. {self.layout}')
    self._root = pathlib.Path(path).resolve()
    found, described = self._list()
    entries = metadata.read_metadata(self._root, described) if described else None
    names = sorted(found if entries is None else found | entries.keys())
    if not names:
      raise ValueError(f'data.path={str(path)!r} has no clips. {self.layout}')
    if entries is not None and (unlisted := sorted(found - entries.keys())):
      raise ValueError(
        f'{self._root / unlisted[0]} is not listed by {described[0]}, nor are {len(unlisted) - 1} other clips; add a '
        'line for each, or remove them.'
      )
    for name in entries or ():
      _check_parents(self._root, name)
    self._entries = entries
    labels = [entries[name].label for name in names] if entries else _classes(names)
    self._labels, self.num_classes = metadata.class_numbers(labels, str(path))
    self.class_names = metadata.class_names(labels)
    self._made = metadata.read_made(self._root)
    without_rate = next((name for name in names if not name.lower().endswith(VIDEOS)), None)
    super().__init__(path, split, names, _held_out(names), without_rate=without_rate, **settings)

  def origin(self, index: int) -> str | None:
    """What made the caption of a clip: 'given', or the captioner; None if it has none."""
    place = self._places[index]
    if self._given(place):
      return GIVEN
    made = self._made.get(self._all_names[place])
    return made.origin if made else None

  def _list(self) -> tuple[set[str], list[pathlib.Path]]:
    return _list_clips(self._root)

  def _info(self, place: int) -> VideoInfo:
    path = self._file(place)
    if path.suffix.lower() == '.npy' and path.is_file():
      return array.probe_array(path)
    return frame_folders.probe_frames(path, self._root) if _is_frames(path) else codecs.probe(path)

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    window = {'start': start, 'num_frames': num_frames, 'frame_skip': frame_skip, 'max_bytes': max_bytes}
    path = self._file(place)
    if path.suffix.lower() == '.npy':
      return array.read_array(path, **window)
    if _is_frames(path):
      return frame_folders.read_frames(path, self._root, **window)
    return codecs.read_video(path, **window, max_seconds=MAX_SECONDS)

  def _file(self, place: int) -> pathlib.Path:
    path = self._root / self._all_names[place]
    check_inside(path, self._root)
    return path

  def _caption(self, place: int) -> str:
    made = self._made.get(self._all_names[place])
    return self._given(place) or (made.text if made else '')

  def _given(self, place: int) -> str:
    """The text of the metadata, or the text file beside a clip with white space made single, '' if there is none."""
    name = self._all_names[place]
    if self._entries is not None:
      return self._entries[name].text
    path = self._root / name
    file = path.with_suffix('.txt') if path.suffix.lower() in self.suffixes else path.with_name(f'{path.name}.txt')
    if not file.is_file():
      return ''
    check_inside(file, self._root)
    return ' '.join(file.read_text(encoding='utf-8', errors='replace').split())

  def _label(self, place: int) -> int | None:
    return self._labels[place]


def _is_frames(path: pathlib.Path) -> bool:
  return path.is_dir() and path.suffix.lower() not in SUFFIXES


def _list_clips(root: pathlib.Path) -> tuple[set[str], list[pathlib.Path]]:
  """Names of all clips relative to the root, with forward slashes, and the files of metadata; hidden ones are left out.

  Where a folder holds clips, pictures beside them are none. A folder called like a video file is a clip that cannot be
  read, so that it is noticed.
  """
  clips, described = set(), []
  for folder, subfolders, files in os.walk(root):
    here = pathlib.Path(folder)
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    named = [name for name in [*files, *subfolders] if name.lower().endswith(SUFFIXES) and not name.startswith('.')]
    for name in named:
      check_inside(here / name, root)
      clips.add((here / name).relative_to(root).as_posix())
    if not named and here != root and frame_folders.are_frames(files):
      clips.add(here.relative_to(root).as_posix())
    if metadata.FILE in files:
      described.append(here / metadata.FILE)
  return clips, described


def _check_parents(root: pathlib.Path, name: str) -> None:
  """Raises ValueError if the clip, or a folder above it, is a link out of the root."""
  for part in [root / name, *(root / name).parents]:
    if part == root:
      return
    check_inside(part, root)


def _held_out(names: list[str]) -> set[str]:
  first = {pathlib.PurePosixPath(name).parts[0] for name in names}
  if TRAIN in first and len(first) > 1 and first <= {TRAIN, *TEST}:
    return {name for name in names if not name.startswith(f'{TRAIN}/')}
  return held_out_names(names)


def _classes(names: list[str]) -> list[str | None]:
  """The folder of each clip, where every clip lies in one below the root or its splits, and there are two or more."""
  parts = [pathlib.PurePosixPath(name).parts[:-1] for name in names]
  classes = [part[1:] if part[:1] and part[0] in (TRAIN, *TEST) else part for part in parts]
  if all(len(part) == 1 for part in classes) and len(set(classes)) > 1:
    return [part[0] for part in classes]
  return [None] * len(names)
