"""Files to look at: videos and contact sheets, in a folder that can be written to."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vdm_jax.data.normalization import Normalization
from vdm_jax.errors import InvalidInput
from vdm_jax.names import choose
from vdm_jax.runtime import progress
from vdm_jax.runtime.atomic_files import atomic_write, write_text
from vdm_jax.video import (
  check_webm,
  contact_sheet,
  enlarge,
  enlarge_frames,
  tile,
  to_uint8,
  write_gif,
  write_mp4,
  write_png,
  write_webm,
)

WRITERS = {'mp4': write_mp4, 'gif': write_gif, 'webm': write_webm}
RECORD = 'samples.json'  # of the files that a request for short videos wrote; long ones have a job.json
FORMATS = (*WRITERS, 'npy')
BAR = '{percentage:3.0f} %|{bar}| {n:.1f} of {total} {unit}s [{elapsed}<{remaining}]'
MIN_SIDE = 128  # pixels; smaller videos are enlarged in files to look at


def check_formats(formats: Sequence[str]) -> None:
  """Raise InvalidInput unless the formats of --format are known and can be written here."""
  try:
    for name in formats:
      choose('--format', name, FORMATS)
    if 'webm' in formats:
      check_webm()
  except ValueError as error:
    raise InvalidInput(str(error)) from error


def write_video(
  video: np.ndarray, stem: Path, frame_rate: float, formats: Sequence[str] = ('mp4', 'gif')
) -> list[Path]:
  """Write one video in each of the formats, an image as png instead of a video.

  Files to look at are enlarged if the video is small. A npy file holds the exact frames, uint8 `[t h w c]`.

  Args:
    video: [t h w c], float in [-1, 1] or uint8; may be a memory map of any length.
    stem: path of the files without their suffix.
    frame_rate: frames per second, infinite for an image.
    formats: some of FORMATS.

  Returns:
    The files.
  """
  files = []
  video = video[:1] if math.isinf(frame_rate) else video
  for name in ('png', 'npy') if math.isinf(frame_rate) else formats:
    if name == 'npy' and 'npy' not in formats:
      continue
    files.append(stem.with_name(f'{stem.name}.{name}'))
    if name == 'npy':
      with atomic_write(files[-1]) as temporary, open(temporary, 'wb') as file:
        np.save(file, video if video.dtype == np.uint8 else to_uint8(video))
    elif name == 'png':
      write_png(files[-1], enlarge(video, MIN_SIDE)[0])
    else:
      WRITERS[name](files[-1], enlarge_frames(video, MIN_SIDE), frame_rate)
  return files


class Written:
  """The files of one request in a folder. When it is done, those of an earlier request are removed.

  A file `samples.json` records them with size and time; files that have changed since are kept. Use it as a context:
  after an exception, nothing is removed.
  """

  def __init__(self, folder: Path):
    self._folder, self._files = folder, dict[str, list[int]]()
    self._earlier = _read_record(folder)

  def __enter__(self) -> Written:
    return self

  def add(self, files: Sequence[Path]) -> None:
    """Record files that have just been written."""
    self._files |= {file.name: _stamp(file) for file in files}

  def __exit__(self, kind: type | None, *error: Any) -> None:
    earlier = {name: stamp for name, stamp in self._earlier.items() if name not in self._files}
    if kind is None:
      ours = [name for name, stamp in earlier.items() if _stamp(self._folder / name) == stamp]
      for name in ours:
        (self._folder / name).unlink()
      if ours:
        print(
          f'removed from {self._folder}: {len(ours)} files of the earlier request, such as {ours[0]}', file=sys.stderr
        )
      earlier = {}
    if earlier or self._files:
      write_text(self._folder / RECORD, json.dumps({'files': earlier | self._files}, indent=0) + '\n')


def check_unused(folder: str | Path, record: str, held: str) -> None:
  """Raise InvalidInput if a folder holds the record of videos of another kind, whose files new ones would replace."""
  if (Path(folder) / record).exists():
    raise InvalidInput(f'--out={folder} holds {held} ({record}): choose another folder, or empty it.')


def _read_record(folder: Path) -> dict[str, list[int]]:
  """The files that an earlier request left; none if the record was damaged, so that they are kept."""
  try:
    files = json.loads((folder / RECORD).read_text())['files']
    return {name: stamp for name, stamp in files.items() if Path(name).name == name}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}


def _stamp(file: Path) -> list[int] | None:
  """Size and time of change of a file, None if there is none."""
  try:
    found = file.stat()
  except OSError:
    return None
  return [found.st_size, found.st_mtime_ns]


def write_sample(
  video: np.ndarray, stem: Path, frame_rate: float, formats: Sequence[str], normalize: Normalization
) -> list[Path]:
  """Write one sample as `write_video` does; of data that are not pictures, always and exactly also the values as .npy.

  Args:
    video: [t h w c], as the model made it.
    stem: path of the files without their suffix.
    frame_rate: frames per second, infinite for an image.
    formats: some of FORMATS.
    normalize: the normalization of the data; the .npy file is in their units, float32.

  Returns:
    The files.
  """
  if normalize.is_pixels:
    return write_video(video, stem, frame_rate, formats)
  files = write_video(normalize.pictures(video), stem, frame_rate, [name for name in formats if name != 'npy'])
  exact = stem.with_name(f'{stem.name}.npy')
  with atomic_write(exact) as temporary, open(temporary, 'wb') as file:
    np.save(file, normalize.undo(video))
  return [*files, exact]


def write_preview(videos: np.ndarray, titles: Sequence[str], stem: Path, fps: int) -> None:
  """Write all videos `[n t h w c]` side by side as one mp4, and as a contact sheet with a title per row."""
  stem.parent.mkdir(exist_ok=True)
  write_mp4(f'{stem}.mp4', tile(videos, frame_size=MIN_SIDE), fps)
  write_png(f'{stem}.png', contact_sheet(videos, titles))
  print(f'samples: {stem}.png', file=sys.stderr)


def progress_bar(unit: str, total: int, done: int = 0) -> tqdm:
  """Return a bar that counts videos or windows; parts of one are fractions."""
  return tqdm(total=total, initial=done, unit=unit, bar_format=BAR, disable=not progress.wanted())


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


def file_stem(number: int, title: str) -> str:
  """Return the name of a video's files, without suffix.

  >>> file_stem(3, 'A 7, moving left!')
  '0003-a-7-moving-left'
  """
  return f'{number:04d}{slug(title)}'


def slug(title: str) -> str:
  """Return a suffix for a file name: letters and digits only, at most 40 characters.

  >>> slug('A 3, moving left!')
  '-a-3-moving-left'
  """
  words = re.findall('[a-z0-9]+', title.lower())
  return ''.join(f'-{word}' for word in words)[:40]
