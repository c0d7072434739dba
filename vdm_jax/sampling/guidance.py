"""Guidance: functions from denoiser to denoiser.

Innermost first: classifier_free, reconstruction, clip or dynamic_threshold, replacement. Every weight is VDM Eq. 6's w,
0 for none; VDM's tables 5 and 6 print 1 + w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import GaussianProcess, expand_dims_like
from vdm_jax.types import Array, Carry, Denoiser, Weight


def classifier_free(denoiser: Denoiser, null: Callable[[Any], Any], weight: Weight) -> Denoiser:
  """`(1 + w) x_hat(z, c) - w x_hat(z, null(c))` (VDM Eq. 6, which is affine and so holds for x_hat as for eps).

  Both branches are one vmapped copy of the denoiser, and both read the carry of the conditional one. A field that only
  `null` fills counts as zeros on the conditional side. A Python 0 removes the second branch.

  Args:
    null: maps a condition to the null condition; for `Conditioning` it sets `drop`.
    weight: a number, or a function of logsnr `[b]`.
  """
  if not callable(weight) and isinstance(weight, int | float) and weight == 0:
    return denoiser

  def guided(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    both = jax.tree.map(_stack, cond, null(cond), is_leaf=lambda leaf: leaf is None)
    x_hat, carries = jax.vmap(denoiser, in_axes=(None, None, 0, None))(z, logsnr, both, carry)
    w = expand_dims_like(_at(weight, logsnr), z)
    return (1 + w) * x_hat[0] - w * x_hat[1], jax.tree.map(lambda leaf: leaf[0], carries)

  return guided


def oscillating(logsnrs: Array, high: float, low: float, start: int) -> Weight:
  """Guidance weights that alternate along a grid (Imagen Video section 3.5, which Snap section 3.6 uses).

  The first `start` levels of the increasing grid `logsnrs` have weight `high`, the next `low`, then `high`, and so on.
  The weight belongs to the noise level: Heun's second evaluation reads the next level's, and a level that churn has
  raised reads the nearest one's.
  """
  grid = jnp.asarray(logsnrs)

  def weight(logsnr: Array) -> Array:
    level = jnp.argmin(jnp.abs(jnp.asarray(logsnr)[..., None] - grid), axis=-1)
    return jnp.where((level < start) | ((level - start) % 2 == 1), high, low).astype(jnp.float32)

  return weight


def reconstruction(
  denoiser: Denoiser, process: GaussianProcess, measure: Callable[[Array], Array], observed: Array, weight: Weight
) -> Denoiser:
  """`x_hat - (w alpha / 2) grad_z |observed - measure(x_hat(z))|^2` (VDM Eqs. 7 and 8), for any process.

  The norm is a sum over the elements of each example. `alpha grad_z` is invariant to rescaling z, so a weight means the
  same under every process. For frames given (Eq. 7) put `replacement` outside: it overwrites the observed part. Raises
  ValueError where `observed` is larger than what is measured.

  Args:
    measure: a differentiable function of x `[b ...]` that leaves examples apart, such as a downsampling or the choice
      of frames.
    observed: its value for the wanted video, or what broadcasts to it.
    weight: w_r, a number or a function of logsnr `[b]`.
  """

  def guided(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    def misfit(z: Array) -> tuple[Array, tuple[Array, Carry]]:
      x_hat, new_carry = denoiser(z, logsnr, cond, carry)
      measured = measure(x_hat)
      _check_observed(observed, measured)
      return jnp.sum(jnp.square(observed - measured)), (x_hat, new_carry)

    gradient, (x_hat, new_carry) = jax.grad(misfit, has_aux=True)(z)
    scale = 0.5 * _at(weight, logsnr) * process.alpha(logsnr)
    return x_hat - expand_dims_like(scale, z) * gradient, new_carry

  return guided


def replacement(denoiser: Denoiser, observed: Array, mask: Array) -> Denoiser:
  """`where(mask, observed, x_hat)`: the replacement method in x_hat-space (VDM section 3.1).

  Under ancestral steps with gamma = 0, DDIM and Heun the observed part of z has exactly the marginals `q(z_s | x)`,
  though not the joint law over steps of independent draws; for gamma > 0 its variance is too large, and `redraw` is
  exact.
  """

  def replaced(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    return jnp.where(mask, observed, x_hat), carry

  return replaced


def clip(denoiser: Denoiser) -> Denoiser:
  """Clips x_hat to [-1, 1], as VDM's authors do in their image code."""

  def clipped(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    return jnp.clip(x_hat, -1.0, 1.0), carry

  return clipped


def dynamic_threshold(denoiser: Denoiser, percentile: float) -> Denoiser:
  """Clips x_hat to [-s, s] and divides by s, where s >= 1 is a percentile of |x_hat| per example (Imagen section 2.3).

  Raises ValueError unless `0 < percentile <= 100`; values in use are 95 to 99.5.
  """
  if not 0 < percentile <= 100:
    raise ValueError(f'percentile={percentile} must be in (0, 100]; values in use are 95 to 99.5.')

  def thresholded(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    s = jnp.percentile(jnp.abs(x_hat).reshape(x_hat.shape[0], -1), percentile, axis=1)
    s = expand_dims_like(jnp.maximum(s, 1.0), x_hat)
    return jnp.clip(x_hat, -s, s) / s, carry

  return thresholded


def _at(weight: Weight, logsnr: Array) -> Array:
  return jnp.asarray(weight(logsnr) if callable(weight) else weight, jnp.float32)


def _check_observed(observed: Array, measured: Array) -> None:
  shape, wanted = jnp.shape(observed), measured.shape
  if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape[::-1], wanted[::-1], strict=False)):
    raise ValueError(
      f'observed has shape {shape}, but measure(x_hat) {wanted}: give observed the shape of what is measured.'
    )


def _stack(conditional: Array | None, null: Array | None) -> Array | None:
  if conditional is None:
    return None if null is None else jnp.stack([jnp.zeros_like(null), jnp.asarray(null)])
  return jnp.stack([jnp.asarray(conditional), jnp.asarray(null)])
