"""Steps whose gradient is finite but far longer than the run's usual one, such as a corrupt batch or a fault makes."""

from __future__ import annotations

import jax.numpy as jnp

from vdm_jax.types import Array

# Updates over which the usual norm is averaged, and before which none is known.
WINDOW = 100


def judge(norm: Array, usual: Array, updates: Array, factor: float) -> tuple[Array, Array]:
  """`(ordinary, usual norm afterwards)` of a step with a finite gradient norm.

  A norm is a spike where it exceeds `factor` times the usual one; it counts to the average as no more than that. So a
  spike hardly moves the average, and a level that stays is accepted: after n spikes in a row the average has grown
  (1 + (factor - 1) / WINDOW)^n times, with a factor of 10 fiftyfold after 46.

  Args:
    norm: float32 [], the global norm of the gradient.
    usual: float32 [], the average so far; 0: there is none.
    updates: int32 [], updates applied before this step. The first WINDOW are never spikes: norms fall at the start.
    factor: above 1; 0: no norm is a spike, and the average goes on.
  """
  known = (usual > 0) & (updates >= WINDOW) & (factor > 0)
  most = jnp.where(known, factor * usual, jnp.inf)
  rate = jnp.where(usual > 0, 1 / jnp.minimum(updates + 1, WINDOW), 1.0)
  return norm <= most, usual + rate * (jnp.minimum(norm, most) - usual)
