"""A folder of clips: video files, `.npy` files and folders of numbered images, with captions and labels."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.sources import array, frame_folders, metadata
from vdm_jax.data.sources.contract import PROVIDED, Source, held_out_by_hash
from vdm_jax.data.sources.metadata import check_inside
from vdm_jax.video import reading
from vdm_jax.video.opening import MAX_BYTES, MAX_SECONDS
from vdm_jax.video.reading import VideoInfo

VIDEOS = ('.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi', '.gif')
SUFFIXES = (*VIDEOS, '.npy')
LAYOUT = (
  f'A data folder holds clips ({", ".join(SUFFIXES)}, or folders of numbered images), each with an optional caption '
  f'beside it: clip.mp4 and clip.txt, or a line of {metadata.FILE}.'
)
TRAIN, TEST = 'train', ('test', 'val', 'valid', 'validation', 'validate')


class Folder(Source):
  """The clips below a folder, in the order of their names.

  A clip is a video file, a .npy file of uint8 `[t h w c]`, or a folder of images whose names all end in a number
  (frame_0001.png). Its caption is the text file beside it, or `text` in a line of metadata.jsonl, which then lists
  every clip; a clip with neither has the caption that `python -m vdm_jax.data caption` made. Its label is `label` in
  metadata.jsonl; without metadata it is the folder of the clip, if every clip lies in a folder of its class. Only video
  files have a frame rate.

  If every clip lies in a folder `train` or `test` (or val, valid, validation, validate), these are the splits. If not,
  one clip in ten, by a hash of its name, belongs to the test split, and at least one of two or more clips.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no clips, metadata that do not match the
  clips, or a link out of the folder.
  """

  layout = LAYOUT  # what such a folder looks like, for messages
  suffixes = SUFFIXES  # of clips that are files: the file of a caption has .txt in their place

  def __init__(self, path: str | os.PathLike):
    self.path = os.fspath(path)
    if not self.path:
      raise ValueError(f'data.path is empty, but it must name a folder of clips. {self.layout}')
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data.path={self.path!r} is not a folder; check the path. {self.layout}')
    self._root = pathlib.Path(path).resolve()
    found, described = self.list_clips(self._root)
    self._entries = metadata.read_metadata(self._root, described) if described else None
    self.names = sorted(found if self._entries is None else found | self._entries.keys())
    if not self.names:
      raise ValueError(f'data.path={self.path!r} has no clips. {self.layout}')
    if self._entries is not None and (unlisted := sorted(found - self._entries.keys())):
      raise ValueError(
        f'{self._root / unlisted[0]} is not listed in {described[0]}, nor are {len(unlisted) - 1} other clips; add a '
        'line for each, or remove them.'
      )
    for name in self._entries or ():
      _check_parents(self._root, name)
    labels = [self._entries[name].label for name in self.names] if self._entries else _classes(self.names)
    self._labels, self.num_classes = metadata.class_numbers(labels, self.path)
    self.class_names = metadata.class_names(labels)
    self._generated = metadata.read_generated(self._root)
    self.captions_file = pathlib.Path(path) / metadata.GENERATED_CAPTIONS
    self.without_frame_rate = next((name for name in self.names if not name.lower().endswith(VIDEOS)), None)

  def list_clips(self, root: pathlib.Path) -> tuple[set[str], list[pathlib.Path]]:
    """Return the names of all clips, relative to the root with forward slashes, and the metadata files.

    Hidden files and folders are skipped. Where a folder holds clips, images beside them are not clips. A folder named
    like a video file is a clip that cannot be read, so that it is reported.
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

  def info(self, clip: int) -> VideoInfo:
    path = self.file(clip)
    if path.suffix.lower() == '.npy' and path.is_file():
      return array.probe_array(path)
    return frame_folders.probe_frames(path, self._root) if _is_frames(path) else reading.probe(path)

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    path = self.file(clip)
    if path.suffix.lower() == '.npy':
      return array.read_array(path, numbers, max_bytes=MAX_BYTES)
    if _is_frames(path):
      return frame_folders.read_frames(path, self._root, numbers, max_bytes=MAX_BYTES)
    return reading.read_frames(path, numbers, max_bytes=MAX_BYTES, max_seconds=MAX_SECONDS)

  def times(self, clip: int) -> np.ndarray | None:
    path = self.file(clip)
    return reading.frame_times(path) if _is_video(path) else None

  def notes(self, clip: int) -> Sequence[str]:
    path = self.file(clip)
    return reading.notes(path) if _is_video(path) else ()

  def file(self, clip: int) -> pathlib.Path:
    """Return the file or folder of a clip. Raises ValueError if it is a link out of the data folder."""
    path = self._root / self.names[clip]
    check_inside(path, self._root)
    return path

  def caption(self, clip: int) -> str:
    generated = self._generated.get(self.names[clip])
    return self._provided_caption(clip) or (generated.text if generated else '')

  def caption_origin(self, clip: int) -> str | None:
    if self._provided_caption(clip):
      return PROVIDED
    generated = self._generated.get(self.names[clip])
    return generated.origin if generated else None

  def label(self, clip: int) -> int | None:
    return self._labels[clip]

  def held_out(self) -> set[str]:
    first = {pathlib.PurePosixPath(name).parts[0] for name in self.names}
    if TRAIN in first and len(first) > 1 and first <= {TRAIN, *TEST}:
      return {name for name in self.names if not name.startswith(f'{TRAIN}/')}
    return held_out_by_hash(self.names)

  def _provided_caption(self, clip: int) -> str:
    """Return the text of the metadata, or of the file beside a clip with white space collapsed, '' if there is none."""
    name = self.names[clip]
    if self._entries is not None:
      return self._entries[name].text
    path = self._root / name
    file = path.with_suffix('.txt') if path.suffix.lower() in self.suffixes else path.with_name(f'{path.name}.txt')
    if not file.is_file():
      return ''
    check_inside(file, self._root)
    return ' '.join(file.read_text(encoding='utf-8', errors='replace').split())


def _is_frames(path: pathlib.Path) -> bool:
  return path.is_dir() and path.suffix.lower() not in SUFFIXES


def _is_video(path: pathlib.Path) -> bool:
  return path.suffix.lower() in VIDEOS


def _check_parents(root: pathlib.Path, name: str) -> None:
  """Raise ValueError if the clip, or a folder above it, is a link out of the root."""
  for part in [root / name, *(root / name).parents]:
    if part == root:
      return
    check_inside(part, root)


def _classes(names: list[str]) -> list[str | None]:
  """Return the folder of each clip, if every clip lies in one below the root or its splits and there are several."""
  parts = [pathlib.PurePosixPath(name).parts[:-1] for name in names]
  classes = [part[1:] if part[:1] and part[0] in (TRAIN, *TEST) else part for part in parts]
  if all(len(part) == 1 for part in classes) and len(set(classes)) > 1:
    return [part[0] for part in classes]
  return [None] * len(names)
