"""The least time that a training step can take, by which utilisation is measured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vdm_jax.models import Model
from vdm_jax.tools.compilation.chips import chip_of
from vdm_jax.tools.compilation.flops import model_flops
from vdm_jax.types import Array, Batch

BACKWARD = 3  # evaluations that a forward and backward pass cost


def step_evaluations(self_condition_rate: float) -> float:
  """Evaluations of the network per example of a training step: one more where the example is self-conditioned."""
  return BACKWARD + self_condition_rate


def evaluation(model: Model, params: Any, batch: Batch) -> Array:
  """The network once on a batch, at the middle of the noise levels."""
  cond = batch.cond
  if model.upsampling > 1:
    cond = cond._replace(low_resolution=batch.x, augmentation_logsnr=jnp.zeros(batch.x.shape[0]))
  return model.network(params)(batch.x, jnp.zeros(batch.x.shape[0]), cond, None)[0]


def evaluation_flops(model: Model, params: Any, batch: Batch) -> int:
  """Model FLOPs of `evaluation`; arrays may be shapes."""
  return model_flops(lambda params, batch: evaluation(model, params, batch), params, batch)


def peak_flops() -> float | None:
  """bfloat16 FLOP/s of the first device by its data sheet; None where it is not in the tables."""
  chip = chip_of(jax.devices()[0].device_kind)
  return chip and chip.flops


def ideal_step_seconds(model: Model, config: ConfigDict, batch: Batch) -> float | None:
  """What the model FLOPs of a training step take at the devices' published peak; None where that is not known.

  `batch` shows the shapes; its first example alone is looked at.
  """
  if (peak := peak_flops()) is None:
    return None
  params = jax.eval_shape(model.init, jax.random.key(0))
  example = jax.tree.map(lambda leaf: leaf[:1], batch)
  evaluations = config.data.batch_size * step_evaluations(config.training.self_condition_rate)
  return evaluations * evaluation_flops(model, params, example) / (peak * jax.device_count())
