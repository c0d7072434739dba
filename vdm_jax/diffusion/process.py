"""Gaussian diffusion processes `z = alpha(logsnr) x + sigma(logsnr) eps`, with log-SNR as the only time.

Suffix `_t` is now, `_s` is next and cleaner: `logsnr_s > logsnr_t`. Coefficients are float32 of shape `[b]` (or `[]`)
and broadcast from the left against `[b ...]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.types import Array


class GaussianProcess(NamedTuple):
  """`q(z|x) = N(alpha(logsnr) x, sigma(logsnr)^2 I)`, where `logsnr = log(alpha^2 / sigma^2)`.

  `alpha` and `sigma` are functions of logsnr, elementwise, float32.
  """

  alpha: Callable[[Array], Array]
  sigma: Callable[[Array], Array]


class Posterior(NamedTuple):
  """`q(z_s | z_t, x)`: its mean `[b ...]` and the two standard deviations `[b]` that bound the reverse step's."""

  mean: Array
  std_min: Array  # of q(z_s | z_t, x)
  std_max: Array  # of q(z_t | z_s)


def variance_preserving() -> GaussianProcess:
  """`alpha^2 = sigmoid(logsnr)`, `sigma^2 = sigmoid(-logsnr)`: the process of VDM (section 2)."""
  return GaussianProcess(
    alpha=lambda logsnr: jnp.exp(0.5 * jax.nn.log_sigmoid(_float32(logsnr))),
    sigma=lambda logsnr: jnp.exp(0.5 * jax.nn.log_sigmoid(-_float32(logsnr))),
  )


def input_scaled(sigma_in: float) -> GaussianProcess:
  """`alpha = 1 / sigma_in`, `sigma = exp(-logsnr / 2) / sigma_in`: Snap's x_sigma = x / sigma_in + sigma eps.

  Snap section 3.2; `sigma_in = 1` is EDM (Karras et al. 2022). Raises ValueError unless `sigma_in > 0`.
  """
  if not sigma_in > 0:
    raise ValueError(f'sigma_in={sigma_in} must be positive: it divides the signal. EDM is sigma_in=1, Snap 4 and 32.')
  return GaussianProcess(
    alpha=lambda logsnr: jnp.full_like(_float32(logsnr), 1.0 / sigma_in),
    sigma=lambda logsnr: jnp.exp(-0.5 * _float32(logsnr)) / sigma_in,
  )


def diffuse(process: GaussianProcess, x: Array, eps: Array, logsnr: Array) -> Array:
  """A draw from `q(z|x)` given its unit noise `eps`: `alpha x + sigma eps`; shapes `[b ...]` and `[b]`."""
  return expand_dims_like(process.alpha(logsnr), x) * x + expand_dims_like(process.sigma(logsnr), x) * eps


def predict_eps_from_x(process: GaussianProcess, z: Array, x: Array, logsnr: Array) -> Array:
  """The noise that `x` leaves in `z`: `(z - alpha x) / sigma` (VDM below Eq. 6, where alpha is missing in print)."""
  return (z - expand_dims_like(process.alpha(logsnr), z) * x) / expand_dims_like(process.sigma(logsnr), z)


def posterior(process: GaussianProcess, z_t: Array, x: Array, logsnr_t: Array, logsnr_s: Array) -> Posterior:
  """`q(z_s | z_t, x)` for `logsnr_s > logsnr_t` (VDM Eq. 3), for any alpha and sigma.

  mean = r (alpha_s/alpha_t) z_t + (1 - r) alpha_s x with r = exp(logsnr_t - logsnr_s);
  std_min^2 = (1 - r) sigma_s^2 and std_max^2 = (1 - r) sigma_t^2. `1 - r` is computed with `expm1`.
  """
  gap = _float32(logsnr_t) - _float32(logsnr_s)
  one_minus_r = -jnp.expm1(gap)
  alpha_s = process.alpha(logsnr_s)
  keep = jnp.exp(gap) * alpha_s / process.alpha(logsnr_t)
  std = jnp.sqrt(one_minus_r)
  return Posterior(
    mean=expand_dims_like(keep, z_t) * z_t + expand_dims_like(one_minus_r * alpha_s, z_t) * x,
    std_min=std * process.sigma(logsnr_s),
    std_max=std * process.sigma(logsnr_t),
  )


def expand_dims_like(coefficient: Array, like: Array) -> Array:
  """Appends axes to a coefficient of shape `[b]` (or `[]`) so that it broadcasts against `like` `[b ...]`."""
  coefficient = jnp.asarray(coefficient)
  return coefficient.reshape(coefficient.shape + (1,) * (jnp.ndim(like) - coefficient.ndim))


def _float32(logsnr: Array) -> Array:
  return jnp.asarray(logsnr, jnp.float32)
