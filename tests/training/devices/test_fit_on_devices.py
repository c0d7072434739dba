"""FIT trains on several devices as on one, with stacked layers split over the mesh and a second stage's start."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.process_group import virtual

ON_FOUR = """
import jax, numpy as np
from training.test_second_stage_step import FIT, SECOND, X
from vdm_jax import checkpoints, configuration, models, partitioning
from vdm_jax.training import first_stage, make_train_step, optimizer, state
from vdm_jax.types import Batch, Conditioning

def build(changes):
  config = configuration.default('fit')
  config.update_from_flattened_dict(FIT | changes | {'training.optimizer': 'lamb', 'training.learning_rate': 3e-3})
  return config, models.build(config.model)

config, model = build(SECOND)
_, first = build({'data.height': 4, 'data.width': 2, 'model.group_size': (2, 1, 1)})

def train(sizes, devices):
  mesh = partitioning.make_mesh(sizes, jax.devices()[:devices])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  old = jax.jit(first.init)(jax.random.key(7))
  named = [checkpoints.named(jax.eval_shape(m.init, jax.random.key(0))) for m in (model, first)]
  start = lambda params: first_stage.transfer(params, old, first_stage.plan(model.module, *named))
  current = state.create(model, rule, mesh, 0, start)
  layout = state.shardings(state.abstract(model, rule, mesh))
  assert jax.tree.all(jax.tree.map(lambda leaf, s: leaf.sharding == s, current.params, layout.params))
  step = jax.jit(make_train_step(model, rule, config.training, mesh), out_shardings=(layout, None))
  losses = []
  with jax.set_mesh(mesh):
    for i in range(20):
      batch = partitioning.put_batch(Batch(X + 0.1 * i, Conditioning()), mesh)
      current, measured = step(current, batch, jax.random.key(1))
      losses.append(float(measured['loss']))
  kernel = current.params['blocks']['global_layers']['layer']['feed_forward']['expand']['kernel']
  return losses, kernel.addressable_shards[0].data.shape

one, whole = train({'data': 1}, 1)
for sizes in ({'data': 4}, {'fsdp': 4}, {'fsdp': 2, 'tensor': 2}):
  many, part = train(sizes, 4)
  np.testing.assert_allclose(many, one, rtol=1e-4)
  print(sizes, whole, part)
"""


@pytest.mark.slow
def test_losses_over_20_steps_agree():
  result = subprocess.run([sys.executable, '-c', ON_FOUR], env=virtual(4), capture_output=True, text=True, timeout=280)
  assert result.returncode == 0, result.stdout + result.stderr
  assert result.stdout.splitlines() == [
    "{'data': 4} (1, 1, 8, 32) (1, 1, 8, 32)",
    "{'fsdp': 4} (1, 1, 8, 32) (1, 1, 2, 32)",
    "{'fsdp': 2, 'tensor': 2} (1, 1, 8, 32) (1, 1, 4, 16)",
  ]
