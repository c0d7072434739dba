"""Several videos in one image or one video, for viewing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vdm_jax.video.writing import as_frames

GAP = 2  # pixels between frames
GAP_COLOR = 64
LABEL_WIDTH = 190
FONT_SIZE = 12
LINE_HEIGHT = 15
LINE_CHARACTERS = 28
MAX_ROWS = 100  # videos of a contact sheet


def contact_sheet(
  videos: Sequence, captions: Sequence[str], *, frame_size: int = 64, max_frames: int = 16
) -> np.ndarray:
  """Draw one row per video: its caption, then its frames from left to right.

  Args:
    videos: `[t h w c]` each, uint8 or float in [-1, 1]. Only the frames shown are read, so a video may be a
      memory-mapped file of any length.
    captions: one for each video; long ones are shortened. Only the first 100 videos are shown.
    frame_size: pixels per side that small frames are enlarged to, approximately.
    max_frames: frames of a video that are shown at most, evenly spread.

  Returns:
    uint8 `[h w 3]`.

  Raises:
    ValueError: there are no videos, or not as many captions.
  """
  if len(videos) != len(captions) or not len(videos):
    raise ValueError(
      f'contact_sheet: {len(videos)} videos and {len(captions)} captions; pass one caption for each video.'
    )
  rows = []
  for video, caption in zip(videos[:MAX_ROWS], captions[:MAX_ROWS], strict=True):
    video = np.asarray(video)
    chosen = np.rint(np.linspace(0, len(video) - 1, min(len(video), max_frames))).astype(int)
    strip = np.concatenate([_frame_with_gap(frame) for frame in enlarge(video[chosen], frame_size)], axis=1)
    rows.append(np.concatenate([_label(caption, len(strip)), strip], axis=1))
  width = max(row.shape[1] for row in rows)
  return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


def tile(videos: Sequence, *, columns: int | None = None, frame_size: int = 64) -> np.ndarray:
  """Arrange videos of one size side by side, for `write_mp4` or `write_gif`.

  Args:
    videos: `[t h w c]` each, uint8 or float in [-1, 1]; a shorter one stops on its last frame.
    columns: videos in a row; by default the rows make a square.
    frame_size: pixels per side that small frames are enlarged to, approximately.

  Returns:
    uint8 `[t h w 3]`.

  Raises:
    ValueError: heights or widths differ.
  """
  videos = [as_frames(video) for video in videos]
  sizes = sorted({video.shape[1:3] for video in videos})
  if len(sizes) != 1:
    raise ValueError(f'tile: the videos have the sizes {sizes}; pass one or more videos of one size.')
  length = max(len(video) for video in videos)
  columns = columns or math.ceil(math.sqrt(len(videos)))
  cells = [
    _frame_with_gap(enlarge(video, frame_size)[np.minimum(np.arange(length), len(video) - 1)]) for video in videos
  ]
  cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
  rows = [np.concatenate(cells[i : i + columns], axis=2) for i in range(0, len(cells), columns)]
  return np.concatenate(rows, axis=1)


def enlarge(video: np.ndarray, frame_size: int) -> np.ndarray:
  """Enlarge `[t h w c]` to about `frame_size` rows by repeating pixels, as uint8 `[t h w 3]`; large frames are kept."""
  frames = as_frames(video)
  factor = max(1, round(frame_size / frames.shape[1]))
  return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def enlarge_frames(frames: Iterable[np.ndarray], frame_size: int) -> Iterator[np.ndarray]:
  """Yield the frames of `enlarge` one at a time, for writing videos that do not fit into memory."""
  for frame in frames:
    yield enlarge(frame[None], frame_size)[0]


def _frame_with_gap(frames: np.ndarray) -> np.ndarray:
  widths = [(0, 0)] * (frames.ndim - 3) + [(0, GAP), (0, GAP), (0, 0)]
  return np.pad(frames, widths, constant_values=GAP_COLOR)


def _label(caption: str, height: int) -> np.ndarray:
  """Draw the caption, in as many lines as fit, as uint8 [height LABEL_WIDTH 3]."""
  lines = textwrap.wrap(caption, LINE_CHARACTERS, max_lines=max(1, height // LINE_HEIGHT), placeholder=' ...')
  image = Image.new('RGB', (LABEL_WIDTH, height))
  font = ImageFont.load_default(size=FONT_SIZE)
  for number, line in enumerate(lines):
    ImageDraw.Draw(image).text((4, 1 + number * LINE_HEIGHT), line, fill='white', font=font)
  return np.asarray(image)
