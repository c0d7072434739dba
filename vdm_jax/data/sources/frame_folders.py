"""Clips that are folders of numbered images, one per frame."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from vdm_jax.data.sources.walking import check_inside
from vdm_jax.video import display
from vdm_jax.video.opening import check_bytes, open_image
from vdm_jax.video.reading import VideoInfo

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
_EIGHT_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_NUMBER = re.compile(r'[0-9]+$')


def are_frames(names: Sequence[str]) -> bool:
  """Return whether the files of a folder make it a clip: there are images, and the name of each ends in a number."""
  found = image_files(names)
  return bool(found) and all(_NUMBER.search(pathlib.PurePath(name).stem) for name in found)


def image_files(names: Sequence[str]) -> list[str]:
  """Return the names with the suffix of an image, without hidden files."""
  return [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith('.')]


def list_frames(folder: str | os.PathLike, root: pathlib.Path | None) -> list[pathlib.Path]:
  """Return the images of a folder in the order of their numbers.

  Raises ValueError if the numbers have a gap or a duplicate, or if an image is a link out of `root` (None: may be).
  """
  folder = pathlib.Path(folder)
  names = os.listdir(folder)
  if not are_frames(names):
    raise ValueError(f'{folder}: is not a folder of numbered images ({", ".join(SUFFIXES)}); remove it.')
  numbered = sorted((int(_NUMBER.search(pathlib.PurePath(name).stem)[0]), name) for name in image_files(names))
  for (number, name), (following, other) in zip(numbered, numbered[1:], strict=False):
    if following != number + 1:
      problem = f'{name} and {other} have the same number' if following == number else f'frame {number + 1} is missing'
      raise ValueError(f'{folder}: {problem}; number the frames consecutively, or remove the folder.')
  files = [folder / name for _, name in numbered]
  for file in files:
    check_inside(file, root)
  return files


def probe_frames(folder: str | os.PathLike, root: pathlib.Path | None) -> VideoInfo:
  """Return the number of frames and their size; images have no frame rate. Raises as `read_frames` does."""
  files = list_frames(folder, root)
  return VideoInfo(len(files), 0.0, image_size(files[0]))


def read_frames(
  folder: str | os.PathLike, root: pathlib.Path | None, numbers: Sequence[int], *, max_bytes: int
) -> np.ndarray:
  """Return the frames of these numbers as they are shown, uint8 `[t h w 3]`; see `display.image_pixels`.

  Raises ValueError if an image cannot be decoded, has more than eight bits per color or another size than the first
  one, or if the frames take more than `max_bytes`.
  """
  files = list_frames(folder, root)
  chosen = [files[number] for number in numbers]
  video = None
  for place, file in enumerate(chosen):
    pixels = _read(file, len(chosen), max_bytes, folder)
    video = np.empty((len(chosen), *pixels.shape), np.uint8) if video is None else video
    if pixels.shape != video.shape[1:]:
      raise ValueError(
        f'{file}: is {pixels.shape[0]}x{pixels.shape[1]}, but {chosen[0].name} is {video.shape[1]}x{video.shape[2]}; '
        'make the frames one size, or remove the folder.'
      )
    video[place] = pixels
  return video


def image_size(file: pathlib.Path) -> tuple[int, int]:
  """Return the height and width of one upright image, without decoding it. Raises as `read_frames` does."""
  with _open(file) as image:
    try:
      return display.image_shape(image)
    except Exception as error:  # damaged EXIF data raise almost any exception
      raise _undecodable(file, error) from error


def read_image(file: pathlib.Path, max_bytes: int) -> np.ndarray:
  """Return one image as it is shown, uint8 `[1 h w 3]`. Raises as `read_frames` does."""
  return _read(file, 1, max_bytes, file)[None].copy()


def _read(file: pathlib.Path, count: int, max_bytes: int, clip: str | os.PathLike) -> np.ndarray:
  """Return one of `count` images of a clip, which may take `max_bytes` together."""
  with _open(file) as image:
    check_bytes(clip, count, image.height, image.width, max_bytes)
    try:
      return display.image_pixels(image)
    except Exception as error:  # a damaged image raises almost any exception
      raise _undecodable(file, error) from error


@contextlib.contextmanager
def _open(file: pathlib.Path) -> Iterator[Image.Image]:
  """Open an image of eight bits per color, with errors that name the file and the fix."""
  try:
    with open_image(file) as image:
      if image.mode not in _EIGHT_BITS:
        raise ValueError(f'{file}: has pixels of type {image.mode}; convert it to eight bits per color.')
      yield image
  except OSError as error:
    raise _undecodable(file, error) from error


def _undecodable(file: pathlib.Path, error: Exception) -> ValueError:
  # Without the path, which some of these messages repeat.
  reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
  return ValueError(f'{file}: cannot be decoded as an image ({reason}); replace or remove the file.')
