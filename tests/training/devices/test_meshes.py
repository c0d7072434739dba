"""The losses of 20 steps are the same on any mesh of devices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.process_group import virtual

LOSSES = """
import json, sys
import jax, numpy as np
from helpers.tiny_networks import make_config
from training.test_second_stage_step import FIT
from vdm_jax import configuration, models, partitioning
from vdm_jax.training import make_train_step, optimizer, state
from vdm_jax.types import Batch, Conditioning

def train(network, sizes, devices, steps):
  if network == 'fit':
    config = configuration.default('fit')
    config.update_from_flattened_dict(FIT | {'training.optimizer': 'lamb'})
  else:
    config = make_config(model__attention_resolutions=(8,), model__channel_multipliers=(1,))
  config.update_from_flattened_dict({'training.learning_rate': 1e-3, 'training.warmup_steps': 5})
  model = models.build(config.model)
  mesh = partitioning.make_mesh(sizes, jax.devices()[:devices])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  current = state.create(model, rule, mesh, 0)
  layout = state.shardings(state.abstract(model, rule, mesh))
  step = jax.jit(
    make_train_step(model, rule, config.training, mesh), out_shardings=(layout, partitioning.replicated(mesh))
  )
  curve = []
  with jax.set_mesh(mesh):
    for i in range(steps):
      x = np.random.default_rng(i).uniform(-1, 1, (8, *model.video_shape)).astype(np.float32)
      batch = partitioning.put_batch(Batch(x, Conditioning(drop=np.zeros((8, 1), bool))), mesh)
      current, measured = step(current, batch, jax.random.key(1))
      curve.append(float(measured['loss']))
  split = sum(leaf.addressable_shards[0].data.size < leaf.size for leaf in jax.tree.leaves(current.params))
  return curve, split

network, meshes, steps = json.loads(sys.argv[1])
print(json.dumps([train(network, sizes, devices, steps) for sizes, devices in meshes]))
"""
ONE = ({'data': 1}, 1)
WIDE = [
  ONE,
  ({'data': 2, 'fsdp': 2}, 4),
  ({'data': 2, 'fsdp': 2, 'tensor': 2}, 8),
  ({'fsdp': 8}, 8),
  ({'data': 8}, 8),
  ({'data': 4, 'tensor': 2}, 8),
]


def curves(network, meshes, steps):
  command = [sys.executable, '-c', LOSSES, json.dumps([network, meshes, steps])]
  done = subprocess.run(command, env=virtual(8), capture_output=True, text=True, timeout=1700)
  assert done.returncode == 0, done.stdout + done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('network', ['unet3d', 'fit'])
def test_the_losses_of_20_steps_are_those_of_one_device(network):
  (one, whole), *others = curves(network, WIDE, 20)
  assert whole == 0 and one[-1] != one[0]
  for (sizes, _), (many, split) in zip(WIDE[1:], others, strict=True):
    assert many == pytest.approx(one, rel=1e-5), sizes
    assert (split > 0) == (sizes.keys() != {'data'}), sizes
