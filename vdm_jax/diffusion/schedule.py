"""Noise schedules: grids of log-SNR for sampling, and distributions of log-SNR for training.

Grids increase in log-SNR (noise first) and include both ends; `cosine_levels` leaves out the clean one. Samplers of
training levels are functions `(rng, n) -> logsnr[n]`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array

LogsnrSampler = Callable[[Array, int], Array]


def cosine_logsnr(u: Array, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Array:
  """Return the cosine schedule `-2 log tan(a u + b)`, truncated to a range (VDM appendix A).

  Uniform u has the density `1 / (4 a cosh(logsnr / 2))`. For u >= 1/2 the angle is measured from pi/2, where float32
  would otherwise lose precision.

  Args:
    u: time in [0, 1], from clean to noise; of any shape.
    logsnr_min, logsnr_max: the range, reached at u = 1 and u = 0.

  Raises:
    ValueError: `logsnr_min` is not below `logsnr_max`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> diffusion.cosine_logsnr(jnp.array([0.0, 0.5, 1.0])).round(2) + 0
  Array([ 20.,   0., -20.], dtype=float32)
  """
  a, b = _cosine_angles(logsnr_min, logsnr_max)
  from_noise = float(np.arctan(np.exp(0.5 * logsnr_min)))
  is_clean = u < 0.5
  clean, noisy = jnp.where(is_clean, u, 0.5), jnp.where(is_clean, 0.5, 1.0 - u)
  return jnp.where(is_clean, -2.0 * jnp.log(jnp.tan(a * clean + b)), 2.0 * jnp.log(jnp.tan(a * noisy + from_noise)))


def cosine_grid(num_points: int, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Array:
  """Return an increasing grid of log-SNRs, uniform in the time u of the cosine schedule.

  Args:
    num_points: number of points, both ends included.
    logsnr_min, logsnr_max: the ends.

  Raises:
    ValueError: fewer than 2 points, or an invalid range.

  >>> from vdm_jax import diffusion
  >>> diffusion.cosine_grid(5).round(2) + 0
  Array([-20.  ,  -1.76,   0.  ,   1.76,  20.  ], dtype=float32)
  """
  _check_points(num_points)
  a, b = _cosine_angles(logsnr_min, logsnr_max)
  return jnp.asarray(-2.0 * np.log(np.tan(a * np.linspace(1.0, 0.0, num_points) + b)), jnp.float32)


def cosine_levels(num_levels: int, *, logsnr_min: float = -20.0, logsnr_max: float = 20.0) -> Array:
  """Return the increasing levels at u = 1, (N - 1) / N, ..., 1 / N, at which VDM's authors evaluate the denoiser.

  This is `cosine_grid(N + 1)` without its clean end u = 0, where x_hat is z and an evaluation is wasted. DDIM with the
  exact denoiser of unit normal data gives the standard deviation cos(pi / (2 N))^N; of N points with both ends the last
  adds nothing, so that they give cos(pi / (2 N - 2))^(N - 1).

  Args:
    num_levels: the number N of levels, 1 or more.
    logsnr_min, logsnr_max: values of the schedule at u = 1 and u = 0.

  Raises:
    ValueError: no level, or an invalid range.

  >>> from vdm_jax import diffusion
  >>> diffusion.cosine_levels(4).round(2) + 0
  Array([-20.  ,  -1.76,   0.  ,   1.76], dtype=float32)
  """
  if num_levels < 1:
    raise ValueError(f'num_levels={num_levels} (sampling.num_steps) must be at least 1.')
  return cosine_grid(num_levels + 1, logsnr_min=logsnr_min, logsnr_max=logsnr_max)[:-1]


def karras_grid(
  num_points: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0, sigma_in: float = 1.0
) -> Array:
  """Return EDM's increasing grid `-2 log(sigma_i sigma_in)`, where sigma_i^(1/rho) is uniform (EDM Eq. 5).

  Args:
    num_points: number of points, both ends included.
    sigma_min, sigma_max: range of sigma, that of Snap's `x / sigma_in + sigma eps`.
    rho: the larger, the more points at low noise; EDM and Snap use 7.
    sigma_in: input scaling of the process; 1 for EDM and for `variance_preserving`.

  Raises:
    ValueError: fewer than 2 points, `sigma_min` not below `sigma_max`, or an argument that is not positive.

  >>> from vdm_jax import diffusion
  >>> [round(float(level), 2) for level in diffusion.karras_grid(5, sigma_min=0.01, sigma_max=10.0)]
  [-4.61, -2.22, 0.66, 4.29, 9.21]
  """
  _check_points(num_points)
  if not (0 < sigma_min < sigma_max and rho > 0 and sigma_in > 0):
    raise ValueError(
      f'sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}, sigma_in={sigma_in} do not define a grid: '
      'choose 0 < sigma_min < sigma_max, rho > 0 and sigma_in > 0.'
    )
  sigma = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_points) ** rho
  return jnp.asarray(-2.0 * np.log(sigma * sigma_in), jnp.float32)


def cosine_sampler(
  *, logsnr_min: float = -20.0, logsnr_max: float = 20.0, shift: float = 0.0, stratified: bool = True
) -> LogsnrSampler:
  """Return a sampler of training log-SNRs: the cosine schedule at uniform u, shifted and clipped (VDM section 2).

  Args:
    logsnr_min, logsnr_max: the range.
    shift: added to every level, then clipped to the range. Negative values train more on noise; Hoogeboom et al. 2023
      use -2 log of the increase in resolution.
    stratified: spread the levels of a batch evenly, u_i = u + i / n modulo 1. Each level alone stays uniform in u.

  Raises:
    ValueError: `logsnr_min` is not below `logsnr_max`.

  >>> import jax
  >>> from vdm_jax import diffusion
  >>> diffusion.cosine_sampler(shift=-1.0)(jax.random.key(0), 64).shape
  (64,)
  """

  def sample(rng: Array, n: int) -> Array:
    u = jnp.mod(jax.random.uniform(rng) + jnp.arange(n) / n, 1.0) if stratified else jax.random.uniform(rng, (n,))
    logsnr = cosine_logsnr(u, logsnr_min=logsnr_min, logsnr_max=logsnr_max)
    return jnp.clip(logsnr + shift, logsnr_min, logsnr_max)

  _cosine_angles(logsnr_min, logsnr_max)
  return sample


def lognormal_sampler(*, mean: float = -1.2, std: float = 1.2, sigma_in: float = 1.0) -> LogsnrSampler:
  """Return a sampler of training log-SNRs `-2 log(sigma sigma_in)` with `log sigma ~ N(mean, std^2)` (EDM Table 1).

  Snap keeps EDM's values, the defaults.

  >>> import jax
  >>> from vdm_jax import diffusion
  >>> diffusion.lognormal_sampler(sigma_in=4.0)(jax.random.key(0), 64).shape
  (64,)
  """
  return lambda rng, n: -2.0 * (mean + std * jax.random.normal(rng, (n,)) + np.log(sigma_in))


def _cosine_angles(logsnr_min: float, logsnr_max: float) -> tuple[float, float]:
  """Return a and b of the schedule."""
  if not logsnr_min < logsnr_max:
    raise ValueError(f'logsnr_min={logsnr_min} must be below logsnr_max={logsnr_max}; the papers use -20 and 20.')
  b = float(np.arctan(np.exp(-0.5 * logsnr_max)))
  return float(np.arctan(np.exp(-0.5 * logsnr_min))) - b, b


def _check_points(num_points: int) -> None:
  if num_points < 2:
    raise ValueError(
      f'num_points={num_points} must be at least 2, as a grid includes both of its ends: raise sampling.num_steps.'
    )
