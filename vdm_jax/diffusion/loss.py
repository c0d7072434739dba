"""The denoising objective, in the network's own output space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.parameterization import Parameterization
from vdm_jax.diffusion.process import GaussianProcess, diffuse, expand_dims_like
from vdm_jax.diffusion.schedule import LogsnrSampler
from vdm_jax.rng import ExampleStream, as_keys, fold_in, unit_noise
from vdm_jax.types import Array, Network


def denoising_loss(
  network: Network,
  x: Array,
  cond: Any,
  rng: Array,
  *,
  process: GaussianProcess,
  parameterization: Parameterization,
  sample_logsnr: LogsnrSampler,
  self_condition_rate: float = 0.0,
  weight: float | Array | Callable[[Array], Array] = 1.0,
) -> tuple[Array, dict[str, Array]]:
  """`E[w |F(input z) - F_target|^2]`, the mean over elements (VDM Eq. 2; Snap Eq. 3), in float32.

  Args:
    network: `(x, logsnr[b], cond, carry) -> (F, carry)` with parameters and dropout key bound; with self-conditioning
      both of its passes see the same key.
    x: clean videos `[b t h w c]` in [-1, 1].
    cond: what the network is conditioned on.
    rng: one key, or a key per example `[b]`: then a batch cut into pieces draws the noise of the whole.
    process, parameterization: define z and F_target; the parameterization's own weight always applies.
    sample_logsnr: `(rng, b) -> logsnr[b]`.
    self_condition_rate: the probability, per example, that the network is given the carry of a first pass without
      gradient (Snap section 3.4; 0.9); 0 removes that pass.
    weight: an extra factor: a number, a function of logsnr returning `[b]`, or an array that broadcasts to x, a loss
      mask, in which case the mean is over its non-zero entries.

  Returns:
    the loss `[]`, and `{'per_example': [b], 'logsnr': [b]}`.

  Raises ValueError unless `self_condition_rate` is in [0, 1].
  """
  if not 0 <= self_condition_rate <= 1:
    raise ValueError(
      f'self_condition_rate={self_condition_rate} must be in [0, 1]: it is a probability. Snap uses 0.9.'
    )
  batch = x.shape[0]
  rng = as_keys(rng)
  keys = rng if rng.ndim else jax.random.split(rng, batch)
  logsnr_key = fold_in(keys[0], ExampleStream.LOGSNR)
  eps_keys, coin_keys = fold_in(keys, ExampleStream.NOISE), fold_in(keys, ExampleStream.SELF_CONDITIONING)

  x = jnp.asarray(x, jnp.float32)
  logsnr = sample_logsnr(logsnr_key, batch)
  eps = unit_noise(eps_keys, x.shape)
  c = parameterization(process.alpha(logsnr), process.sigma(logsnr))
  network_input = expand_dims_like(c.input, x) * diffuse(process, x, eps, logsnr)

  carry = None
  if self_condition_rate:
    coins = jax.vmap(lambda key: jax.random.bernoulli(key, self_condition_rate))(coin_keys)
    _, first = network(network_input, logsnr, cond, None)
    carry = jax.tree.map(lambda a: jax.lax.stop_gradient(jnp.where(expand_dims_like(coins, a), a, 0)), first)

  output, _ = network(network_input, logsnr, cond, carry)
  target = expand_dims_like(c.target_x, x) * x + expand_dims_like(c.target_eps, x) * eps
  error = expand_dims_like(c.weight, x) * jnp.square(output.astype(jnp.float32) - target)

  loss, per_example = _weighted_mean(error, logsnr, weight)
  return loss, {'per_example': per_example, 'logsnr': logsnr}


def _weighted_mean(error: Array, logsnr: Array, weight: Any) -> tuple[Array, Array]:
  """The mean of `weight * error` over all elements, and over each example's."""
  axes = tuple(range(1, error.ndim))
  if callable(weight) or jnp.ndim(weight) == 0:
    factor = expand_dims_like(weight(logsnr), error) if callable(weight) else weight
    per_example = jnp.mean(factor * error, axes)
    return jnp.mean(per_example), per_example
  weight = jnp.broadcast_to(weight, error.shape)
  total, count = jnp.sum(weight * error, axes), jnp.sum(weight != 0, axes)
  return jnp.sum(total) / jnp.maximum(jnp.sum(count), 1), total / jnp.maximum(count, 1)
