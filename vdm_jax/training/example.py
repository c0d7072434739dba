"""A tiny model with its configuration and data, for the examples in docstrings and guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import configuration, models, partitioning
from vdm_jax.training import optimizer, state
from vdm_jax.types import Batch, Conditioning


def tiny(**training: Any) -> tuple[models.Model, ConfigDict, Callable[[int], Iterator[Batch]]]:
  """Return `(model, config, batches)`: an unconditional U-Net for 2 frames of 8x8 pixels, and gray clips for it.

  Args:
    training: settings of the section `training` to change.

  >>> model, config, batches = tiny(num_steps=3)
  >>> next(batches(0)).x.shape
  (2, 2, 8, 8, 1)
  """
  config = configuration.default('unet3d')
  config.data.update(batch_size=2, num_frames=2, height=8, width=8, channels=1)
  config.model.update(base_channels=4, channel_multipliers=(1,), num_blocks=1, attention_resolutions=())
  config.model.update(head_width=4, norm_groups=2, embedding_width=8, embedding_layers=1)
  config.training.update(num_steps=2, warmup_steps=0, log_every=1)
  config.training.update(training)
  model = models.build(config.model)

  def batches(start: int) -> Iterator[Batch]:
    step = start
    while True:
      x = np.full((2, *model.video_shape), np.sin(step), np.float32)
      yield Batch(x, Conditioning(drop=np.zeros((2, 1), bool)))
      step += 1

  return model, config, batches


def tiny_step() -> tuple[models.Model, optimizer.Optimizer, ConfigDict, Mesh, state.TrainState, Batch]:
  """Return what a training step of `tiny` needs: `(model, optimizer, config.training, mesh, abstract state, batch)`.

  >>> model, rule, training, mesh, layout, batch = tiny_step()
  >>> rule.learning_rate(0)
  Array(0.0003, dtype=float32)
  """
  model, config, batches = tiny()
  mesh = partitioning.make_mesh(config.mesh)
  rule = optimizer.build(config.training, model.logical_axes)
  return (
    model,
    rule,
    config.training,
    mesh,
    state.abstract(model, rule, mesh),
    partitioning.put_batch(next(batches(0)), mesh),
  )
