"""A folder of images, each a clip of one frame: `data.name='pictures'`."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from vdm_jax.data.sources import frame_folders, metadata
from vdm_jax.data.sources.folder import Folder
from vdm_jax.video.opening import MAX_BYTES
from vdm_jax.video.reading import VideoInfo


class Pictures(Folder):
  """The images below a folder, in the order of their names, as `video.display` shows them.

  Captions, labels and splits are those of a `Folder`, with the image as the clip: cat.jpg and cat.txt. Raises as
  `Folder` does.
  """

  layout = (
    f'Such a folder holds images ({", ".join(frame_folders.SUFFIXES)}), each with an optional caption beside it: '
    f'cat.jpg and cat.txt, or a line of {metadata.FILE}.'
  )
  suffixes = frame_folders.SUFFIXES
  single_frame = True

  def clips_in(self, folder: pathlib.Path, subfolders: Sequence[str], files: Sequence[str]) -> list[str]:
    return frame_folders.image_files(files)

  def info(self, clip: int) -> VideoInfo:
    return VideoInfo(1, 0.0, frame_folders.image_size(self.file(clip)))

  def frames(self, clip: int, numbers: Sequence[int]) -> np.ndarray:
    return frame_folders.read_image(self.file(clip), MAX_BYTES)
