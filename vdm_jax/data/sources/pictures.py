"""A folder of pictures, each a clip of one frame."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from vdm_jax.data.sources import frame_folders, metadata
from vdm_jax.data.sources.folder import Folder
from vdm_jax.data.sources.metadata import check_inside
from vdm_jax.video.codecs import VideoInfo


class Pictures(Folder):
  """The pictures of one split below `path`, in the order of their names, by random access.

  Captions, labels and splits are those of a `Folder`, with the picture in place of the clip: cat.jpg and cat.txt.
  They are turned upright as their EXIF data say. Raises as `Folder` does, and ValueError unless `num_frames` is 1.
  """

  layout = (
    f'Such a folder holds pictures ({", ".join(frame_folders.SUFFIXES)}), each with an optional caption beside it: '
    f'cat.jpg and cat.txt, or a line of {metadata.FILE}.'
  )
  suffixes = frame_folders.SUFFIXES

  def __init__(self, path: str | os.PathLike, split: str, *, num_frames: int, **settings: Any):
    if num_frames > 1:
      raise ValueError(
        f'data.path={os.fspath(path)!r} holds pictures, which are clips of one frame, but data.num_frames='
        f'{num_frames}; set it to 1, or name the pictures by data.images.'
      )
    super().__init__(path, split, num_frames=1, **settings)

  def _list(self) -> tuple[set[str], list[pathlib.Path]]:
    found, described = set(), []
    for folder, subfolders, files in os.walk(self._root):
      here = pathlib.Path(folder)
      subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
      for name in frame_folders.pictures(files):
        check_inside(here / name, self._root)
        found.add((here / name).relative_to(self._root).as_posix())
      if metadata.FILE in files:
        described.append(here / metadata.FILE)
    return found, described

  def _info(self, place: int) -> VideoInfo:
    return VideoInfo(1, 0.0, frame_folders.picture_size(self._file(place)))

  def _frames(self, place: int, start: int, num_frames: int, frame_skip: float, max_bytes: int) -> np.ndarray:
    return frame_folders.read_picture(self._file(place), max_bytes)
