"""Guidance: functions from denoiser to denoiser.

Order of application, innermost first: classifier_free, given_frames or reconstruction, clip or dynamic_threshold,
replacement. Every
weight is the w of VDM Eq. 6, where 0 means no guidance; the tables 5 and 6 of the paper print 1 + w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion import CLEAN_LOGSNR, GaussianProcess, expand_dims_like
from vdm_jax.types import Array, Carry, Denoiser, Weight


def classifier_free(denoiser: Denoiser, null: Callable[[Any], Any], weight: Weight) -> Denoiser:
  """Return the denoiser `(1 + w) x_hat(z, c) - w x_hat(z, null(c))` (VDM Eq. 6, which holds for x_hat as for eps).

  The two branches are one vmapped copy of the denoiser. Both read the carry of the conditional branch. A field that
  only `null` fills is zeros in the conditional branch. A weight that is a Python 0 removes the second branch.

  Args:
    denoiser: the conditional denoiser.
    null: maps a condition to the null condition; for `Conditioning` it sets `drop`.
    weight: a number, or a function of logsnr `[b]`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import sampling
  >>> denoiser = lambda z, logsnr, cond, carry: (z + cond, carry)
  >>> guided = sampling.classifier_free(denoiser, null=lambda cond: 0 * cond, weight=2.0)
  >>> guided(jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones((1, 1)), None)[0]
  Array([[3.]], dtype=float32)
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
  """Return a guidance weight that alternates along a grid (Imagen Video section 2.6.2, used in Snap section 3.6).

  The first `start` levels have weight `high`, the next `low`, then `high`, and so on. The weight is a function of the
  noise level: Heun's second evaluation uses the weight of the next level, and a level raised by churn that of the
  nearest one.

  Args:
    logsnrs: the increasing grid `[N]`.
    high, low: the two weights.
    start: number of levels before the first `low`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import sampling
  >>> grid = jnp.arange(5.0)
  >>> sampling.oscillating(grid, high=8.0, low=1.0, start=2)(grid)
  Array([8., 8., 1., 8., 1.], dtype=float32)
  """
  grid = jnp.asarray(logsnrs)

  def weight(logsnr: Array) -> Array:
    level = jnp.argmin(jnp.abs(jnp.asarray(logsnr)[..., None] - grid), axis=-1)
    return jnp.where((level < start) | ((level - start) % 2 == 1), high, low).astype(jnp.float32)

  return weight


def reconstruction(
  denoiser: Denoiser, process: GaussianProcess, measure: Callable[[Array], Array], observed: Array, weight: Weight
) -> Denoiser:
  """Return the denoiser `x_hat - (w alpha / 2) grad_z |observed - measure(x_hat(z))|^2` (VDM Eqs. 7 and 8).

  The norm is a sum over the elements of each example. `alpha grad_z` does not change when z is rescaled, so a weight
  means the same for every process. For given frames (Eq. 7) apply `replacement` afterwards, which overwrites them.

  Args:
    denoiser: the denoiser to guide; its gradient is taken.
    process: the diffusion process of z.
    measure: a differentiable function of x `[b ...]` that keeps examples apart, such as downsampling or a choice of
      frames.
    observed: the wanted value of `measure`; broadcasts to it.
    weight: w_r, a number or a function of logsnr `[b]`.

  Raises:
    ValueError: at the first evaluation, if `observed` does not broadcast to the shape of `measure(x_hat)`.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> process = diffusion.input_scaled(1.0)
  >>> denoiser = lambda z, logsnr, cond, carry: (0.5 * z, carry)
  >>> guided = sampling.reconstruction(denoiser, process, lambda x: x[:, :1], jnp.ones((1, 1)), weight=2.0)
  >>> guided(jnp.zeros((1, 2)), jnp.zeros(1), None, None)[0]
  Array([[1., 0.]], dtype=float32)
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
  """Return the denoiser `where(mask, observed, x_hat)`: the replacement method on x_hat (VDM section 3.1).

  With ancestral steps at gamma = 0, DDIM, Heun and DPM-Solver++ the observed part of z has exactly the marginals
  `q(z_s | x)`, though not the joint law over steps of independent draws. For gamma > 0 its variance is too large; there
  `redraw` is exact.

  Args:
    denoiser: the denoiser.
    observed: the observed part of x; broadcasts to x.
    mask: True where x is observed; broadcasts to x.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import sampling
  >>> denoiser = lambda z, logsnr, cond, carry: (jnp.zeros_like(z), carry)
  >>> fixed = sampling.replacement(denoiser, jnp.ones((1, 3)), jnp.array([[True, False, False]]))
  >>> fixed(jnp.zeros((1, 3)), jnp.zeros(1), None, None)[0]
  Array([[1., 0., 0.]], dtype=float32)
  """

  def replaced(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    return jnp.where(mask, observed, x_hat), carry

  return replaced


def given_frames(denoiser: Denoiser, process: GaussianProcess, observed: Array, seen: Array) -> Denoiser:
  """Return the denoiser that reads given frames without noise, at CLEAN_LOGSNR, whatever z holds in their place.

  With the exact denoiser of levels per frame the estimate of the others is E[x | z, observed], and every step then
  samples the exact conditional law: what `reconstruction` approximates for a denoiser of one level, one evaluation and
  no gradient. The denoiser must have been trained on such levels (`diffusion.frame_levels`, 'given' or 'independent';
  diffusion forcing, Chen et al. 2024).

  Args:
    denoiser: a denoiser of levels `[b t]`.
    process: the diffusion process of z.
    observed: the given frames of x; broadcasts to x `[b t ...]`. Not read where not seen.
    seen: bool `[t]` or `[b t]`, True for given frames.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> levels = lambda z, logsnr, cond, carry: (jnp.broadcast_to(logsnr[..., None], z.shape), carry)
  >>> held = sampling.given_frames(levels, diffusion.input_scaled(1.0), jnp.ones((1, 2, 1)), jnp.array([True, False]))
  >>> held(jnp.zeros((1, 2, 1)), jnp.array([-3.0]), None, None)[0].ravel()
  Array([ 1., -3.], dtype=float32)
  """

  def held(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    levels = jnp.where(seen, CLEAN_LOGSNR, logsnr if logsnr.ndim == 2 else logsnr[:, None])
    mask = expand_dims_like(jnp.broadcast_to(seen, levels.shape), z)
    clean = expand_dims_like(process.alpha(levels), z) * observed
    x_hat, carry = denoiser(jnp.where(mask, clean, z), levels, cond, carry)
    return jnp.where(mask, observed, x_hat), carry

  return held


def clip(denoiser: Denoiser) -> Denoiser:
  """Return the denoiser with x_hat clipped to [-1, 1], as in the image code of VDM's authors.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import sampling
  >>> sampling.clip(lambda z, logsnr, cond, carry: (3 * z, carry))(jnp.ones((1, 2)), jnp.zeros(1), None, None)[0]
  Array([[1., 1.]], dtype=float32)
  """

  def clipped(z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    return jnp.clip(x_hat, -1.0, 1.0), carry

  return clipped


def dynamic_threshold(denoiser: Denoiser, percentile: float) -> Denoiser:
  """Return the denoiser with x_hat clipped to [-s, s] and divided by s (Imagen section 2.3).

  s is a percentile of |x_hat| per example, at least 1.

  Args:
    denoiser: the denoiser.
    percentile: in (0, 100]; values in use are 95 to 99.5.

  Raises:
    ValueError: `percentile` is outside (0, 100].

  >>> import jax.numpy as jnp
  >>> from vdm_jax import sampling
  >>> identity = lambda z, logsnr, cond, carry: (z, carry)
  >>> sampling.dynamic_threshold(identity, percentile=100.0)(jnp.array([[4.0, -2.0]]), jnp.zeros(1), None, None)[0]
  Array([[ 1. , -0.5]], dtype=float32)
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
  """Return the weight at a level."""
  return jnp.asarray(weight(logsnr) if callable(weight) else weight, jnp.float32)


def _check_observed(observed: Array, measured: Array) -> None:
  """Raise ValueError unless the observation broadcasts to the measurement without enlarging it."""
  shape, wanted = jnp.shape(observed), measured.shape
  if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape[::-1], wanted[::-1], strict=False)):
    raise ValueError(
      f'observed has shape {shape}, but measure(x_hat) has shape {wanted}: give observed the shape of the measurement.'
    )


def _stack(conditional: Array | None, null: Array | None) -> Array | None:
  """Return both branches' values of a field `[2 ...]`."""
  if conditional is None:
    return None if null is None else jnp.stack([jnp.zeros_like(null), jnp.asarray(null)])
  return jnp.stack([jnp.asarray(conditional), jnp.asarray(null)])
