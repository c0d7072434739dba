"""Where on the log-SNR axis to train and to sample.

Grids increase in log-SNR (noise first) and include both ends. Samplers are functions `(rng, n) -> logsnr[n]`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array

LogsnrSampler = Callable[[Array, int], Array]


def cosine_logsnr(u: Array, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Array:
  """`-2 log tan(a u + b)`, u in [0, 1] from clean to noise: the cosine schedule cut to a range (VDM appendix A).

  Uniform u has the density `1 / (4 a cosh(logsnr / 2))`. Beyond u = 1/2 the angle is measured from pi/2, where float32
  would otherwise lose it. Raises ValueError unless `logsnr_min < logsnr_max`.
  """
  a, b = _cosine_angles(logsnr_min, logsnr_max)
  from_noise = float(np.arctan(np.exp(0.5 * logsnr_min)))
  is_clean = u < 0.5
  clean, noisy = jnp.where(is_clean, u, 0.5), jnp.where(is_clean, 0.5, 1.0 - u)
  return jnp.where(is_clean, -2.0 * jnp.log(jnp.tan(a * clean + b)), 2.0 * jnp.log(jnp.tan(a * noisy + from_noise)))


def cosine_grid(num_points: int, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Array:
  """`num_points` log-SNRs, uniform in the cosine schedule's u from 1 to 0, both ends included; increasing."""
  _check_points(num_points)
  a, b = _cosine_angles(logsnr_min, logsnr_max)
  return jnp.asarray(-2.0 * np.log(np.tan(a * np.linspace(1.0, 0.0, num_points) + b)), jnp.float32)


def karras_grid(
  num_points: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0, sigma_in: float = 1.0
) -> Array:
  """`-2 log(sigma_i sigma_in)` for sigma_i^(1/rho) uniform from sigma_max to sigma_min; increasing (EDM Eq. 5).

  sigma is that of Snap's `x / sigma_in + sigma eps`. Raises ValueError unless `0 < sigma_min < sigma_max` and the
  other arguments are positive.
  """
  _check_points(num_points)
  if not (0 < sigma_min < sigma_max and rho > 0 and sigma_in > 0):
    raise ValueError(
      f'sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}, sigma_in={sigma_in} give no grid: '
      'choose 0 < sigma_min < sigma_max, rho > 0 and sigma_in > 0.'
    )
  sigma = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_points) ** rho
  return jnp.asarray(-2.0 * np.log(sigma * sigma_in), jnp.float32)


def cosine_sampler(
  *, logsnr_min: float = -20.0, logsnr_max: float = 20.0, shift: float = 0.0, stratified: bool = True
) -> LogsnrSampler:
  """Training log-SNRs: the cosine schedule at uniform u, plus `shift`, clipped to the range (VDM section 2).

  `stratified` spreads the batch evenly: one uniform draw, plus i / n, modulo 1; each example alone stays uniform.
  A negative `shift` trains more on noise (by 2 log of a factor in resolution: Hoogeboom et al. 2023).
  """

  def sample(rng: Array, n: int) -> Array:
    u = jnp.mod(jax.random.uniform(rng) + jnp.arange(n) / n, 1.0) if stratified else jax.random.uniform(rng, (n,))
    logsnr = cosine_logsnr(u, logsnr_min=logsnr_min, logsnr_max=logsnr_max)
    return jnp.clip(logsnr + shift, logsnr_min, logsnr_max)

  _cosine_angles(logsnr_min, logsnr_max)
  return sample


def lognormal_sampler(*, mean: float = -1.2, std: float = 1.2, sigma_in: float = 1.0) -> LogsnrSampler:
  """Training log-SNRs `-2 log(sigma sigma_in)` with `log sigma ~ N(mean, std^2)` (EDM Table 1; Snap keeps it)."""
  return lambda rng, n: -2.0 * (mean + std * jax.random.normal(rng, (n,)) + np.log(sigma_in))


def _cosine_angles(logsnr_min: float, logsnr_max: float) -> tuple[float, float]:
  if not logsnr_min < logsnr_max:
    raise ValueError(f'logsnr_min={logsnr_min} must be below logsnr_max={logsnr_max}; the papers use -20 and 20.')
  b = float(np.arctan(np.exp(-0.5 * logsnr_max)))
  return float(np.arctan(np.exp(-0.5 * logsnr_min))) - b, b


def _check_points(num_points: int) -> None:
  if num_points < 2:
    raise ValueError(f'num_points={num_points}: a grid holds both of its ends, so it needs at least 2 points.')
