"""Faults of clips and settings that can be measured without training: each function returns one, or None."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

AXES = {1: 'frames', 2: 'rows', 3: 'columns'}
# A frame's brightness changes less from frame to frame than from row to row: below this ratio of rows (or columns) to
# frames the two seem exchanged. Clips of moving digits and of noise have ratios of 1 and more.
EXCHANGED = 0.5
FLAT = 0.05  # standard deviation of clips, in [-1, 1], that have hardly any contrast
SIGMA_FACTOR = 3.0  # by which sigma_data may miss the data
START_LEFT = 0.1  # share of the starting weights in the last average


class Fault(NamedTuple):
  """What is wrong, in words that can be told apart, and the evidence with its remedy."""

  name: str
  text: str


def wrong_range(x: np.ndarray) -> Fault | None:
  """Of clips `[b t h w c]` as the network gets them, which should fill [-1, 1]."""
  low, high, spread = float(np.min(x)), float(np.max(x)), float(np.std(x))
  seen = f'the clips run from {low:.3g} to {high:.3g} with a standard deviation of {spread:.2g}'
  if not np.isfinite(spread):
    return Fault('wrong range of x', f'{seen}: mend what is not a number.')
  if low < -1.001 or high > 1.001:
    return Fault('wrong range of x', f'{seen}, but x is in [-1, 1]: scale it so, from uint8 by x / 127.5 - 1.')
  if low >= -0.001 and high > 0.05:
    return Fault('wrong range of x', f'{seen}, which looks like [0, 1]: x is in [-1, 1]; hand over 2 x - 1.')
  if spread < FLAT:
    return Fault(
      'wrong range of x',
      f'{seen}: there is hardly anything to see. Floats in [0, 1] that were stored as uint8 look like this; store '
      '255 times as much.',
    )
  return None


def wrong_axes(x: np.ndarray) -> Fault | None:
  """Of clips `[b t h w c]`: whether rows or columns behave as frames do, all about as bright as each other."""
  if min(x.shape[1:4]) < 2:
    return None
  changes = {name: _change(x, axis) for axis, name in AXES.items()}
  steadiest = min(changes, key=changes.get)
  if steadiest == 'frames' or changes[steadiest] > EXCHANGED * changes['frames']:
    return None
  seen = ', '.join(f'{value:.2g} of {name}' for name, value in changes.items())
  return Fault(
    'wrong order of axes',
    f'the brightness of a clip changes least along its {steadiest} (standard deviation {seen}), as it should along its '
    f'frames: store clips as [frames, rows, columns, channels].',
  )


def wrong_sigma_data(x: np.ndarray, model: Any) -> Fault | None:
  """Of the section `model`: sigma_data against the data, where the parameterization uses it."""
  if model['parameterization'] not in ('edm', 'snap'):
    return None
  spread, size, given = float(np.std(x)), float(np.sqrt(np.mean(np.square(x)))), model['sigma_data']
  if spread / SIGMA_FACTOR <= given <= size * SIGMA_FACTOR:
    return None
  return Fault(
    'wrong sigma_data',
    f'model.sigma_data={given:g}, but the clips have a standard deviation of {spread:.2g} and a root mean square of '
    f'{size:.2g}: set --config.model.sigma_data={spread:.2g}.',
  )


def frozen_average(training: Any, decay: float) -> Fault | None:
  """Of the section `training` and its decay per update: whether the last average still holds the first weights."""
  updates = np.arange(1, max(2, training.num_steps), dtype=np.float64)
  decays = np.minimum(decay, (1 + updates) / (10 + updates)) if training.ema_warmup else np.full_like(updates, decay)
  left = float(np.exp(np.sum(np.log(decays)))) if decay else 0.0
  if left < START_LEFT:
    return None
  return Fault(
    'frozen EMA',
    f'after all {training.num_steps:,} steps the average of the weights, which makes the samples, still consists to '
    f'{left:.0%} of the first ones: set --config.training.ema_warmup=True, or a lower training.ema_decay.',
  )


def _change(x: np.ndarray, axis: int) -> float:
  """How much brightness changes along an axis: the standard deviation of its slices' means, averaged over clips."""
  others = tuple(a for a in (1, 2, 3, 4) if a != axis)
  return float(np.mean(np.std(np.mean(x, axis=others), axis=1)))
