"""The training state: everything a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.models import Model
from vdm_jax.training import metrics
from vdm_jax.training.optimizer import Optimizer
from vdm_jax.types import Array, Params

# Leaves that older checkpoints lack; they are zero there.
ADDED = ('skipped_in_a_row', 'grad_norm_ema', 'sums/spikes')


class TrainState(NamedTuple):
  """The state of a run after a step. Parameters, moments and averages are float32 for any dtype of the network."""

  step: Array  # int32 [], steps taken, including skipped ones
  updates: Array  # int32 [], updates applied
  skipped_in_a_row: Array  # int32 [], consecutive steps that were not finite, up to the last one
  grad_norm_ema: Array  # float32 [], see `spikes.accepted_and_norm_ema`
  params: Params
  opt_state: Any
  ema: Params
  sums: dict[str, Array]  # of metrics, since the last logged row


def create(
  model: Model,
  optimizer: Optimizer,
  mesh: Mesh,
  seed: int,
  starting_point: Callable[[Params], Params] | None = None,
) -> TrainState:
  """Return the state before the first step, created sharded: no device ever holds more than its part.

  Args:
    model: has `init` and `logical_axes`.
    optimizer: from `optimizer.build`.
    mesh: the devices.
    seed: of the parameters.
    starting_point: fresh parameters -> initial parameters, which are the initial average, too.
  """
  layout = shardings(abstract(model, optimizer, mesh))
  state = jax.jit(_initializer(model, optimizer), out_shardings=layout)(jax.random.key(seed))
  if starting_point is None:
    return state
  params = starting_point(state.params)
  return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))


def abstract(model: Model, optimizer: Optimizer, mesh: Mesh) -> TrainState:
  """Return shapes, dtypes and shardings of the state without allocating it, to restore into or to compile for.

  Moments and averages are split as the parameters are; counters and sums are on every device.
  """
  shapes = jax.eval_shape(_initializer(model, optimizer), jax.random.key(0))
  params = partitioning.param_shardings(mesh, shapes.params, model.logical_axes)
  layout = partitioning.like_params(shapes, shapes.params, params, partitioning.replicated(mesh))
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)


def shardings(abstract_state: TrainState) -> TrainState:
  """Return the shardings of an abstract state, for `out_shardings`."""
  return jax.tree.map(lambda x: x.sharding, abstract_state)


def ema_decay(training: Any) -> float:
  """Return the EMA's decay per update: 0.5^(1 / ema_half_life) if a half-life in updates is set, else `ema_decay`.

  Raises:
    ValueError: a negative half-life, or a decay outside [0, 1).
  """
  decay, half_life = training.ema_decay, training.ema_half_life
  if half_life < 0 or not 0 <= decay < 1:
    raise ValueError(
      f'training.ema_decay={decay}, training.ema_half_life={half_life}: '
      'choose 0 <= ema_decay < 1, or ema_half_life > 0.'
    )
  return 0.5 ** (1 / half_life) if half_life else decay


def update_ema(ema: Params, params: Params, updates: Array, *, decay: float, warmup: bool) -> Params:
  """Return `decay ema + (1 - decay) params` in float32; the first update copies the parameters.

  Args:
    ema: the average so far.
    params: the parameters after the update.
    updates: int32 [], the number n of updates before this one.
    decay: in [0, 1).
    warmup: limit the decay to (1 + n) / (10 + n), so that short runs do not average over their first steps.
  """
  rate = jnp.float32(1.0 - decay)
  if warmup:
    rate = jnp.maximum(rate, 9.0 / (10.0 + updates))
  rate = jnp.where(updates == 0, 1.0, rate)
  return jax.tree.map(lambda e, p: jnp.where(updates == 0, p, e + rate * (p - e)), ema, params)


def _initializer(model: Model, optimizer: Optimizer) -> Callable[[Array], TrainState]:
  def init(rng: Array) -> TrainState:
    # Training steps use fold_in(rng, step); the parameters use another child of the same key.
    params = model.init(jax.random.split(rng)[0])
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      updates=jnp.zeros((), jnp.int32),
      skipped_in_a_row=jnp.zeros((), jnp.int32),
      grad_norm_ema=jnp.zeros(()),
      params=params,
      opt_state=optimizer.init(params),
      ema=jax.tree.map(jnp.copy, params),
      sums=metrics.zeros(),
    )

  return init
