"""Several videos in one picture or one video, for people to look at."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vdm_jax.video.codecs import as_frames

GAP = 2  # pixels between frames
GAP_COLOR = 64
LABEL_WIDTH = 190
FONT_SIZE = 12
LINE_HEIGHT = 15
LINE_CHARACTERS = 28


def contact_sheet(
  videos: Sequence, captions: Sequence[str], *, frame_size: int = 64, max_frames: int = 16
) -> np.ndarray:
  """One row per video, its caption and then its frames from left to right; uint8 [h w 3].

  Videos are [t h w c], uint8 or float in [-1, 1]. Small frames are enlarged to about `frame_size` pixels, of
  more than `max_frames` frames an even selection is shown, and a long caption is shortened. No other frames are read:
  a video may be a memory-mapped file of any length. Raises ValueError if the numbers of videos and captions differ.
  """
  if len(videos) != len(captions) or not len(videos):
    raise ValueError(f'contact_sheet: {len(videos)} videos and {len(captions)} captions; give each video one caption.')
  rows = []
  for video, caption in zip(videos, captions, strict=True):
    video = np.asarray(video)
    chosen = np.rint(np.linspace(0, len(video) - 1, min(len(video), max_frames))).astype(int)
    strip = np.concatenate([_frame_with_gap(frame) for frame in enlarge(video[chosen], frame_size)], axis=1)
    rows.append(np.concatenate([_label(caption, len(strip)), strip], axis=1))
  width = max(row.shape[1] for row in rows)
  return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def tile(videos: Sequence, *, columns: int | None = None, frame_size: int = 64) -> np.ndarray:
  """Several videos of one size side by side: uint8 [t h w 3], for `write_mp4` or `write_gif`.

  Videos are [t h w c], uint8 or float in [-1, 1], enlarged to about `frame_size` pixels; a shorter one rests
  on its last frame. `columns` defaults to a square. Raises ValueError if heights or widths differ.
  """
  videos = [as_frames(video) for video in videos]
  sizes = sorted({video.shape[1:3] for video in videos})
  if len(sizes) != 1:
    raise ValueError(f'tile: the videos have the sizes {sizes}; give one or more videos of one size.')
  length = max(len(video) for video in videos)
  columns = columns or math.ceil(math.sqrt(len(videos)))
  cells = [
    _frame_with_gap(enlarge(video, frame_size)[np.minimum(np.arange(length), len(video) - 1)]) for video in videos
  ]
  cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
  rows = [np.concatenate(cells[i : i + columns], axis=2) for i in range(0, len(cells), columns)]
  return np.concatenate(rows, axis=1)


def enlarge(video: np.ndarray, frame_size: int) -> np.ndarray:
  """Repeats pixels of [t h w c] to about `frame_size` rows, so that single ones can be seen; large ones stay."""
  frames = as_frames(video)
  factor = max(1, round(frame_size / frames.shape[1]))
  return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlarge_frames(frames: Iterable[np.ndarray], frame_size: int) -> Iterator[np.ndarray]:
  """The frames of `enlarge`, one at a time, for `write_mp4` and `write_gif` of a video that is too long for memory."""
  for frame in frames:
    yield enlarge(frame[None], frame_size)[0]


def _frame_with_gap(frames: np.ndarray) -> np.ndarray:
  widths = [(0, 0)] * (frames.ndim - 3) + [(0, GAP), (0, GAP), (0, 0)]
  return np.pad(frames, widths, constant_values=GAP_COLOR)


def _label(caption: str, height: int) -> np.ndarray:
  """uint8 [height LABEL_WIDTH 3]: the caption in as many lines as fit."""
  lines = textwrap.wrap(caption, LINE_CHARACTERS, max_lines=max(1, height // LINE_HEIGHT), placeholder=' ...')
  image = Image.new('RGB', (LABEL_WIDTH, height))
  font = ImageFont.load_default(size=FONT_SIZE)
  for number, line in enumerate(lines):
    ImageDraw.Draw(image).text((4, 1 + number * LINE_HEIGHT), line, fill='white', font=font)
  return np.asarray(image)
