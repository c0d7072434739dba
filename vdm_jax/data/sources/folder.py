"""A folder of clips: video files, `.npy` files and folders of numbered images, with captions and labels."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.sources import array, frame_folders, metadata, walking
from vdm_jax.data.sources.contract import PROVIDED, Source, held_out_by_hash
from vdm_jax.data.sources.walking import check_inside
from vdm_jax.inputs.captions import clean
from vdm_jax.inputs.text_files import read_text
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
  (frame_0001.png). Its caption is the text file beside it, or `text` in a line of metadata.jsonl (or .csv), which
  then lists every clip; a clip with neither has the caption that `python -m vdm_jax.data caption` made. Its label is
  `label` in the metadata; without metadata it is the folder of the clip, if every clip lies in a folder of its class.
  Only video files have a frame rate. Names are in Unicode normal form C, whatever the file system has.

  If every clip lies in a folder `train` or `test` (or val, valid, validation, validate), these are the splits; data
  with a test folder alone have no training clips. If not, or if `train` is the only folder, one clip in ten, by a hash
  of its name, belongs to the test split, and at least one of two or more clips.

  With `follow_links`, links may lead out of the folder, and links to folders are followed.

  Raises FileNotFoundError if there is no such folder, and ValueError if it has no clips, metadata that do not match the
  clips, links that form a loop or, without `follow_links`, one out of the folder.
  """

  layout = LAYOUT  # what such a folder looks like, for messages
  follows_links = True
  suffixes = SUFFIXES  # of clips that are files: the file of a caption has .txt in their place

  def __init__(self, path: str | os.PathLike, *, follow_links: bool = False):
    self.path = os.fspath(path)
    if not self.path:
      raise ValueError(f'data.path is empty, but it must name a folder of clips. {self.layout}')
    if not os.path.isdir(path):
      raise FileNotFoundError(f'data.path={self.path!r} is not a folder; check the path. {self.layout}')
    self._root = pathlib.Path(path).resolve()
    self._bounds = None if follow_links else self._root
    listing = walking.list_files(self._root, self.clips_in, metadata.FILES, follow_links=follow_links)
    self._on_disk = listing.on_disk
    entries = None
    if listing.described:
      entries = metadata.read_metadata(self._root, listing.described, follow_links=follow_links)
    self._entries = entries
    self.names = sorted(listing.clips if entries is None else listing.clips | entries.keys())
    if not self.names:
      raise ValueError(' '.join([f'data.path={self.path!r} has no clips.', self.layout, *listing.remarks[:1]]))
    if entries is not None:
      self._check_listed(listing)
    labels = [entries[name].label for name in self.names] if entries else _classes(self.names)
    self._labels, self.num_classes = metadata.class_numbers(labels, self.path)
    self.class_names = metadata.class_names(labels)
    self._generated = metadata.read_generated(self._root, follow_links=follow_links)
    self.captions_file = pathlib.Path(path) / metadata.GENERATED_CAPTIONS
    self.without_frame_rate = next((name for name in self.names if not name.lower().endswith(VIDEOS)), None)
    self.remarks = (*listing.remarks, *self._remarks(listing))

  def clips_in(self, folder: pathlib.Path, subfolders: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return which files and subfolders of a folder are clips; '.' is the folder itself.

    Where a folder holds clips, images beside them are not clips. A folder named like a video file is a clip that cannot
    be read, so that it is reported.
    """
    named = [name for name in [*files, *subfolders] if name.lower().endswith(SUFFIXES) and not name.startswith('.')]
    return ['.'] if not named and folder != self._root and frame_folders.are_frames(files) else named

  def info(self, clip: int) -> VideoInfo:
    path = self.file(clip)
    if path.suffix.lower() == '.npy' and path.is_file():
      return array.probe_array(path)
    return frame_folders.probe_frames(path, self._bounds) if _is_frames(path) else reading.probe(path)

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    path = self.file(clip)
    if path.suffix.lower() == '.npy':
      return array.read_array(path, numbers, max_bytes=MAX_BYTES)
    if _is_frames(path):
      return frame_folders.read_frames(path, self._bounds, numbers, max_bytes=MAX_BYTES)
    return reading.read_frames(path, numbers, max_bytes=MAX_BYTES, max_seconds=MAX_SECONDS)

  def times(self, clip: int) -> np.ndarray | None:
    path = self.file(clip)
    return reading.frame_times(path) if _is_video(path) else None

  def notes(self, clip: int) -> Sequence[str]:
    path = self.file(clip)
    return reading.notes(path) if _is_video(path) else ()

  def file(self, clip: int) -> pathlib.Path:
    """Return the file or folder of a clip. Raises ValueError if it must not be opened, see `walking.check_inside`."""
    return self._file(self.names[clip])

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
    if first <= {TRAIN, *TEST} and first != {TRAIN}:
      return {name for name in self.names if not name.startswith(f'{TRAIN}/')}
    return held_out_by_hash(self.names)

  def _provided_caption(self, clip: int) -> str:
    """Return the text of the metadata, or of the file beside a clip with white space collapsed, '' if there is none."""
    name = self.names[clip]
    if self._entries is not None:
      return self._entries[name].text
    file = self._file(self._text_name(name))
    return clean(read_text(file)) if file.is_file() else ''

  def _text_name(self, name: str) -> str:
    path = pathlib.PurePosixPath(name)
    return str(path.with_suffix('.txt') if path.suffix.lower() in self.suffixes else path.with_name(f'{path.name}.txt'))

  def _file(self, name: str) -> pathlib.Path:
    path = self._root / self._on_disk.get(name, name)
    check_inside(path, self._bounds)
    return path

  def _check_listed(self, listing: walking.Listing) -> None:
    """Raise ValueError if the metadata leave out a clip, or name one that must not be opened."""
    if unlisted := sorted(listing.clips - self._entries.keys()):
      near = next((name for name in self._entries if name.strip().lower() == unlisted[0].lower()), None)
      raise ValueError(
        f'{self._root / unlisted[0]} is not listed in {listing.described[0]}, nor are {len(unlisted) - 1} other clips; '
        + (f'write its name so, not {near!r}.' if near else 'add a line for each, or remove them.')
      )
    for name in self._entries.keys() - listing.clips:
      _check_parents(self._root, name, self._bounds)

  def _remarks(self, listing: walking.Listing) -> list[str]:
    """Return remarks on what looks like captions and is not, such as a text file whose name is spelled differently."""
    if self._entries is None:
      beside = {self._text_name(name) for name in self.names}
      lone, captioned = sorted(listing.texts - beside), bool(listing.texts & beside)
    else:
      lone, captioned = [], any(entry.text for entry in self._entries.values())
    found = []
    if lone:
      found.append(f'text files that are the caption of no clip: {len(lone)}, such as {self._root / lone[0]}')
    if self._entries and not captioned and self.num_classes is None:
      found.append(f'{listing.described[0]} gives no clip a caption (key text) or a label (key label)')
    unread = [file for file in listing.unread if file != self._root / metadata.GENERATED_CAPTIONS]
    if unread and not captioned and not self._generated:
      found.append(
        f'no clip has a caption, and files that may hold some are not read: {len(unread)}, such as {min(unread)}'
      )
    return found


def _is_frames(path: pathlib.Path) -> bool:
  return path.is_dir() and path.suffix.lower() not in SUFFIXES


def _is_video(path: pathlib.Path) -> bool:
  return path.suffix.lower() in VIDEOS


def _check_parents(root: pathlib.Path, name: str, bounds: pathlib.Path | None) -> None:
  """Raise ValueError if the clip, or a folder above it, must not be opened, see `walking.check_inside`."""
  for part in [root / name, *(root / name).parents]:
    if part == root:
      return
    check_inside(part, bounds)


def _classes(names: list[str]) -> list[str | None]:
  """Return the folder of each clip, if every clip lies in one below the root or its splits and there are several."""
  parts = [pathlib.PurePosixPath(name).parts[:-1] for name in names]
  classes = [part[1:] if part[:1] and part[0] in (TRAIN, *TEST) else part for part in parts]
  if all(len(part) == 1 for part in classes) and len(set(classes)) > 1:
    return [part[0] for part in classes]
  return [None] * len(names)
