"""Parameterizations: what the network predicts, as coefficients shared by the denoiser and the training target.

    x_hat = skip z + out F(input z)        F_target = target_x x + target_eps eps        loss = weight |F - F_target|^2

Every parameterization is defined for any (alpha, sigma), so that it combines with every process, and recovers x exactly
from the exact F. Coefficients are elementwise functions of alpha and sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vdm_jax.types import Array


class Coefficients(NamedTuple):
  """Coefficients of a parameterization, each of the shape of alpha.

  Attributes:
    skip, out, input: of `x_hat = skip z + out F(input z)`.
    target_x, target_eps: of `F_target = target_x x + target_eps eps`.
    weight: of `loss = weight |F - F_target|^2`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> c = diffusion.predict_eps(jnp.float32(0.8), jnp.float32(0.6))
  >>> round(float(c.skip), 3), round(float(c.out), 3), float(c.target_x), float(c.target_eps)
  (1.25, -0.75, 0.0, 1.0)
  """

  skip: Array
  out: Array
  input: Array
  target_x: Array
  target_eps: Array
  weight: Array


Parameterization = Callable[[Array, Array], Coefficients]


def predict_eps(alpha: Array, sigma: Array) -> Coefficients:
  """Return the coefficients of F = eps (VDM section 2): x_hat = (z - sigma F) / alpha.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> float(diffusion.predict_eps(jnp.float32(1.0), jnp.float32(2.0)).out)
  -2.0
  """
  return _unweighted(alpha, sigma, skip=1 / alpha, out=-sigma / alpha, target_x=0.0, target_eps=1.0)


def predict_v(alpha: Array, sigma: Array) -> Coefficients:
  """Return the coefficients of F = v = alpha eps - sigma x (Salimans & Ho 2022; VDM section 2).

  x_hat = (alpha z - sigma F) / (alpha^2 + sigma^2), whose denominator is 1 for a variance-preserving process.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> c = diffusion.predict_v(jnp.float32(0.8), jnp.float32(0.6))
  >>> round(float(c.target_x), 1), round(float(c.target_eps), 1)
  (-0.6, 0.8)
  """
  power = alpha**2 + sigma**2
  return _unweighted(alpha, sigma, skip=alpha / power, out=-sigma / power, target_x=-sigma, target_eps=alpha)


def predict_x(alpha: Array, sigma: Array) -> Coefficients:
  """Return the coefficients of F = x: x_hat = F.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> c = diffusion.predict_x(jnp.float32(0.8), jnp.float32(0.6))
  >>> float(c.skip), float(c.out)
  (0.0, 1.0)
  """
  return _unweighted(alpha, sigma, skip=0.0, out=1.0, target_x=1.0, target_eps=0.0)


def edm(sigma_data: float) -> Parameterization:
  """Return EDM's preconditioning (Karras et al. 2022, Table 1) on z / alpha at noise sigma / alpha, loss weight 1 on F.

  Args:
    sigma_data: standard deviation of the data.

  Raises:
    ValueError: `sigma_data` is not positive.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> c = diffusion.edm(sigma_data=0.5)(jnp.float32(1.0), jnp.float32(0.5))
  >>> round(float(c.skip), 3)
  0.5
  """
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
  """Return Snap's preconditioning (Eqs. 24, 26, 27, 35, 36), with 1 / sigma_in read as alpha.

  F = (sigma_data^2 eps - sigma x) / (sigma_data sqrt(sigma^2 + sigma_data^2)), the negative of EDM's for alpha = 1. The
  weight w = lambda_w out^2 keeps EDM's weight 1/sigma_data^2 + 1/sigma^2 on |x_hat - x|^2. It differs from EDM at
  shifted noise.

  Args:
    sigma_data: standard deviation of the data.

  Raises:
    ValueError: `sigma_data` is not positive.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> c = diffusion.snap(sigma_data=1.0)(jnp.float32(0.25), jnp.float32(0.25))
  >>> round(float(c.weight), 2)
  11.56
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
  """Return coefficients with unit-variance input (for unit-variance data) and loss weight 1, broadcast to alpha."""
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
