"""The sampler: one scan over a log-SNR grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.rng import fold_in
from vdm_jax.types import Array, Carry, Denoiser, Step

State = tuple[Array, Carry]


def sample(denoiser: Denoiser, step: Step, logsnrs: Array, z: Array, rng: Array, cond: Any) -> Array:
  """Takes noise `z` down the grid with `step`, then denoises once: N points are N - 1 steps and a last evaluation.

  Pure, and not jitted here: jit a function of (params, z, rng, cond) that builds the denoiser inside, and neither a new
  weight nor a new observation recompiles it.

  Args:
    denoiser: with all of its guidance.
    step: one of `vdm_jax.sampling`'s.
    logsnrs: an increasing grid `[N]`, N >= 2, such as `cosine_grid` or `karras_grid`.
    z: `sigma(logsnrs[0])` times unit noise, `[b ...]`.
    rng: one key, or a key per example `[b]`: then a video does not depend on the others of its batch.
    cond: what the denoiser is conditioned on.

  Returns:
    x `[b ...]`, float32: the guided denoiser's last estimate, which is the sigma -> 0 limit of ancestral steps
    (gamma < 1), of DDIM and of EDM's last Euler step.

  Raises ValueError if the values of `logsnrs` are known and do not increase.
  """
  if not isinstance(logsnrs, jax.core.Tracer) and not np.all(np.diff(logsnrs) > 0):
    raise ValueError('logsnrs must increase, from noise to data, as cosine_grid and karras_grid do.')
  logsnrs = jnp.asarray(logsnrs, jnp.float32)
  state = begin(denoiser, logsnrs, z, cond)
  state = advance(denoiser, step, logsnrs, state, rng, cond, 0, logsnrs.shape[0] - 1)
  return finish(denoiser, logsnrs, state, cond)


def begin(denoiser: Denoiser, logsnrs: Array, z: Array, cond: Any) -> State:
  """The state that `advance` starts from: z, and a carry of zeros in the shape of the denoiser's own."""
  z = jnp.asarray(z, jnp.float32)
  carry = jax.eval_shape(denoiser, z, _each(logsnrs[0], z), cond, None)[1]
  return z, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)


def advance(
  denoiser: Denoiser, step: Step, logsnrs: Array, state: State, rng: Array, cond: Any, start: int, stop: int
) -> State:
  """The steps start ... stop - 1 of `sample`, one `lax.scan`; with traced bounds, a while loop of the same steps.

  For callers that do something between parts of a sample, such as reporting progress: one program serves all parts.
  """

  def body(i: Array, state: State) -> State:
    z, carry = state
    return step(denoiser, z, _each(logsnrs[i], z), _each(logsnrs[i + 1], z), fold_in(rng, i), cond, carry)

  return jax.lax.fori_loop(start, stop, body, state)


def finish(denoiser: Denoiser, logsnrs: Array, state: State, cond: Any) -> Array:
  """The last denoise."""
  z, carry = state
  return denoiser(z, _each(logsnrs[-1], z), cond, carry)[0]


def _each(logsnr: Array, z: Array) -> Array:
  return jnp.broadcast_to(logsnr, z.shape[:1])
