"""What the command line asks for, read from text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from vdm_jax.errors import InvalidInput


class Request(NamedTuple):
  """Which videos to sample. None and () stand for flags that were not given."""

  prompts: Sequence[str] = ()
  labels: Sequence[int] = ()
  repeats: int = 1  # videos of each prompt or label
  frame_rate: float | None = None  # frames per second, infinite for images
  original_size: tuple[int, int] | None = None
  num_frames: int | None = None  # of the whole video
  init_video: str | None = None  # a file to continue or to interpolate, or `test`: clips of the test split
  init_frames: int | None = None  # how many of its frames are given
  interpolate: int | None = None  # by how much the frame rate is raised
  low_resolution: str | None = None  # a file or a run whose videos are made larger
  frame_rates: tuple[float, ...] = ()  # of a hierarchy, the lowest first
  overlap: int | None = None  # frames that a window sees of what the one before made

  def long(self, model_frames: int) -> bool:
    """Whether the videos take more than one call of the model, or are conditioned on frames."""
    asked = (self.init_video, self.init_frames, self.interpolate, self.low_resolution, self.overlap)
    given = self.frame_rates != () or any(flag is not None for flag in asked)
    return given or self.num_frames not in (None, model_frames)

  @property
  def count(self) -> int:
    """The number of videos."""
    return self.repeats * max(1, len(self.prompts) + len(self.labels))

  def expanded(self) -> tuple[list[str] | None, list[int] | None, list[str]]:
    """Prompts, labels and names, one per video; None where there are no prompts or labels."""
    prompts = [prompt for prompt in self.prompts for _ in range(self.repeats)] or None
    labels = [label for label in self.labels for _ in range(self.repeats)] or None
    return prompts, labels, prompts or [f'class {label}' for label in labels or ()] or [''] * self.count


def read_frame_rate(text: str | None) -> float | None:
  """`24`, or `image`, which is an infinite frame rate; None where nothing is given."""
  if text is None:
    return None
  try:
    rate = math.inf if text == 'image' else float(text)
  except ValueError:
    rate = 0.0
  if not rate > 0:
    raise InvalidInput(f'--fps={text} is no frame rate: give frames per second, such as 24, or image.')
  return rate


def read_size(text: str | None) -> tuple[int, int] | None:
  """`720x1280`, height and width; None where nothing is given."""
  if text is None:
    return None
  if not (match := re.fullmatch('([1-9][0-9]*)x([1-9][0-9]*)', text)):
    raise InvalidInput(f'--original_size={text} is no size: give height and width in pixels, such as 720x1280.')
  return int(match[1]), int(match[2])


def read_frame_rates(text: str | None) -> tuple[float, ...]:
  """`2,8,24`: frame rates from the lowest to the highest; () where nothing is given."""
  if text is None:
    return ()
  try:
    rates = tuple(float(part) for part in text.split(','))
  except ValueError:
    rates = ()
  if not rates or not all(0 < rate < math.inf for rate in rates):
    raise InvalidInput(f'--frame_rates={text} is no list of frame rates: give the lowest first, such as 2,8,24.')
  return rates
