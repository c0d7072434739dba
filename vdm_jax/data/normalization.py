"""Normalization of data that are not pictures: physical fields, depth, many channels, missing values.

A run's section `data` says how its data become inputs of the network, per channel: x = (data - offset) / scale.

| data.normalization | data.normalization_values, per channel | x |
|---|---|---|
| pixels | none | uint8 with 1 or 3 channels, 0 to 255, as -1 to 1 |
| none | none | the data, which must have about unit size |
| range | (lowest, highest) | -1 to 1 |
| standard | (mean, standard deviation) | mean 0, standard deviation 1 |

`python -m vdm_jax.data inspect` measures the values. They are kept in the run's config.json, and undone in its samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.names import choose
from vdm_jax.video import transforms

KINDS = ('pixels', 'none', 'range', 'standard')
SHOWN_DEVIATIONS = 3.0  # standard deviations from black to gray in pictures of `standard` data


class Normalization(NamedTuple):
  """How data and inputs of the network correspond."""

  kind: str  # one of KINDS
  offset: np.ndarray  # float64 [c]
  scale: np.ndarray  # float64 [c]
  shown: tuple[int, ...]  # channels that pictures show, 1 or 3

  @property
  def is_pixels(self) -> bool:
    """Whether the data are uint8 pictures, the case without anything to undo."""
    return self.kind == 'pixels'

  def apply(self, frames: np.ndarray) -> np.ndarray:
    """Return data `[... c]` as inputs of the network, float32.

    >>> of_range = make('range', ((0, 10),), channels=1)
    >>> of_range.apply(np.array([[0.0], [5.0], [10.0]])).ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    if self.is_pixels:
      return transforms.to_float(frames)
    return ((frames.astype(np.float64) - self.offset) / self.scale).astype(np.float32)

  def undo(self, x: np.ndarray) -> np.ndarray:
    """Return network outputs `[... c]` in the units of the data, float32; of pixels, unchanged.

    >>> of_range = make('range', ((0, 10),), channels=1)
    >>> of_range.undo(np.array([[-1.0], [0.5]])).ravel().tolist()
    [0.0, 7.5]
    """
    if self.is_pixels:
      return np.asarray(x, np.float32)
    return (np.asarray(x, np.float64) * self.scale + self.offset).astype(np.float32)

  def pictures(self, x: np.ndarray) -> np.ndarray:
    """Return pictures of network outputs `[... c]` for people: float32 in [-1, 1] with 1 or 3 channels."""
    if self.is_pixels:
      return x
    x = np.nan_to_num(np.asarray(x, np.float32)[..., list(self.shown)])
    return np.clip(x / SHOWN_DEVIATIONS if self.kind == 'standard' else x, -1, 1)


def make(
  kind: str, values: Sequence[Sequence[float]] = (), *, channels: int, shown: Sequence[int] = ()
) -> Normalization:
  """Return a normalization.

  Args:
    kind: one of KINDS.
    values: a pair for each channel, see above.
    channels: number of channels.
    shown: channels that pictures show, 1 or 3; (): the only one, the first of two, or the first three.

  Raises:
    ValueError: the settings do not fit together.
  """
  choose('data.normalization', kind, KINDS)
  if kind == 'pixels' and channels not in (1, 3):
    raise ValueError(
      f"data.channels={channels} are not pictures: use 1 (gray) or 3 (RGB), or set data.normalization to 'range', "
      "'standard' or 'none'."
    )
  if channels < 1:
    raise ValueError(f'data.channels={channels} must be 1 or more.')
  chosen = tuple(shown) or ((0, 1, 2) if channels >= 3 else (0,))
  if len(chosen) not in (1, 3) or not all(isinstance(c, int) and 0 <= c < channels for c in chosen):
    raise ValueError(f'data.shown_channels={chosen} must be one or three of the channels 0 to {channels - 1}.')
  if kind in ('pixels', 'none'):
    if len(values):
      raise ValueError(f'data.normalization_values has no effect with data.normalization={kind!r}; set it to ().')
    return Normalization(kind, np.zeros(channels), np.ones(channels), chosen)
  meaning = 'lowest and highest value' if kind == 'range' else 'mean and standard deviation'
  try:
    pairs = np.array([[float(number) for number in pair] for pair in values], np.float64).reshape(len(values), 2)
  except (TypeError, ValueError):
    pairs = np.full((0, 2), np.nan)
  first, second = pairs.T
  scale = (second - first) / 2 if kind == 'range' else second
  if len(pairs) != channels or not np.isfinite(pairs).all() or not (scale > 0).all():
    raise ValueError(
      f'data.normalization={kind!r} needs a pair of {meaning} for each of the {channels} channels, but '
      f'data.normalization_values={tuple(values)}; `python -m vdm_jax.data inspect` measures them.'
    )
  return Normalization(kind, (first + second) / 2 if kind == 'range' else first, scale, chosen)


def of_config(data: Mapping[str, Any]) -> Normalization:
  """Return the normalization of the section `data` of a configuration. Raises as `make` does."""
  return make(
    data['normalization'], data['normalization_values'], channels=data['channels'], shown=data['shown_channels']
  )


def check_sampling(config: Any) -> None:
  """Raise ValueError if samples would be clipped to [-1, 1], which the data of a configuration exceed.

  Also if the configuration is a second stage, which upsamples pictures alone.
  """
  if config.data.normalization != 'pixels' and config.model.upsampling > 1:
    raise ValueError(
      f'data.normalization={config.data.normalization!r} with model.upsampling={config.model.upsampling}: a second '
      'stage upsamples pictures; use reconstruction guidance, vdm_jax.generation.super_resolution.'
    )
  if config.data.normalization in ('none', 'standard') and config.sampling.threshold != 'none':
    raise ValueError(
      f'sampling.threshold={config.sampling.threshold!r} limits samples to [-1, 1], but '
      f"data.normalization={config.data.normalization!r} does not; set sampling.threshold='none', or normalize 'range'."
    )


def check_frames(frames: np.ndarray, where: str, expected: str) -> None:
  """Raise ValueError unless frames `[t h w c]` are what a data set's settings say.

  Args:
    frames: those of a clip.
    where: names the clip.
    expected: 'pixels', 'finite' numbers, or 'missing' if NaN stands for a missing value.
  """
  if expected == 'pixels':
    if frames.dtype != np.uint8 or frames.shape[-1] not in (1, 3):
      raise ValueError(
        f'{where}: contains {frames.dtype} with {frames.shape[-1]} channels, which are not pictures (uint8 with 1 or 3 '
        'channels); set data.normalization and data.channels, or remove the clip.'
      )
  elif frames.dtype.kind == 'f':
    bad = ~np.isfinite(frames) if expected == 'finite' else np.isinf(frames)
    if bad.any():
      raise ValueError(
        f'{where}: {bad.sum()} of {bad.size} values are not finite; repair or remove the clip, or set '
        'data.missing_values=True if NaN stands for a missing value.'
      )


class Statistics:
  """Range, mean and standard deviation of each channel, of data that arrive in parts. NaN is left out."""

  def __init__(self):
    self.count = self.low = self.high = self.mean = self._squares = None

  def add(self, frames: np.ndarray) -> None:
    """Add data `[... c]`; sums are float64, merged by the formula of Chan et al. (1979)."""
    values = frames.reshape(-1, frames.shape[-1]).astype(np.float64)
    if self.count is None:
      size = values.shape[1]
      self.count, self.mean, self._squares = np.zeros(size), np.zeros(size), np.zeros(size)
      self.low, self.high = np.full(size, math.inf), np.full(size, -math.inf)
    if values.shape[1] != len(self.count):
      raise ValueError(f'clips have {len(self.count)} and {values.shape[1]} channels; make them equal.')
    there = ~np.isnan(values)
    count = there.sum(0)
    mean = np.where(there, values, 0).sum(0) / np.maximum(count, 1)
    squares = np.where(there, (values - mean) ** 2, 0).sum(0)
    total = self.count + count
    shift = mean - self.mean
    self._squares += squares + shift**2 * self.count * count / np.maximum(total, 1)
    self.mean += shift * count / np.maximum(total, 1)
    self.count = total
    self.low = np.minimum(self.low, np.where(there, values, math.inf).min(0))
    self.high = np.maximum(self.high, np.where(there, values, -math.inf).max(0))

  @property
  def deviation(self) -> np.ndarray:
    """The standard deviation of each channel, float64 [c]."""
    return np.sqrt(self._squares / np.maximum(self.count, 1))

  def values(self, kind: str) -> tuple[tuple[float, float], ...]:
    """Return `data.normalization_values` for 'range' or 'standard', with nine digits, exact in float32."""
    pairs: Iterable = zip(*((self.low, self.high) if kind == 'range' else (self.mean, self.deviation)), strict=True)
    return tuple((float(f'{a:.9g}'), float(f'{b:.9g}')) for a, b in pairs)

  def lines(self) -> list[str]:
    """Return lines for people: the values of each channel, and the settings that normalize them."""
    if self.count is None:
      return []
    lines = [f'values of the train split, {len(self.count)} channels:']
    columns = zip(self.low, self.high, self.mean, self.deviation, strict=True)
    for channel, (low, high, mean, deviation) in enumerate(columns):
      lines.append(f'  {channel}: {low:.6g} to {high:.6g}, mean {mean:.6g}, standard deviation {deviation:.6g}')
    lines.append(f'train with --config.data.channels={len(self.count)} and one of')
    for kind in ('range', 'standard'):
      values = str(self.values(kind)).replace(' ', '')
      lines.append(f'  --config.data.normalization={kind} "--config.data.normalization_values={values}"')
    return lines


def of_range(found: Statistics) -> Normalization:
  """Return a normalization to [-1, 1] for pictures of the data; a constant channel becomes 0."""
  low, scale = (found.low + found.high) / 2, (found.high - found.low) / 2
  shown = (0, 1, 2) if len(scale) >= 3 else (0,)
  return Normalization('range', low, np.where(scale > 0, scale, 1), shown)
