"""What a source of data hands out: one clip with what is known about it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
  """Evenly spaced frames and their description."""

  video: np.ndarray  # uint8 [t h w c]
  caption: str  # '' when the clip has none
  label: int | None  # class number, None when the clip has none
  frame_rate: float  # frames per second of `video`; 0 (unknown) only where it is one frame
  resolution: tuple[int, int]  # height and width in pixels before any resizing
