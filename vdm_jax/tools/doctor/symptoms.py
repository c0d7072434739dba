"""Faults of clips and settings that are found without training: each function returns one, or None."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

AXES = {1: 'frames', 2: 'rows', 3: 'columns'}
# Mean brightness changes less along frames than along rows. If rows (or columns) change less than this fraction of
# frames, the axes are probably swapped. Moving digits and noise have ratios of 1 and more.
SWAPPED = 0.5
FLAT = 0.05  # standard deviation of clips in [-1, 1] below which they have hardly any contrast
SIGMA_FACTOR = 3.0  # ratio by which sigma_data may differ from the data
INITIAL_SHARE = 0.1  # of the initial weights in the final EMA


class Fault(NamedTuple):
  """A fault: a short unique name, and the evidence with the fix."""

  name: str
  text: str


def wrong_range(x: np.ndarray) -> Fault | None:
  """Check that clips `[b t h w c]`, as the network gets them, fill [-1, 1]."""
  low, high, spread = float(np.min(x)), float(np.max(x)), float(np.std(x))
  seen = f'clips range from {low:.3g} to {high:.3g} with a standard deviation of {spread:.2g}'
  if not np.isfinite(spread):
    return Fault('wrong range of x', f'{seen}: remove the NaNs.')
  if low < -1.001 or high > 1.001:
    return Fault('wrong range of x', f'{seen}, but x must be in [-1, 1]: rescale it, uint8 by x / 127.5 - 1.')
  if low >= -0.001 and high > 0.05:
    return Fault(
      'wrong range of x', f'{seen}, which looks like [0, 1], but x must be in [-1, 1]: rescale it by 2 x - 1.'
    )
  if spread < FLAT:
    return Fault(
      'wrong range of x',
      f'{seen}: there is hardly any contrast. A common cause are floats in [0, 1] stored as uint8: multiply by 255 '
      'before storing.',
    )
  return None


def wrong_axes(x: np.ndarray) -> Fault | None:
  """Check that brightness of clips `[b t h w c]` changes least along frames, not along rows or columns."""
  if min(x.shape[1:4]) < 2:
    return None
  changes = {name: _change(x, axis) for axis, name in AXES.items()}
  steadiest = min(changes, key=changes.get)
  if steadiest == 'frames' or changes[steadiest] > SWAPPED * changes['frames']:
    return None
  seen = ', '.join(f'{value:.2g} of {name}' for name, value in changes.items())
  return Fault(
    'wrong order of axes',
    f'the mean brightness of clips changes least along {steadiest} (standard deviation {seen}), which is expected of '
    'frames: store clips as [frames, rows, columns, channels].',
  )


def wrong_sigma_data(x: np.ndarray, model: Any) -> Fault | None:
  """Check sigma_data of the section `model` against the data, if the parameterization uses it."""
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


def frozen_ema(training: Any, decay: float) -> Fault | None:
  """Check that the EMA forgets the initial weights, from the section `training` and the decay per update."""
  updates = np.arange(1, max(2, training.num_steps), dtype=np.float64)
  decays = np.minimum(decay, (1 + updates) / (10 + updates)) if training.ema_warmup else np.full_like(updates, decay)
  left = float(np.exp(np.sum(np.log(decays)))) if decay else 0.0
  if left < INITIAL_SHARE:
    return None
  return Fault(
    'frozen EMA',
    f'after all {training.num_steps:,} steps the EMA of the weights, which is used for sampling, still has a share of '
    f'{left:.0%} of the initial weights: set --config.training.ema_warmup=True, or a lower training.ema_decay.',
  )


def _change(x: np.ndarray, axis: int) -> float:
  """Return how much brightness changes along an axis: the standard deviation of its slices' means, mean over clips."""
  others = tuple(a for a in (1, 2, 3, 4) if a != axis)
  return float(np.mean(np.std(np.mean(x, axis=others), axis=1)))
