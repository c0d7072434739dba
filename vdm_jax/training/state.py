"""What a training run is at one step: everything a checkpoint holds."""

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

# Checkpoints of earlier versions lack these, which were zero then.
ADDED = ('skipped_in_a_row', 'grad_norm_ema', 'sums/spikes')


class TrainState(NamedTuple):
  """One step of a run. Parameters, moments and averages are float32 whatever the network computes in."""

  step: Array  # int32 [], steps taken, those skipped included
  updates: Array  # int32 [], updates applied
  skipped_in_a_row: Array  # int32 [], steps that were not finite since the last one that was
  grad_norm_ema: Array  # float32 [], see `spikes.judge`
  params: Params
  opt_state: Any
  ema: Params
  sums: dict[str, Array]  # of the metrics since the last logged row


def create(
  model: Model,
  optimizer: Optimizer,
  mesh: Mesh,
  seed: int,
  starting_point: Callable[[Params], Params] | None = None,
) -> TrainState:
  """The state before the first step, born sharded over `mesh`: no device ever holds more than its part.

  `starting_point` maps the fresh parameters to those to start from, which are the first average too.
  """
  layout = shardings(abstract(model, optimizer, mesh))
  state = jax.jit(_initialiser(model, optimizer), out_shardings=layout)(jax.random.key(seed))
  if starting_point is None:
    return state
  params = starting_point(state.params)
  return state._replace(params=params, ema=jax.tree.map(jnp.copy, params))


def abstract(model: Model, optimizer: Optimizer, mesh: Mesh) -> TrainState:
  """Shapes, types and shardings of the state, without allocating it: what to restore into or to compile for.

  Moments and averages lie as the parameters do; counters and sums are on every device.
  """
  shapes = jax.eval_shape(_initialiser(model, optimizer), jax.random.key(0))
  params = partitioning.param_shardings(mesh, shapes.params, model.logical_axes)
  layout = partitioning.like_params(shapes, shapes.params, params, partitioning.replicated(mesh))
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)


def shardings(abstract_state: TrainState) -> TrainState:
  """The shardings of an abstract state, for `out_shardings`."""
  return jax.tree.map(lambda x: x.sharding, abstract_state)


def ema_decay(training: Any) -> float:
  """The decay per update: 0.5^(1 / ema_half_life) if a half-life in updates is given, else `ema_decay`.

  Raises ValueError when the half-life is negative or the decay outside [0, 1).
  """
  decay, half_life = training.ema_decay, training.ema_half_life
  if half_life < 0 or not 0 <= decay < 1:
    raise ValueError(
      f'training.ema_decay={decay}, training.ema_half_life={half_life}: '
      'choose 0 <= ema_decay < 1, or ema_half_life > 0.'
    )
  return 0.5 ** (1 / half_life) if half_life else decay


def update_ema(ema: Params, params: Params, updates: Array, *, decay: float, warmup: bool) -> Params:
  """`decay ema + (1 - decay) params` in float32; `updates` = n counts the updates before this one.

  The first update copies. With `warmup` the decay is min(decay, (1 + n) / (10 + n)), so that short runs do
  not average over their first steps.
  """
  rate = jnp.float32(1.0 - decay)
  if warmup:
    rate = jnp.maximum(rate, 9.0 / (10.0 + updates))
  rate = jnp.where(updates == 0, 1.0, rate)
  return jax.tree.map(lambda e, p: jnp.where(updates == 0, p, e + rate * (p - e)), ema, params)


def _initialiser(model: Model, optimizer: Optimizer) -> Callable[[Array], TrainState]:
  def init(rng: Array) -> TrainState:
    # A training step draws from fold_in(rng, step): the parameters take another child of the same key.
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
