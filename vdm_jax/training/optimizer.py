"""Optimizers: gradient to update, as `optax.GradientTransformation`s (VDM appendix A; Snap Video appendix, Table 9).

`training.optimizer` names `adam` or `lamb` of this module, an optimizer of optax, or `custom` for one that is given to
`training.train` as an argument.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vdm_jax.names import choose
from vdm_jax.networks import contract
from vdm_jax.training import schedules
from vdm_jax.types import Array, Params

# A function of the learning rate; all optimizers of optax are one, by their first parameter.
Constructor = Callable[..., optax.GradientTransformation]
DecayMask = Callable[[Params], Any]

# A tensor that `nn.scan` stacks over layers has an axis of this logical name.
LAYERS = 'layers'
# Parameters of optax's optimizers that say where weight decay and trust ratios apply.
MASKS = ('mask', 'weight_decay_mask', 'trust_ratio_mask')
# Optimizers of optax that a training step cannot use by name.
UNSUPPORTED = (
  *('lbfgs', 'momo', 'momo_adam', 'sophia'),  # need the loss function
  *('dpsgd', 'noisy_sgd'),  # need the gradients of examples, or a random key
  *('optimistic_adam', 'rprop'),  # no learning rate that changes from step to step
  *('schedule_free', 'schedule_free_adamw', 'schedule_free_sgd'),  # evaluate other parameters than they train
)


class Optimizer(NamedTuple):
  """A gradient transformation whose learning rate follows the step. Pure functions, as in optax."""

  init: Callable[[Params], Any]  # parameters -> state
  update: Callable[[Params, Any, Params, Array], tuple[Params, Any]]  # gradients, state, parameters, step
  learning_rate: optax.Schedule  # of the number of steps taken so far; NaN where it is not known


def adam(
  learning_rate: float | Array,
  *,
  b1: float = 0.9,
  b2: float = 0.99,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  decay_mask: DecayMask | None = None,
) -> optax.GradientTransformation:
  """Return AdamW: clipping, Adam's moments, decoupled weight decay (Loshchilov and Hutter 2019).

  Args:
    learning_rate: a number, or a traced one; the state does not depend on it.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: added to the root of the second moment.
    weight_decay: times the parameter, added to the direction before the learning rate multiplies it.
    clip_norm: largest global norm of the gradient; 0: no clipping.
    decay_mask: parameters -> tree of bools, where weight decay applies; None: everywhere.

  >>> params = {'kernel': jnp.ones(2)}
  >>> tx = adam(0.1)
  >>> updates, state = tx.update({'kernel': jnp.array([3.0, -1.0])}, tx.init(params), params)
  >>> [f'{update:.4f}' for update in updates['kernel']]
  ['-0.1000', '0.1000']
  """
  return _descend(optax.chain(*_direction(b1, b2, eps, weight_decay, clip_norm, decay_mask)), learning_rate)


def lamb(
  learning_rate: float | Array,
  *,
  b1: float = 0.9,
  b2: float = 0.99,
  eps: float = 1e-6,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  decay_mask: DecayMask | None = None,
  logical_axes: Any = None,
) -> optax.GradientTransformation:
  """Return LAMB: AdamW's direction times |parameter| / |direction|, one ratio per tensor (You et al. 2020).

  Parameters that weight decay exempts have no ratio, as in the reference implementation: `optax.lamb` gives them one,
  which keeps a bias at 0 first and then lets it grow exponentially.

  Args:
    logical_axes: the parameters' tree with the logical names of each tensor's axes. Along an axis 'layers', which
      `nn.scan` stacks, every slice has its own ratio, as if the layers were separate tensors. None: nothing is stacked.
    learning_rate, b1, b2, eps, weight_decay, clip_norm, decay_mask: as in `adam`.

  >>> params = {'kernel': jnp.array([3.0, 4.0])}
  >>> tx = lamb(0.1)
  >>> updates, state = tx.update({'kernel': jnp.array([2.0, 2.0])}, tx.init(params), params)
  >>> f'{jnp.linalg.norm(updates["kernel"]):.4f}'
  '0.5000'
  """
  parts = _direction(b1, b2, eps, weight_decay, clip_norm, decay_mask)
  ratio = scale_by_layer_trust_ratio(logical_axes)
  return _descend(optax.chain(*parts, optax.masked(ratio, decay_mask) if decay_mask else ratio), learning_rate)


OURS = {'adam': adam, 'lamb': lamb}


def build(
  training: Any,
  logical_axes: Any = None,
  decay_mask: DecayMask = contract.default_decay_mask,
  *,
  optimizer: Constructor | optax.GradientTransformation | None = None,
  schedule: optax.Schedule | None = None,
) -> Optimizer:
  """Return the optimizer of a configuration, with its learning rate.

  `adam` and `lamb` read `beta1`, `beta2` and `weight_decay`; other optimizers have all their settings in
  `optimizer_options`. Weight decay and trust ratios skip what `decay_mask` exempts. The gradient's global norm is
  clipped at `clip_norm` (0: no clipping) before any optimizer.

  Args:
    training: the configuration's section.
    logical_axes: as in `lamb`, of all parameters.
    decay_mask: parameters -> tree of bools, where weight decay applies.
    optimizer: if and only if `training.optimizer` is 'custom': a function of the learning rate, such as `optax.lion`
      or `functools.partial(optax.adamw, b1=0.95)`; or a gradient transformation whose updates are applied unchanged,
      such as `optax.lion(1e-4)`. The latter sets its own learning rate, so `training.schedule` must be 'custom', too.
    schedule: if and only if `training.schedule` is 'custom' and the optimizer is a function of the learning rate:
      step -> learning rate.

  Raises:
    ValueError: an unknown name, an invalid option, or a setting without effect; from `init` and `update`, what
      `decay_mask` raises.

  >>> from vdm_jax import configuration
  >>> config = configuration.default().training
  >>> config.update(optimizer='sgd', learning_rate=0.5, warmup_steps=0, clip_norm=0.0)
  >>> config.optimizer_options = {'momentum': 0.9}
  >>> rule, params = build(config), {'bias': jnp.ones(2)}
  >>> updates, state = rule.update(params, rule.init(params), params, jnp.int32(0))
  >>> updates['bias']
  Array([-0.5, -0.5], dtype=float32)
  >>> config.optimizer_options = {'momentun': 0.9}
  >>> build(config)
  Traceback (most recent call last):
  ...
  ValueError: training.optimizer_options='momentun' is unknown: ... Did you mean 'momentum'?
  """
  name = choose('training.optimizer', training.optimizer, (*OURS, *optax_optimizers(), schedules.CUSTOM))
  schedules.check_argument('optimizer', name, optimizer)
  if isinstance(optimizer, optax.GradientTransformation):
    return _complete(training, optimizer, schedule)
  if name in OURS:
    construct = _ours(training, logical_axes, decay_mask)
  else:
    schedules.check_unused(training, ('beta1', 'beta2', 'weight_decay'), 'optimizer')
    construct = _with_clipping(training.clip_norm, optimizer or _from_optax(training, decay_mask))
  if name == schedules.CUSTOM:
    schedules.check_unused(training, ('optimizer_options',), 'optimizer')
  return _following(construct, schedules.build(training, schedule))


def optax_optimizers() -> dict[str, Constructor]:
  """Return the optimizers that `training.optimizer` can name beside `adam` and `lamb`: optax's, by name.

  >>> 'lion' in optax_optimizers()
  True
  """
  found = {}
  for module in (optax.contrib, optax):
    for name, function in vars(module).items():
      public = isinstance(function, types.FunctionType | functools.partial) and not name.startswith(('_', 'scale_by_'))
      if public and name not in UNSUPPORTED and 'learning_rate' in inspect.signature(function).parameters:
        found[name] = function
  return {name: found[name] for name in sorted(found.keys() - OURS.keys())}


def scale_by_layer_trust_ratio(logical_axes: Any = None) -> optax.GradientTransformation:
  """Return updates times |parameter| / |update| per tensor and stacked layer; times 1 where either norm is 0."""
  stacked = None if logical_axes is None else _stacked_axes(logical_axes)

  def scale(path: Any, update: Array, param: Array) -> Array:
    layers = () if stacked is None else stacked.get(jax.tree_util.keystr(path), ())
    axes = tuple(i for i in range(param.ndim) if i not in layers)
    size, length = (jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=True)) for x in (param, update))
    ratio = jnp.where((size > 0) & (length > 0), size / jnp.where(length > 0, length, 1.0), 1.0)
    return update * ratio

  return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates, params))


def _direction(
  b1: float, b2: float, eps: float, weight_decay: float, clip_norm: float, decay_mask: DecayMask | None
) -> list[optax.GradientTransformation]:
  return [
    *([optax.clip_by_global_norm(clip_norm)] if clip_norm else []),
    optax.scale_by_adam(b1, b2, eps=eps),
    optax.add_decayed_weights(weight_decay, mask=decay_mask),
  ]


def _descend(direction: optax.GradientTransformation, learning_rate: float | Array) -> optax.GradientTransformation:
  """Return a transformation times -learning_rate; `optax.chain` would add a part to the state of older checkpoints."""

  def update(gradients: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
    updates, state = direction.update(gradients, state, params)
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformation(direction.init, update)


def _ours(training: Any, logical_axes: Any, decay_mask: DecayMask) -> Constructor:
  given = {
    'learning_rate': None,
    'b1': training.beta1,
    'b2': training.beta2,
    'weight_decay': training.weight_decay,
    'clip_norm': training.clip_norm,
    'decay_mask': decay_mask,
  }
  if training.optimizer == 'lamb':
    given['logical_axes'] = logical_axes
  return schedules.bind_options(
    'training.optimizer_options', OURS[training.optimizer], training.optimizer_options, given
  )


def _from_optax(training: Any, decay_mask: DecayMask) -> Constructor:
  function = optax_optimizers()[training.optimizer]
  masks = {name: decay_mask for name in MASKS if name in inspect.signature(function).parameters}
  given = {'learning_rate': None} | masks
  return schedules.bind_options('training.optimizer_options', function, training.optimizer_options, given)


def _with_clipping(clip_norm: float, construct: Constructor) -> Constructor:
  if not clip_norm:
    return construct
  return lambda learning_rate: optax.chain(optax.clip_by_global_norm(clip_norm), construct(learning_rate))


def _following(construct: Constructor, schedule: optax.Schedule) -> Optimizer:
  """Return the optimizer that is constructed with the learning rate of each step."""

  def learning_rate(step: Array | int) -> Array:
    return jnp.float32(schedule(step))

  def update(gradients: Params, state: Any, params: Params, step: Array) -> tuple[Params, Any]:
    return construct(learning_rate(step)).update(gradients, state, params)

  return Optimizer(lambda params: construct(learning_rate(0)).init(params), update, learning_rate)


def _complete(training: Any, transformation: optax.GradientTransformation, schedule: Any) -> Optimizer:
  """Return a transformation that includes its learning rate as an Optimizer."""
  if training.schedule != schedules.CUSTOM or schedule is not None:
    raise ValueError(
      'optimizer is a gradient transformation with its own learning rate, on which schedules have no effect: set '
      "training.schedule='custom' and pass no schedule, or pass a function of the learning rate such as optax.lion."
    )
  unused = ('beta1', 'beta2', 'weight_decay', 'optimizer_options')
  schedules.check_unused(training, unused, 'optimizer')
  schedules.check_unused(training, ('learning_rate', 'warmup_steps', 'schedule_options'), 'schedule')
  whole = _with_clipping(training.clip_norm, lambda _: transformation)(None)
  return Optimizer(
    whole.init,
    lambda gradients, state, params, step: whole.update(gradients, state, params),
    lambda step: jnp.float32(jnp.nan),
  )


def _stacked_axes(logical_axes: Any) -> dict[str, tuple[int, ...]]:
  """Which axes of each named tensor run over layers."""
  leaves = jax.tree_util.tree_leaves_with_path(logical_axes, is_leaf=lambda x: x is None or isinstance(x, tuple))
  return {
    jax.tree_util.keystr(path): tuple(i for i, a in enumerate(axes or ()) if a == LAYERS) for path, axes in leaves
  }
