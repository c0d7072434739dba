"""The sampler: one scan over a log-SNR grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import branch
from vdm_jax.types import Array, Carry, Denoiser, Step


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
  logsnrs, z = jnp.asarray(logsnrs, jnp.float32), jnp.asarray(z, jnp.float32)

  def at(logsnr: Array) -> Array:
    return jnp.broadcast_to(logsnr, z.shape[:1])

  def body(state: tuple[Array, Carry], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Array, Carry], None]:
    z, carry = state
    logsnr_t, logsnr_s, i = inputs
    return step(denoiser, z, at(logsnr_t), at(logsnr_s), branch(rng, i), cond, carry), None

  carry_shape = jax.eval_shape(denoiser, z, at(logsnrs[0]), cond, None)[1]
  carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry_shape)
  (z, carry), _ = jax.lax.scan(body, (z, carry), (logsnrs[:-1], logsnrs[1:], jnp.arange(logsnrs.shape[0] - 1)))
  return denoiser(z, at(logsnrs[-1]), cond, carry)[0]
