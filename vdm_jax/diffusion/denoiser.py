"""From a network that predicts F to a denoiser that estimates x."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from vdm_jax.diffusion.parameterization import Parameterization
from vdm_jax.diffusion.process import GaussianProcess, expand_dims_like
from vdm_jax.types import Array, Carry, Denoiser, Network


def precondition(network: Network, process: GaussianProcess, parameterization: Parameterization) -> Denoiser:
  """`x_hat = skip z + out F(input z)` (EDM Eq. 7; Snap Eq. 2), in float32 whatever the network computes in."""

  def denoiser(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    z = jnp.asarray(z, jnp.float32)
    c = parameterization(process.alpha(logsnr), process.sigma(logsnr))
    output, carry = network(expand_dims_like(c.input, z) * z, logsnr, cond, carry)
    return expand_dims_like(c.skip, z) * z + expand_dims_like(c.out, z) * output.astype(jnp.float32), carry

  return denoiser
