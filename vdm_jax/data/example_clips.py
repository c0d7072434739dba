"""Single clips of a split, prepared as a model of the configuration sees them, for measurements and previews."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vdm_jax.data.mixture import Mixture
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.contract import Clip
from vdm_jax.video import transforms


class ExampleClips:
  """The clips of a split by random access, at `data.frame_skip` and at the configured size without its padding.

  Args:
    config: section `data` of a configuration.
    split: 'train' or 'test'.
    seed: of the windows.
    num_frames: frames of a clip; by default `data.num_frames`.

  Raises as `catalog.build` does.
  """

  def __init__(self, config: Any, split: str, *, seed: int, num_frames: int | None = None):
    self._source, self._seed, self._config = catalog.build(config, split, seed), seed, config
    self._num_frames = num_frames or config.num_frames

  def __len__(self) -> int:
    return len(self._source)

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Names of the labels 0, 1, ...; None if the data do not name them."""
    return getattr(self._source, 'class_names', None)

  def first(self, count: int) -> Sequence[int]:
    """Return the numbers of the first `count` clips, or of all if there are fewer; of a mixture by its weights."""
    if isinstance(self._source, Mixture):
      return self._source.first(count)
    return range(min(count, len(self)))

  def __getitem__(self, index: int) -> Clip:
    """Return clip `index` at the window that the seed and the index determine."""
    return self.window(index, np.random.default_rng((self._seed, index)))

  def window(self, index: int, rng: np.random.Generator | None) -> Clip:
    """Return clip `index` at a random window, or at its first frames if `rng` is None."""
    config = self._config
    clip = self._source.read(index, rng, self._num_frames, config.frame_skip)
    video = transforms.resize_and_crop(clip.video, config.height - 2 * config.pad_rows, config.width)
    return clip._replace(video=transforms.to_channels(video, config.channels))

  def describe(self, index: int) -> tuple[str, int | None]:
    """Return the caption and the label of a clip; those of stored clips are read without their frames."""
    if hasattr(self._source, 'caption'):
      return self._source.caption(index), self._source.label(index)
    clip = self[index]
    return clip.caption, clip.label


def examples(config: Any, split: str, *, seed: int, count: int, num_frames: int | None = None) -> list[Clip]:
  """Return the first `count` clips of a split, or all if there are fewer; see `ExampleClips`."""
  clips = ExampleClips(config, split, seed=seed, num_frames=num_frames)
  return [clips[index] for index in clips.first(count)]
