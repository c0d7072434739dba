"""What the network predicts: one record of coefficients serves the denoiser and its training target alike.

    x_hat = skip z + out F(input z)        F_target = target_x x + target_eps eps        loss = weight |F - F_target|^2

Every parameterization is defined for any (alpha, sigma), so that it pairs with every process, and recovers x exactly
from the exact F. Coefficients are elementwise functions of alpha and sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vdm_jax.types import Array


class Coefficients(NamedTuple):
  """The five coefficients of a parameterization and the weight of its loss; each has the shape of alpha."""

  skip: Array
  out: Array
  input: Array
  target_x: Array
  target_eps: Array
  weight: Array


Parameterization = Callable[[Array, Array], Coefficients]


def predict_eps(alpha: Array, sigma: Array) -> Coefficients:
  """F = eps (VDM section 2): x_hat = (z - sigma F) / alpha."""
  return _unweighted(alpha, sigma, skip=1 / alpha, out=-sigma / alpha, target_x=0.0, target_eps=1.0)


def predict_v(alpha: Array, sigma: Array) -> Coefficients:
  """F = v = alpha eps - sigma x (Salimans & Ho 2022; VDM section 2).

  x_hat = (alpha z - sigma F) / (alpha^2 + sigma^2), whose denominator is 1 where the process preserves variance.
  """
  power = alpha**2 + sigma**2
  return _unweighted(alpha, sigma, skip=alpha / power, out=-sigma / power, target_x=-sigma, target_eps=alpha)


def predict_x(alpha: Array, sigma: Array) -> Coefficients:
  """F = x: x_hat = F."""
  return _unweighted(alpha, sigma, skip=0.0, out=1.0, target_x=1.0, target_eps=0.0)


def edm(sigma_data: float) -> Parameterization:
  """EDM's preconditioning (Karras et al. 2022, Table 1) on z / alpha at noise sigma / alpha; loss weight 1 on F."""
  _check_sigma_data(sigma_data)

  def coefficients(alpha: Array, sigma: Array) -> Coefficients:
    noise = sigma / alpha
    norm = jnp.sqrt(noise**2 + sigma_data**2)
    return Coefficients(
      skip=sigma_data**2 / norm**2 / alpha,
      out=noise * sigma_data / norm,
      input=1 / norm / alpha,
      target_x=noise / (sigma_data * norm),
      target_eps=-sigma_data / norm,
      weight=jnp.ones_like(alpha),
    )

  return coefficients


def snap(sigma_data: float) -> Parameterization:
  """Snap's preconditioning (Eqs. 24, 26, 27, 35, 36), with 1 / sigma_in read as alpha.

  F = (sigma_data^2 eps - sigma x) / (sigma_data sqrt(sigma^2 + sigma_data^2)), the negative of EDM's for alpha = 1;
  the weight w = lambda_w out^2 keeps EDM's weight 1/sigma_data^2 + 1/sigma^2 on |x_hat - x|^2. It is not EDM at shifted
  noise.
  """
  _check_sigma_data(sigma_data)

  def coefficients(alpha: Array, sigma: Array) -> Coefficients:
    norm = jnp.sqrt(sigma**2 + sigma_data**2)
    mixed = sigma**2 + alpha * sigma_data**2
    return Coefficients(
      skip=sigma_data**2 / mixed,
      out=-sigma * sigma_data * norm / mixed,
      input=1 / jnp.sqrt(sigma**2 + (sigma_data * alpha) ** 2),
      target_x=-sigma / (sigma_data * norm),
      target_eps=sigma_data / norm,
      weight=(norm**2 / mixed) ** 2,
    )

  return coefficients


def _unweighted(alpha: Array, sigma: Array, **coefficients: Array | float) -> Coefficients:
  """Unit-variance input for unit-variance data, loss weight 1, and numbers spread to alpha's shape."""
  return Coefficients(
    input=1 / jnp.sqrt(alpha**2 + sigma**2),
    weight=jnp.ones_like(alpha),
    **{name: jnp.broadcast_to(value, jnp.shape(alpha)) for name, value in coefficients.items()},
  )


def _check_sigma_data(sigma_data: float) -> None:
  if not sigma_data > 0:
    raise ValueError(
      f'sigma_data={sigma_data} must be positive: it is the standard deviation of the data (EDM 0.5, Snap 1).'
    )
