"""What a user asks a trained model for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

# Real footage of 23.976 and 29.97 frames per second passes for 24 and 30.
RATE_TOLERANCE = 0.02


class Request(NamedTuple):
  """The videos to sample. None and () stand for what was not asked for; names are those of the flags.

  >>> request = Request(prompts=['a 3 moving left'], repeats=2)
  >>> request.count, request.is_long(model_frames=8)
  (2, False)
  """

  prompts: Sequence[str] = ()
  labels: Sequence[int] = ()
  repeats: int = 1  # videos per prompt or label, without `seeds`
  frame_rate: float | None = None  # frames per second, infinite for images
  original_size: tuple[int, int] | None = None  # height and width of the footage to imitate, in pixels
  num_frames: int | None = None  # length of the whole video
  init_video: str | None = None  # file to continue or interpolate, or `test` for clips of the test split
  init_frames: int | None = None  # number of its frames that are given
  interpolate: int | None = None  # factor by which to raise the frame rate
  low_resolution: str | None = None  # file or run whose videos are upsampled
  frame_rates: tuple[float, ...] = ()  # of a hierarchy, lowest first
  overlap: int | None = None  # frames that a window shares with the previous one
  fit: str = 'cover'  # how frames of files are fitted to the model's size, one of `video.FITS`
  first_video: int = 0  # number of the first video
  seeds: tuple[int, ...] = ()  # of one video each, per prompt or label
  batch_size: int | None = None  # videos made at a time
  formats: tuple[str, ...] = ('mp4', 'gif', 'npy')  # of the files, of `outputs.FORMATS`

  def is_long(self, model_frames: int) -> bool:
    """Return whether the videos take more than one call of the model, or are conditioned on frames."""
    given = (self.init_video, self.init_frames, self.interpolate, self.low_resolution, self.overlap)
    conditional = self.frame_rates != () or any(value is not None for value in given)
    return conditional or self.num_frames not in (None, model_frames)

  @property
  def each(self) -> int:
    """The number of videos per prompt or label."""
    return len(self.seeds) or self.repeats

  @property
  def count(self) -> int:
    """The number of videos."""
    return self.each * max(1, len(self.prompts) + len(self.labels))

  def expanded(self) -> tuple[list[str] | None, list[int] | None, list[str]]:
    """Return prompts, labels and titles with one entry per video; prompts or labels are None if there are none."""
    prompts = [prompt for prompt in self.prompts for _ in range(self.each)] or None
    labels = [label for label in self.labels for _ in range(self.each)] or None
    return prompts, labels, prompts or [f'class {label}' for label in labels or ()] or [''] * self.count

  def noise(self, seed: int) -> dict[str, Any]:
    """Return the arguments `seed` and `first` of a generator; `seed` is that of all videos without `seeds`."""
    each = list(self.seeds) * (self.count // self.each)
    return {'seed': each or seed, 'first': self.first_video}


def untrained_rates(config: ConfigDict, rates: Sequence[float]) -> list[float]:
  """Return the frame rates at which a model conditioned on frame rate has not been trained.

  The lowest rate of training is that of the clips over the largest frame skip, and the highest that over the smallest.
  Where neither `data.target_frame_rate` nor `data.frame_rate` is set, files have rates of their own: the lowest is
  taken from `sampling.fps`, the rate at the smallest skip, and no rate is too high.

  Args:
    config: of the run.
    rates: frames per second; infinite for an image, which needs `data.image_rate`.

  >>> from vdm_jax import configuration
  >>> config = configuration.default()
  >>> config.data.update(target_frame_rate=24.0, frame_skip_max=6)  # 4 to 24 frames per second
  >>> untrained_rates(config, (2, 8, 24, 48))
  [2, 48]
  """
  data = config.data
  known = data.target_frame_rate or data.frame_rate
  usual = known or max(0, config.sampling.fps) * data.frame_skip  # fps may be left open
  low = usual / max(data.frame_skip, data.frame_skip_max)
  high = known / data.frame_skip if known else math.inf

  def trained(rate: float) -> bool:
    if math.isinf(rate):
      return data.image_rate > 0 or data.num_frames == 1
    return low * (1 - RATE_TOLERANCE) <= rate <= high * (1 + RATE_TOLERANCE)

  return [rate for rate in rates if not trained(rate)]
