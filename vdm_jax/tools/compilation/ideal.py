"""Time of a training step at the devices' peak rate, the reference for model FLOPs utilization (MFU)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm_jax.models import Model
from vdm_jax.tools.compilation.chips import chip_of
from vdm_jax.tools.compilation.flops import model_flops
from vdm_jax.types import Array, Batch

BACKWARD = 3  # cost of a forward and backward pass, in forward passes


def step_evaluations(self_condition_rate: float) -> float:
  """Return the forward passes that a training step costs per example; self-conditioning adds one."""
  return BACKWARD + self_condition_rate


def evaluation(model: Model, params: Any, batch: Batch) -> Array:
  """Evaluate the network on a batch at logsnr 0."""
  cond = batch.cond
  if model.upsampling > 1:
    cond = cond._replace(low_resolution=batch.x, augmentation_logsnr=jnp.zeros(batch.x.shape[0]))
  return model.network(params)(batch.x, jnp.zeros(batch.x.shape[0]), cond, None)[0]


def evaluation_flops(model: Model, params: Any, batch: Batch) -> int:
  """Return the model FLOPs of `evaluation`; arrays may be shapes."""
  return model_flops(lambda params, batch: evaluation(model, params, batch), params, batch)


def peak_flops() -> float | None:
  """Return the bfloat16 FLOP/s of the first device by its data sheet; None if it is not in the tables."""
  chip = chip_of(jax.devices()[0].device_kind)
  return chip and chip.flops


def ideal_step_seconds(model: Model, config: ConfigDict, batch: Batch) -> float | None:
  """Return the seconds that a training step's model FLOPs take at the devices' published peak; None if it is unknown.

  Args:
    model: the model.
    config: has `data.batch_size` and `training.self_condition_rate`.
    batch: any batch, of which the shapes of one example are read.
  """
  if (peak := peak_flops()) is None:
    return None
  params = jax.eval_shape(model.init, jax.random.key(0))
  example = jax.tree.map(lambda leaf: leaf[:1], batch)
  evaluations = config.data.batch_size * step_evaluations(config.training.self_condition_rate)
  return evaluations * evaluation_flops(model, params, example) / (peak * jax.device_count())
