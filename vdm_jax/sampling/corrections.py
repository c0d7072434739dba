"""Steps around another step: a Langevin correction, and a fresh draw of the observed part."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vdm_jax.diffusion import GaussianProcess, diffuse, expand_dims_like, predict_eps_from_x
from vdm_jax.rng import StepStream, fold_in, unit_noise
from vdm_jax.types import Array, Carry, Denoiser, Memory, Step


def langevin_corrected(step: Step, process: GaussianProcess, delta: float = 0.1) -> Step:
  """Return `step` followed by a Langevin correction at its new level (VDM Eq. 5).

  z <- z - (delta / 2) sigma_s eps_hat(z) + sqrt(delta) sigma_s eps', with fresh unit noise eps'. The correction
  evaluates the same denoiser, guidance included, once more.

  The memory is the inner step's and is passed on unchanged. Its estimates were made before the corrections, so
  differences between them also contain the change of x_hat that a correction causes. That change does not shrink with
  the step: a multistep method converges to the same law as a one-step method, but at first order.

  Args:
    step: the inner step.
    process: the diffusion process.
    delta: size of the correction; VDM uses 0.1.

  Raises:
    ValueError: `delta` is not positive.

  >>> from vdm_jax import diffusion, sampling
  >>> process = diffusion.variance_preserving()
  >>> step = sampling.langevin_corrected(sampling.ancestral(process), process, delta=0.1)
  """
  if not delta > 0:
    raise ValueError(f'delta={delta} must be positive; VDM uses 0.1. For no correction use the step itself.')

  def update(
    denoiser: Denoiser,
    z_t: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    rng: Array,
    cond: Any,
    carry: Carry,
    memory: Memory,
  ) -> tuple[Array, Carry, Memory]:
    step_rng, noise_rng = fold_in(rng, StepStream.INNER_STEP), fold_in(rng, StepStream.NOISE)
    z, carry, memory = step.update(denoiser, z_t, logsnr_t, logsnr_s, step_rng, cond, carry, memory)
    x_hat, carry = denoiser(z, logsnr_s, cond, carry)
    drift = -0.5 * delta * predict_eps_from_x(process, z, x_hat, logsnr_s)
    noise = delta**0.5 * unit_noise(noise_rng, z.shape)
    return z + expand_dims_like(process.sigma(logsnr_s), z) * (drift + noise), carry, memory

  return Step(step.init, update)


def redraw(step: Step, process: GaussianProcess, observed: Array, mask: Array) -> Step:
  """Return `step` followed by a fresh draw of z_s from q(z_s | observed) where `mask` holds.

  The replacement method of VDM section 3.1, exact for every gamma.

  The memory is the inner step's and is passed on unchanged: it holds estimates made with earlier draws of the observed
  part. For a multistep method those draws are noise in its differences; the noise of successive steps cancels in
  their sum, so the method converges, but at first order.

  Args:
    step: the inner step.
    process: the diffusion process.
    observed: the observed part of x; broadcasts to z `[b ...]`. Not read where `mask` is False.
    mask: True where x is observed; broadcasts to z.

  >>> import numpy as np
  >>> from vdm_jax import diffusion, sampling
  >>> process, frames = diffusion.variance_preserving(), np.zeros((1, 4, 8, 8, 3), np.float32)
  >>> first_two = (np.arange(4) < 2)[None, :, None, None, None]
  >>> step = sampling.redraw(sampling.ancestral(process, gamma=0.3), process, frames, first_two)
  """

  def update(
    denoiser: Denoiser,
    z_t: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    rng: Array,
    cond: Any,
    carry: Carry,
    memory: Memory,
  ) -> tuple[Array, Carry, Memory]:
    step_rng, noise_rng = fold_in(rng, StepStream.INNER_STEP), fold_in(rng, StepStream.NOISE)
    z, carry, memory = step.update(denoiser, z_t, logsnr_t, logsnr_s, step_rng, cond, carry, memory)
    x = jnp.broadcast_to(observed, z.shape)
    z = jnp.where(mask, diffuse(process, x, unit_noise(noise_rng, z.shape), logsnr_s), z)
    return z, carry, memory

  return Step(step.init, update)
