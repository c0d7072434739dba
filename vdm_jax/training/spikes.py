"""Gradient spikes: finite gradients that are far longer than usual, from a corrupt batch or a hardware fault."""

from __future__ import annotations

import jax.numpy as jnp

from vdm_jax.types import Array

# Updates over which gradient norms are averaged; before as many, no norm counts as a spike.
WINDOW = 100


def accepted_and_norm_ema(norm: Array, norm_ema: Array, updates: Array, factor: float) -> tuple[Array, Array]:
  """Return whether a gradient norm is accepted (not a spike), and the moving average of norms after the step.

  A norm above `factor` times the average is a spike, and enters the average as that limit. So a single spike hardly
  moves the average, and a lasting higher level is accepted: n spikes in a row raise the average by
  (1 + (factor - 1) / WINDOW)^n, which is 50-fold after 46 for a factor of 10.

  Args:
    norm: float32 [], the global norm of a finite gradient.
    norm_ema: float32 [], the average so far; 0: none yet.
    updates: int32 [], updates applied before this step. The first WINDOW are always accepted: norms fall at the start.
    factor: above 1; 0: every norm is accepted.

  >>> accepted, norm_ema = accepted_and_norm_ema(jnp.float32(500), jnp.float32(2), jnp.int32(1000), 10.0)
  >>> bool(accepted), f'{norm_ema:.2f}'
  (False, '2.18')
  """
  known = (norm_ema > 0) & (updates >= WINDOW) & (factor > 0)
  limit = jnp.where(known, factor * norm_ema, jnp.inf)
  rate = jnp.where(norm_ema > 0, 1 / jnp.minimum(updates + 1, WINDOW), 1.0)
  return norm <= limit, norm_ema + rate * (jnp.minimum(norm, limit) - norm_ema)
