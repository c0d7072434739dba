"""Files to look at: videos and contact sheets, in a folder that can be written to."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm_jax.data.normalization import Normalization
from vdm_jax.errors import InvalidInput
from vdm_jax.runtime.atomic_files import atomic_write
from vdm_jax.video import contact_sheet, enlarge, enlarge_frames, tile, write_gif, write_mp4, write_png

MIN_SIDE = 128  # pixels; smaller videos are enlarged in files to look at


def write_video(video: np.ndarray, stem: Path, frame_rate: float) -> None:
  """Write one video as mp4 and gif, or an image as png.

  Args:
    video: [t h w c], float in [-1, 1] or uint8; may be a memory map of any length.
    stem: path of the files without their suffix.
    frame_rate: frames per second, infinite for an image.
  """
  if math.isinf(frame_rate):
    write_png(f'{stem}.png', enlarge(video[:1], MIN_SIDE)[0])
    return
  write_mp4(f'{stem}.mp4', enlarge_frames(video, MIN_SIDE), frame_rate)
  write_gif(f'{stem}.gif', enlarge_frames(video, MIN_SIDE), frame_rate)


def write_sample(video: np.ndarray, stem: Path, frame_rate: float, normalize: Normalization) -> np.ndarray:
  """Write one sample as `write_video` does; data that are not pictures also exactly, as .npy in their own units.

  Args:
    video: [t h w c], as the model made it.
    stem: path of the files without their suffix.
    frame_rate: frames per second, infinite for an image.
    normalize: the normalization of the data.

  Returns:
    What the pictures show, [t h w 1 or 3] in [-1, 1].
  """
  pictures = normalize.pictures(video)
  if not normalize.is_pixels:
    with atomic_write(Path(f'{stem}.npy')) as temporary, open(temporary, 'wb') as file:
      np.save(file, normalize.undo(video))
  write_video(pictures, stem, frame_rate)
  return pictures


def write_preview(videos: np.ndarray, titles: Sequence[str], stem: Path, fps: int) -> None:
  """Write all videos `[n t h w c]` side by side as one mp4, and as a contact sheet with a title per row."""
  stem.parent.mkdir(exist_ok=True)
  write_mp4(f'{stem}.mp4', tile(videos, frame_size=MIN_SIDE), fps)
  write_png(f'{stem}.png', contact_sheet(videos, titles))
  print(f'samples: {stem}.png', file=sys.stderr)


def writable_folder(folder: str | Path) -> Path:
  """Create a folder and return its path. Raises InvalidInput unless it can be written to."""
  path = Path(folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise InvalidInput(f'{folder} cannot be written to ({error.strerror}): choose a folder that you own.') from error
  return path


def slug(title: str) -> str:
  """Return a suffix for a file name: letters and digits only, at most 40 characters.

  >>> slug('A 3, moving left!')
  '-a-3-moving-left'
  """
  words = re.findall('[a-z0-9]+', title.lower())
  return ''.join(f'-{word}' for word in words)[:40]
