"""Steps of the reverse process: from `z_t` at `logsnr_t` to the cleaner `z_s` at `logsnr_s`.

All hold for any Gaussian process. A step is `(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry) -> (z_s, carry)`;
`rng` is one key, or a key per example.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from vdm_jax.diffusion import GaussianProcess, diffuse, expand_dims_like, posterior, predict_eps_from_x
from vdm_jax.rng import StepStream, fold_in, unit_noise
from vdm_jax.types import Array, Carry, Denoiser, Step


def ancestral(process: GaussianProcess, gamma: float = 0.0) -> Step:
  """A draw of mean E[z_s | z_t, x_hat] and variance std_min^(2(1-gamma)) std_max^(2 gamma) (VDM Eq. 4).

  `gamma` in [0, 1] interpolates the log-variance between q(z_s|z_t,x)'s and q(z_t|z_s)'s; else ValueError. Only
  gamma = 0 means the same in every process: the bounds' ratio (sigma_t / sigma_s)^2 depends on the scale of z.
  """
  if not 0 <= gamma <= 1:
    raise ValueError(f'gamma={gamma} must be in [0, 1]: it interpolates between two variances. VDM uses 0 to 0.3.')

  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
    reverse = posterior(process, z_t, x_hat, logsnr_t, logsnr_s)
    std = reverse.std_min ** (1 - gamma) * reverse.std_max**gamma
    return reverse.mean + expand_dims_like(std, z_t) * unit_noise(rng, z_t.shape), carry

  return step


def ddim(process: GaussianProcess) -> Step:
  """z_s = alpha_s x_hat + sigma_s eps_hat: first order, deterministic (Song et al. 2021 with eta = 0)."""

  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
    return diffuse(process, x_hat, predict_eps_from_x(process, z_t, x_hat, logsnr_t), logsnr_s), carry

  return step


def heun(
  process: GaussianProcess,
  churn: float = 0.0,
  churn_noise: float = 1.0,
  churn_range: tuple[float, float] = (0.0, math.inf),
) -> Step:
  """EDM's second-order step (Karras et al. 2022, Algorithms 1 and 2) in y = z / alpha and its noise sigma / alpha.

  For `input_scaled` this is Snap's sampler (section 3.2), where x_hat is divided by sigma_in: y is sigma_in times the
  state.

  Args:
    churn: the share by which the noise level is first raised with fresh noise, EDM's S_churn / num_steps; in
      [0, sqrt(2) - 1], else ValueError.
    churn_noise: standard deviation of that noise, EDM's S_noise.
    churn_range: the noise levels sigma / alpha at which it is added, both included: EDM's S_tmin and S_tmax.
  """
  if not 0 <= churn <= 2**0.5 - 1:
    raise ValueError(f'churn={churn} must be in [0, 0.4142]: EDM caps S_churn / num_steps at sqrt(2) - 1.')

  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    y, noise_s = z_t / expand_dims_like(process.alpha(logsnr_t), z_t), jnp.exp(-0.5 * logsnr_s)
    if churn:
      noise = jnp.exp(-0.5 * logsnr_t)
      share = jnp.where((noise >= churn_range[0]) & (noise <= churn_range[1]), churn, 0.0)
      raised = noise * churn_noise * jnp.sqrt(share * (2 + share))
      y = y + expand_dims_like(raised, y) * unit_noise(rng, y.shape)
      logsnr_t = logsnr_t - 2 * jnp.log1p(share)
    noise_t = jnp.exp(-0.5 * logsnr_t)

    def slope(y: Array, logsnr: Array, noise: Array, carry: Carry) -> tuple[Array, Carry]:
      x_hat, carry = denoiser(expand_dims_like(process.alpha(logsnr), y) * y, logsnr, cond, carry)
      return (y - x_hat) / expand_dims_like(noise, y), carry

    length = expand_dims_like(noise_s - noise_t, y)
    first, carry = slope(y, logsnr_t, noise_t, carry)
    second, carry = slope(y + length * first, logsnr_s, noise_s, carry)
    y = y + length * (first + second) / 2
    return expand_dims_like(process.alpha(logsnr_s), y) * y, carry

  return step


def langevin_corrected(step: Step, process: GaussianProcess, delta: float = 0.1) -> Step:
  """After `step`, z <- z - (delta / 2) sigma_s eps_hat(z) + sqrt(delta) sigma_s eps' at the new level (VDM Eq. 5).

  It evaluates the same denoiser, guidance included, once more. Raises ValueError unless `delta > 0`.
  """
  if not delta > 0:
    raise ValueError(f'delta={delta} must be positive; VDM uses 0.1. For no correction leave the step as it is.')

  def corrected(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    step_rng, noise_rng = fold_in(rng, StepStream.INNER_STEP), fold_in(rng, StepStream.NOISE)
    z, carry = step(denoiser, z_t, logsnr_t, logsnr_s, step_rng, cond, carry)
    x_hat, carry = denoiser(z, logsnr_s, cond, carry)
    drift = -0.5 * delta * predict_eps_from_x(process, z, x_hat, logsnr_s)
    noise = delta**0.5 * unit_noise(noise_rng, z.shape)
    return z + expand_dims_like(process.sigma(logsnr_s), z) * (drift + noise), carry

  return corrected


def redraw(step: Step, process: GaussianProcess, observed: Array, mask: Array) -> Step:
  """After `step`, draws z_s afresh from q(z_s | observed) where `mask` holds.

  VDM section 3.1's replacement method, exact for every gamma. `observed` and `mask` broadcast to z `[b ...]`.
  """

  def redrawn(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    step_rng, noise_rng = fold_in(rng, StepStream.INNER_STEP), fold_in(rng, StepStream.NOISE)
    z, carry = step(denoiser, z_t, logsnr_t, logsnr_s, step_rng, cond, carry)
    x = jnp.broadcast_to(observed, z.shape)
    return jnp.where(mask, diffuse(process, x, unit_noise(noise_rng, z.shape), logsnr_s), z), carry

  return redrawn
