"""Clips that are folders of numbered pictures, one per frame."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import ExifTags, Image, ImageOps

from vdm_jax.data.sources.metadata import check_inside
from vdm_jax.video.codecs import VideoInfo
from vdm_jax.video.opening import check_bytes, open_picture
from vdm_jax.video.transforms import frame_numbers

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
_EIGHT_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')
_NUMBER = re.compile(r'[0-9]+$')


def are_frames(names: Sequence[str]) -> bool:
  """Whether these files of one folder make it a clip: there are pictures, and the name of each ends in a number."""
  found = pictures(names)
  return bool(found) and all(_NUMBER.search(pathlib.PurePath(name).stem) for name in found)


def pictures(names: Sequence[str]) -> list[str]:
  """Those of these files that are pictures by their names, and not hidden."""
  return [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith('.')]


def list_frames(folder: str | os.PathLike, root: pathlib.Path) -> list[pathlib.Path]:
  """The pictures in the order of their numbers.

  Raises ValueError unless these follow one another without a gap, and if one is a link to a place outside of `root`.
  """
  folder = pathlib.Path(folder)
  names = os.listdir(folder)
  if not are_frames(names):
    raise ValueError(f'{folder}: is not a folder of numbered pictures ({", ".join(SUFFIXES)}); remove it.')
  numbered = sorted((int(_NUMBER.search(pathlib.PurePath(name).stem)[0]), name) for name in pictures(names))
  for (number, name), (following, other) in zip(numbered, numbered[1:], strict=False):
    if following != number + 1:
      problem = f'{name} and {other} have one number' if following == number else f'frame {number + 1} is missing'
      raise ValueError(f'{folder}: {problem}; number the frames in steps of one, or remove the folder.')
  files = [folder / name for _, name in numbered]
  for file in files:
    check_inside(file, root)
  return files


def probe_frames(folder: str | os.PathLike, root: pathlib.Path) -> VideoInfo:
  """Number of frames and their size; pictures tell no frame rate. Raises as `read_frames` does."""
  files = list_frames(folder, root)
  with _open(files[0]) as image:
    return VideoInfo(len(files), 0.0, (image.height, image.width))


def read_frames(
  folder: str | os.PathLike, root: pathlib.Path, *, start: int, num_frames: int, frame_skip: float, max_bytes: int
) -> np.ndarray:
  """Frames start, start + frame_skip, ...; uint8 [t h w 3].

  Raises ValueError if a picture cannot be decoded, has more than eight bits per colour or another size than the first,
  or if the frames take more than `max_bytes`.
  """
  files = list_frames(folder, root)
  chosen = [files[number] for number in frame_numbers(start, num_frames, frame_skip)]
  video = None
  for number, file in enumerate(chosen):
    with _open(file) as image:
      if video is None:
        check_bytes(folder, num_frames, image.height, image.width, max_bytes)
        video = np.empty((num_frames, image.height, image.width, 3), np.uint8)
      if (image.height, image.width) != video.shape[1:3]:
        raise ValueError(
          f'{file}: is {image.height}x{image.width}, but {chosen[0].name} is {video.shape[1]}x{video.shape[2]}; make '
          'the frames one size, or remove the folder.'
        )
      try:
        video[number] = np.asarray(image.convert('RGB'))
      except Exception as error:  # a damaged picture raises almost any of them
        raise _undecodable(file, error) from error
  return video


def picture_size(file: pathlib.Path) -> tuple[int, int]:
  """Height and width of one upright picture, without decoding it. Raises as `read_frames` does."""
  with _open(file) as image:
    try:
      sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception as error:  # damaged EXIF data raise almost any of them
      raise _undecodable(file, error) from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def read_picture(file: pathlib.Path, max_bytes: int) -> np.ndarray:
  """One picture, upright as its EXIF data say; uint8 [1 h w 3]. Raises as `read_frames` does."""
  with _open(file) as image:
    check_bytes(file, 1, image.height, image.width, max_bytes)
    try:
      return np.array(ImageOps.exif_transpose(image).convert('RGB'))[None]
    except Exception as error:  # as above
      raise _undecodable(file, error) from error


@contextlib.contextmanager
def _open(file: pathlib.Path) -> Iterator[Image.Image]:
  try:
    with open_picture(file) as image:
      if image.mode not in _EIGHT_BITS:
        raise ValueError(f'{file}: has pixels of type {image.mode}, but eight bits per colour are read; convert it.')
      yield image
  except OSError as error:
    raise _undecodable(file, error) from error


def _undecodable(file: pathlib.Path, error: Exception) -> ValueError:
  # Without the path, which some of these messages repeat.
  reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
  return ValueError(f'{file}: cannot be decoded as a picture ({reason}); replace or remove the file.')
