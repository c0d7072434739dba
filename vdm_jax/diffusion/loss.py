"""The denoising loss, in the space of the network's output."""

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
  sample_logsnr: LogsnrSampler | None = None,
  logsnr: Array | None = None,
  self_condition_rate: float = 0.0,
  weight: float | Array | Callable[[Array], Array] = 1.0,
) -> tuple[Array, dict[str, Array]]:
  """Return the loss `E[w |F(input z) - F_target|^2]`, a mean over elements (VDM Eq. 2; Snap Eq. 3), in float32.

  The noise levels are given as exactly one of `sample_logsnr` and `logsnr`.

  Args:
    network: `(x, logsnr[b], cond, carry) -> (F, carry)` with parameters and dropout key bound. With self-conditioning
      both passes use the same dropout key.
    x: clean videos `[b t h w c]` in [-1, 1].
    cond: conditions, passed to the network.
    rng: one key, or a key per example `[b]`, in which case the noise of an example does not depend on its batch.
    process: the diffusion process of z.
    parameterization: defines F_target; its own loss weight always applies.
    sample_logsnr: draws the noise levels, `(rng, b) -> logsnr[b]`.
    logsnr: the noise levels `[b]`, or `[b t]` for a level per frame (`frame_levels`). Equal levels of all frames give
      bitwise the loss of that one level, with a network for which they are the same.
    self_condition_rate: probability, per example, that the network receives the carry of a first pass without gradient
      (Snap section 3.4 uses 0.9); 0 skips the first pass.
    weight: extra factor: a number, a function of logsnr that returns an array like it, or an array that broadcasts to
      x. An array is a loss mask: the mean is over its non-zero entries.

  Returns:
    The loss `[]`, and `{'per_example': [b], 'logsnr': [b]}`; for levels `[b t]` also `'per_frame': [b t]`.

  Raises:
    ValueError: `self_condition_rate` is out of range, or not exactly one of `sample_logsnr` and `logsnr` is given.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> zeros = lambda x, logsnr, cond, carry: (jnp.zeros_like(x), carry)
  >>> x = jnp.zeros((2, 4, 8, 8, 3))
  >>> loss, info = diffusion.denoising_loss(
  ...   zeros, x, None, jax.random.key(0), process=diffusion.variance_preserving(),
  ...   parameterization=diffusion.predict_eps, logsnr=jnp.array([-1.0, 1.0]))
  >>> 0.8 < loss < 1.2, info['per_example'].shape  # E |0 - eps|^2 = 1
  (Array(True, dtype=bool), (2,))
  """
  if not 0 <= self_condition_rate <= 1:
    raise ValueError(
      f'self_condition_rate={self_condition_rate} must be in [0, 1]: it is a probability. Snap uses 0.9.'
    )
  rng = as_keys(rng)
  keys = rng if rng.ndim else jax.random.split(rng, x.shape[0])
  logsnr = _noise_levels(sample_logsnr, logsnr, keys[0], x.shape)
  rule = {'process': process, 'parameterization': parameterization, 'self_condition_rate': self_condition_rate}
  error = _error(network, x, cond, keys, logsnr, **rule)
  loss, per_example = _weighted_mean(error, logsnr, weight)
  info = {'per_example': per_example, 'logsnr': logsnr}
  if logsnr.ndim == 1:
    return loss, info
  return loss, info | {'per_frame': _weighted_mean(error, logsnr, weight, lead=2)[1]}


def _noise_levels(
  sample_logsnr: LogsnrSampler | None, logsnr: Array | None, key: Array, shape: tuple[int, ...]
) -> Array:
  """Return the noise levels, `[b]` if they are drawn, `[b]` or `[b t]` as they are given."""
  if (sample_logsnr is None) == (logsnr is None):
    raise ValueError('sample_logsnr and logsnr: give exactly one, a function (rng, b) -> logsnr[b] or the levels [b].')
  if logsnr is None:
    return sample_logsnr(fold_in(key, ExampleStream.LOGSNR), shape[0])
  if jnp.shape(logsnr) not in (shape[:1], shape[:2]):
    raise ValueError(
      f'logsnr has shape {jnp.shape(logsnr)}, but x {shape}: give one level per example [b], or per frame [b t].'
    )
  return jnp.asarray(logsnr)


def _error(
  network: Network,
  x: Array,
  cond: Any,
  keys: Array,
  logsnr: Array,
  *,
  process: GaussianProcess,
  parameterization: Parameterization,
  self_condition_rate: float,
) -> Array:
  """Return the parameterization's weight times |F - F_target|^2, of the shape of x."""
  eps_keys, coin_keys = fold_in(keys, ExampleStream.NOISE), fold_in(keys, ExampleStream.SELF_CONDITIONING)

  x = jnp.asarray(x, jnp.float32)
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
  return expand_dims_like(c.weight, x) * jnp.square(output.astype(jnp.float32) - target)


def _weighted_mean(error: Array, logsnr: Array, weight: Any, lead: int = 1) -> tuple[Array, Array]:
  """Return the mean of `weight * error` over all elements, and over those of each example, or frame for `lead=2`."""
  axes = tuple(range(lead, error.ndim))
  if callable(weight) or jnp.ndim(weight) == 0:
    factor = expand_dims_like(weight(logsnr), error) if callable(weight) else weight
    per_example = jnp.mean(factor * error, axes)
    return jnp.mean(per_example), per_example
  weight = jnp.broadcast_to(weight, error.shape)
  total, count = jnp.sum(weight * error, axes), jnp.sum(weight != 0, axes)
  return jnp.sum(total) / jnp.maximum(jnp.sum(count), 1), total / jnp.maximum(count, 1)
