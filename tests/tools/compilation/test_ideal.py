"""Time of a training step at peak rate, the reference for utilization."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.tiny_networks import make_config

from vdm_jax import models, partitioning
from vdm_jax.tools.compilation import ideal, ideal_step_seconds, model_flops
from vdm_jax.training import make_train_step, optimizer, state
from vdm_jax.types import Batch, Conditioning


def test_it_is_the_flops_of_the_actual_step_at_the_peak_rate(monkeypatch):
  config = make_config(model__attention_resolutions=(), model__channel_multipliers=(1,), data__batch_size=6)
  model, mesh = models.build(config.model), partitioning.make_mesh({'data': -1})
  batch = Batch(np.zeros((6, *model.video_shape), np.float32), Conditioning(drop=np.zeros((6, 1), bool)))
  assert ideal_step_seconds(model, config, batch) is None, 'a CPU has no published peak'
  monkeypatch.setattr(ideal, 'peak_flops', lambda: 2e9)
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  current = state.abstract(model, rule, mesh)
  step = make_train_step(model, rule, config.training, mesh)
  with jax.set_mesh(mesh):
    counted = model_flops(step, current, batch, jax.random.key(0))
  assert ideal_step_seconds(model, config, batch) == pytest.approx(counted / 2e9 / jax.device_count(), rel=0.03)
  config.training.self_condition_rate = 0.9
  assert ideal_step_seconds(model, config, batch) == pytest.approx(3.9 / 3 * counted / 2e9, rel=0.03)
