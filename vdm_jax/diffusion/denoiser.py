"""The denoiser: an estimate of x from a network that predicts F."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vdm_jax.diffusion.parameterization import Parameterization
from vdm_jax.diffusion.process import GaussianProcess, expand_dims_like
from vdm_jax.types import Array, Carry, Denoiser, Network


def precondition(network: Network, process: GaussianProcess, parameterization: Parameterization) -> Denoiser:
  """Return the denoiser `x_hat = skip z + out F(input z)` (EDM Eq. 7; Snap Eq. 2).

  x_hat is float32 whatever the network computes in.

  Args:
    network: `(x, logsnr, cond, carry) -> (F, carry)` with its parameters bound. The levels are those that the denoiser
      is given: `[b]`, or `[b t]` for a network that takes a level per frame.
    process: the diffusion process of z.
    parameterization: what F is.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> zeros = lambda x, logsnr, cond, carry: (jnp.zeros_like(x), carry)
  >>> denoiser = diffusion.precondition(zeros, diffusion.variance_preserving(), diffusion.predict_v)
  >>> x_hat, carry = denoiser(jnp.ones((2, 3)), jnp.array([-20.0, 20.0]), None, None)
  >>> x_hat.round(3)  # alpha z for v = 0
  Array([[0., 0., 0.],
         [1., 1., 1.]], dtype=float32)
  """

  def denoiser(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    z = jnp.asarray(z, jnp.float32)
    c = parameterization(process.alpha(logsnr), process.sigma(logsnr))
    output, carry = network(expand_dims_like(c.input, z) * z, logsnr, cond, carry)
    return expand_dims_like(c.skip, z) * z + expand_dims_like(c.out, z) * output.astype(jnp.float32), carry

  return denoiser
