"""Files for people: videos, contact sheets, and folders that can be written to."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm_jax.errors import InvalidInput
from vdm_jax.video import contact_sheet, enlarge, enlarge_frames, tile, write_gif, write_mp4, write_png

WATCHABLE = 128  # pixels: smaller videos are enlarged in files for people


def write_video(video: np.ndarray, stem: Path, frame_rate: float) -> None:
  """One video as mp4 and gif, or as png where it is an image. It may be a memory map of any length."""
  if math.isinf(frame_rate):
    write_png(f'{stem}.png', enlarge(video[:1], WATCHABLE)[0])
    return
  write_mp4(f'{stem}.mp4', enlarge_frames(video, WATCHABLE), frame_rate)
  write_gif(f'{stem}.gif', enlarge_frames(video, WATCHABLE), frame_rate)


def write_together(videos: np.ndarray, names: Sequence[str], stem: Path, fps: int) -> None:
  stem.parent.mkdir(exist_ok=True)
  write_mp4(f'{stem}.mp4', tile(videos, frame_size=WATCHABLE), fps)
  write_png(f'{stem}.png', contact_sheet(videos, names))
  print(f'samples: {stem}.png', file=sys.stderr)


def writable(folder: str | Path) -> Path:
  path = Path(folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise InvalidInput(f'{folder} cannot be written to ({error.strerror}): choose a folder of your own.') from error
  return path


def slug(name: str) -> str:
  """`-a-3-moving-left` for a file name: letters and digits alone, at most 40 of them."""
  words = re.findall('[a-z0-9]+', name.lower())
  return ''.join(f'-{word}' for word in words)[:40]
