"""Adam and LAMB as both papers use them, from optax's parts (VDM appendix A; Snap appendix, Table 9).

`optax.lamb` gives the trust ratio to biases and norms as well, which leaves a zero-initialised tensor first
dead and then growing exponentially; the reference LAMB exempts them, and so does this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdm_jax.names import choose
from vdm_jax.networks import contract
from vdm_jax.types import Array, Params

# A tensor that `nn.scan` stacks over layers has an axis of this logical name.
LAYERS = 'layers'

_EPS = {'adam': 1e-8, 'lamb': 1e-6}
_SCHEDULES = ('constant', 'cosine')


class Optimizer(NamedTuple):
  """Pure functions: `init(params) -> state`, `update(gradients, state, params, step) -> (updates, state)`."""

  init: Callable[[Params], Any]
  update: Callable[[Params, Any, Params, Array], tuple[Params, Any]]
  learning_rate: Callable[[Array], Array]  # of the number of steps taken so far


def build(
  training: Any,
  logical_axes: Any = None,
  decay_mask: Callable[[Params], Any] = contract.default_decay_mask,
) -> Optimizer:
  """The optimizer of a configuration: clip, Adam moments, decoupled weight decay, trust ratio, learning rate.

  `adam` is AdamW (the decay is added after the moments, times the learning rate), eps 1e-8; `lamb` multiplies
  the sum by |parameter| / |update|, one ratio per tensor, eps 1e-6. Decay and ratio apply only where
  `decay_mask` is True.

  The learning rate is a function of the step, not of the count of applied updates: a line that reaches the
  peak at step `warmup_steps - 1`, then constant, or a cosine that is 0 at step `num_steps`.

  Args:
    training: has `optimizer`, `learning_rate`, `schedule`, `warmup_steps`, `num_steps`, `beta1`, `beta2`,
      `weight_decay` and `clip_norm` (0: no clipping).
    logical_axes: the parameter tree with the logical names of each tensor's axes. Along an axis named
      'layers' (stacked by `nn.scan`) every slice has a ratio of its own, as if the layers were separate
      tensors; None: no tensor is stacked.
    decay_mask: parameters -> tree of bools, `Model.decay_mask`; that of `networks.VideoNetwork` by default.

  Raises:
    ValueError: an unknown optimizer or schedule.
  """
  kind = choose('training.optimizer', training.optimizer, tuple(_EPS))
  parts = [optax.clip_by_global_norm(training.clip_norm)] if training.clip_norm else []
  parts.append(optax.scale_by_adam(training.beta1, training.beta2, eps=_EPS[kind]))
  parts.append(optax.add_decayed_weights(training.weight_decay, mask=decay_mask))
  if kind == 'lamb':
    parts.append(optax.masked(_scale_by_trust_ratio(logical_axes), decay_mask))
  chain = optax.chain(*parts)
  learning_rate = _schedule(training)

  def update(gradients: Params, state: Any, params: Params, step: Array) -> tuple[Params, Any]:
    direction, state = chain.update(gradients, state, params)
    rate = learning_rate(step)
    return jax.tree.map(lambda d: -rate * d, direction), state

  return Optimizer(chain.init, update, learning_rate)


def _schedule(training: Any) -> Callable[[Array], Array]:
  """step -> rate, as `build` says."""
  peak, warmup, total = training.learning_rate, training.warmup_steps, training.num_steps
  choose('training.schedule', training.schedule, _SCHEDULES)
  if training.schedule == 'cosine' and warmup >= total:
    raise ValueError(
      f'training.warmup_steps={warmup} leaves nothing of training.num_steps={total} for the cosine: '
      'shorten the warm-up or train longer.'
    )

  def rate(step: Array) -> Array:
    rise = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
    if training.schedule == 'constant':
      return peak * rise
    done = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
    return peak * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * done))

  return rate


def _scale_by_trust_ratio(logical_axes: Any) -> optax.GradientTransformation:
  """Times |parameter| / |update| per tensor and stacked layer; times 1 where either is 0 (You et al.)."""
  stacked = None if logical_axes is None else _stacked_axes(logical_axes)

  def scale(path: Any, update: Array, param: Array) -> Array:
    layers = () if stacked is None else stacked.get(jax.tree_util.keystr(path), ())
    axes = tuple(i for i in range(param.ndim) if i not in layers)
    size, length = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (param, update))
    ratio = jnp.where((size > 0) & (length > 0), size / jnp.where(length > 0, length, 1.0), 1.0)
    return update * ratio

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates, params))


def _stacked_axes(logical_axes: Any) -> dict[str, tuple[int, ...]]:
  """Which axes of each named tensor run over layers."""
  leaves = jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=lambda x: x is None or isinstance(x, tuple))
  return {
    jax.tree_util.keystr(path): tuple(i for i, a in enumerate(axes or ()) if a == LAYERS) for path, axes in leaves
  }
