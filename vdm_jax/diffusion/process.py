"""Gaussian diffusion processes `z = alpha(logsnr) x + sigma(logsnr) eps`, with log-SNR as the only time variable.

Suffix `_t` is the current level, `_s` the next, cleaner one: `logsnr_s > logsnr_t`. Coefficients are float32 of shape
`[b]` (or `[]`) and broadcast from the left against `[b ...]`. So do those of shape `[b t]` against videos
`[b t h w c]`, whose frames then have noise levels of their own: everything here is elementwise in the level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array


class GaussianProcess(NamedTuple):
  """A process `q(z|x) = N(alpha(logsnr) x, sigma(logsnr)^2 I)`, where `logsnr = log(alpha^2 / sigma^2)`.

  Attributes:
    alpha, sigma: elementwise functions of logsnr, float32.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> straight = diffusion.GaussianProcess(  # flow matching: alpha + sigma = 1
  ...   alpha=lambda logsnr: 1 / (1 + jnp.exp(-0.5 * logsnr)), sigma=lambda logsnr: 1 / (1 + jnp.exp(0.5 * logsnr)))
  >>> float(straight.alpha(0.0)), float(straight.sigma(0.0))
  (0.5, 0.5)
  """

  alpha: Callable[[Array], Array]
  sigma: Callable[[Array], Array]


class Posterior(NamedTuple):
  """The posterior `q(z_s | z_t, x)`.

  Attributes:
    mean: its mean `[b ...]`.
    std_min: its standard deviation `[b]`, the lower bound of the reverse step's.
    std_max: the standard deviation `[b]` of q(z_t | z_s), the upper bound.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> z_t, x, t, s = jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.zeros(1), jnp.ones(1)
  >>> found = diffusion.posterior(diffusion.input_scaled(1.0), z_t, x, t, s)
  >>> [round(float(std[0]), 3) for std in (found.std_min, found.std_max)]
  [0.482, 0.795]
  """

  mean: Array
  std_min: Array
  std_max: Array


def variance_preserving() -> GaussianProcess:
  """Return VDM's process (section 2): `alpha^2 = sigmoid(logsnr)`, `sigma^2 = sigmoid(-logsnr)`.

  >>> from vdm_jax import diffusion
  >>> process = diffusion.variance_preserving()
  >>> round(float(process.alpha(0.0)) ** 2, 3), round(float(process.sigma(0.0)) ** 2, 3)
  (0.5, 0.5)
  """
  return GaussianProcess(
    alpha=lambda logsnr: jnp.exp(0.5 * jax.nn.log_sigmoid(_float32(logsnr))),
    sigma=lambda logsnr: jnp.exp(0.5 * jax.nn.log_sigmoid(-_float32(logsnr))),
  )


def input_scaled(sigma_in: float | Array) -> GaussianProcess:
  """Return Snap's process (section 3.2): `alpha = 1 / sigma_in`, `sigma = exp(-logsnr / 2) / sigma_in`.

  In the paper's notation x_sigma = x / sigma_in + sigma eps.

  Args:
    sigma_in: divides the signal. 1 is EDM (Karras et al. 2022); Snap uses 4 and 32. An array broadcasts against the
      levels: `[f]` against `[b f]` gives each frame its own (Snap Table 3 has 4 for videos beside 1 for images).

  Raises:
    ValueError: `sigma_in` is not positive.

  >>> from vdm_jax import diffusion
  >>> process = diffusion.input_scaled(4.0)
  >>> float(process.alpha(0.0)), float(process.sigma(0.0))
  (0.25, 0.25)
  """
  if not np.all(np.asarray(sigma_in) > 0):
    raise ValueError(f'sigma_in={sigma_in} must be positive: it divides the signal. EDM is sigma_in=1, Snap 4 and 32.')
  return GaussianProcess(
    alpha=lambda logsnr: jnp.full_like(_float32(logsnr), 1.0 / sigma_in),
    sigma=lambda logsnr: jnp.exp(-0.5 * _float32(logsnr)) / sigma_in,
  )


def diffuse(process: GaussianProcess, x: Array, eps: Array, logsnr: Array) -> Array:
  """Return `z = alpha x + sigma eps`, a draw from q(z|x) if `eps` is unit noise.

  Args:
    process: the diffusion process.
    x, eps: `[b ...]`.
    logsnr: `[b]`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> x, eps = jnp.ones((1, 2)), jnp.array([[-1.0, 1.0]])
  >>> diffusion.diffuse(diffusion.input_scaled(1.0), x, eps, jnp.zeros(1))
  Array([[0., 2.]], dtype=float32)
  """
  return expand_dims_like(process.alpha(logsnr), x) * x + expand_dims_like(process.sigma(logsnr), x) * eps


def predict_eps_from_x(process: GaussianProcess, z: Array, x: Array, logsnr: Array) -> Array:
  """Return the noise of `z` given `x`: `(z - alpha x) / sigma` (below VDM Eq. 6, where alpha is missing in print).

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> diffusion.predict_eps_from_x(diffusion.input_scaled(1.0), jnp.array([[0.0, 2.0]]), jnp.ones((1, 2)), jnp.zeros(1))
  Array([[-1.,  1.]], dtype=float32)
  """
  return (z - expand_dims_like(process.alpha(logsnr), z) * x) / expand_dims_like(process.sigma(logsnr), z)


def posterior(process: GaussianProcess, z_t: Array, x: Array, logsnr_t: Array, logsnr_s: Array) -> Posterior:
  """Return `q(z_s | z_t, x)` for `logsnr_s > logsnr_t` (VDM Eq. 3), for any alpha and sigma.

  mean = r (alpha_s/alpha_t) z_t + (1 - r) alpha_s x with r = exp(logsnr_t - logsnr_s);
  std_min^2 = (1 - r) sigma_s^2 and std_max^2 = (1 - r) sigma_t^2. `1 - r` is computed with `expm1`.

  Args:
    process: the diffusion process.
    z_t, x: `[b ...]`.
    logsnr_t, logsnr_s: `[b]`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> z_t, x, t, s = jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.zeros(1), jnp.ones(1)
  >>> diffusion.posterior(diffusion.input_scaled(1.0), z_t, x, t, s).mean
  Array([[1., 1.]], dtype=float32)
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
  """Return a coefficient of shape `[b]`, `[b t]` or `[]` with trailing axes, to broadcast against `like` `[b ...]`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> diffusion.expand_dims_like(jnp.zeros(2), jnp.zeros((2, 8, 16, 16, 3))).shape
  (2, 1, 1, 1, 1)
  """
  coefficient = jnp.asarray(coefficient)
  return coefficient.reshape(coefficient.shape + (1,) * (jnp.ndim(like) - coefficient.ndim))


def _float32(logsnr: Array) -> Array:
  return jnp.asarray(logsnr, jnp.float32)
