"""Training metrics: sums over a logging window, kept on the devices, and the row of means they become.

The sums are part of the training state, so a run that stops within a window resumes to the same row.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import CLEAN_LOGSNR
from vdm_jax.types import Array

# The loss is logged for each band of log-SNR, because noise levels are learned at different times. Under uniform time
# of the cosine schedule, bands have probability .03, .19, .55, .19 and .03; levels beyond count to the outer bands.
BAND_EDGES = (-20, -6, -2, 2, 6, 20)
BANDS = tuple(f'{low}_{high}' for low, high in zip(BAND_EDGES[:-1], BAND_EDGES[1:], strict=True))
# Logged as of the end of a window; the others are means over it.
LAST = ('parameter_norm', 'learning_rate')


def zeros() -> dict[str, Array]:
  """Return the sums of an empty window."""
  scalars = ('steps', 'skipped', 'spikes', 'loss', 'gradient_norm', 'update_norm', *LAST)
  return {name: jnp.zeros(()) for name in scalars} | {
    name: jnp.zeros(len(BANDS)) for name in ('band_loss', 'band_count')
  }


def add(
  sums: dict[str, Array],
  *,
  applied: Array,
  spike: Array,
  loss: Array,
  gradient_norm: Array,
  update_norm: Array,
  parameter_norm: Array,
  learning_rate: Array,
  per_example: Array,
  logsnr: Array,
  per_frame: Array | None = None,
) -> dict[str, Array]:
  """Return the sums with one more step. A step that was not `applied` only adds to the counts.

  Args:
    sums: from `zeros` or `add`.
    applied: bool [], whether the step changed the parameters.
    spike: bool [], whether it was skipped as a gradient spike.
    loss, gradient_norm, update_norm, parameter_norm: float32 [].
    learning_rate: float32 [].
    per_example: float32 [b], the examples' losses.
    logsnr: float32 [b], their noise levels; [b f] if frames have levels of their own.
    per_frame: float32 [b f], the losses of frames in that case. Given frames, which have no loss, count to no band.
  """
  if per_frame is None:
    band_loss, band_count = bands(per_example, logsnr)
  else:
    band_loss, band_count = bands(per_frame.ravel(), jnp.where(logsnr < CLEAN_LOGSNR, logsnr, jnp.nan).ravel())
  terms = {
    'loss': loss,
    'gradient_norm': gradient_norm,
    'update_norm': update_norm,
    'band_loss': band_loss,
    'band_count': band_count,
  }
  new = {name: sums[name] + jnp.where(applied, term, 0.0) for name, term in terms.items()}
  return new | {
    'steps': sums['steps'] + 1,
    'skipped': sums['skipped'] + jnp.where(applied, 0.0, 1.0),
    'spikes': sums['spikes'] + jnp.where(spike, 1.0, 0.0),
    'parameter_norm': parameter_norm,
    'learning_rate': learning_rate,
  }


def bands(per_example: Array, logsnr: Array) -> tuple[Array, Array]:
  """Return for each band of log-SNR the sum of the examples' losses and their number, both float32 [bands].

  An example whose level is NaN counts to none.

  >>> total, count = bands(jnp.array([1.0, 2.0, 4.0]), jnp.array([-30.0, 0.5, 1.0]))
  >>> total.tolist(), count.tolist()
  ([1.0, 0.0, 6.0, 0.0, 0.0], [1.0, 0.0, 2.0, 0.0, 0.0])
  """
  index = jnp.searchsorted(jnp.asarray(BAND_EDGES[1:-1], jnp.float32), logsnr, side='right')
  member = (index[:, None] == jnp.arange(len(BANDS))) & ~jnp.isnan(logsnr)[:, None]
  return jnp.sum(jnp.where(member, per_example[:, None], 0.0), 0), jnp.sum(member, 0).astype(jnp.float32)


def row(sums: dict[str, Any]) -> dict[str, float]:
  """Return the `train/...` values of a window: means over the applied steps, and of the bands that have examples."""
  sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
  applied = sums['steps'] - sums['skipped']
  means = {}
  if applied:
    means = {f'train/{name}': float(sums[name] / applied) for name in ('loss', 'gradient_norm', 'update_norm')}
  return means | {
    **{f'train/{name}': float(sums[name]) for name in LAST},
    'train/skipped_steps': int(sums['skipped']),
    'train/spikes': int(sums['spikes']),
    **named_bands('train', sums['band_loss'], sums['band_count']),
  }


def named_bands(prefix: str, band_loss: Any, band_count: Any) -> dict[str, float]:
  """Return `prefix/loss_logsnr_LOW_HIGH`, the mean loss of each band that has examples."""
  return {
    f'{prefix}/loss_logsnr_{name}': float(total / count)
    for name, total, count in zip(BANDS, np.asarray(band_loss), np.asarray(band_count), strict=True)
    if count
  }
