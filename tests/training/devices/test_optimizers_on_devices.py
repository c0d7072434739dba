"""Optimizers of optax train on several devices as on one, with their states split, and resume bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.process_group import virtual

TRAIN = """
import json, signal, sys
import jax, numpy as np, optax
from helpers import standin
from vdm_jax import partitioning
from vdm_jax.training import train

folder, name = sys.argv[1:]
OPTIONS = {'adafactor': {'min_dim_size_to_factor': 8}, 'lion': {}, 'muon': {}}
def arguments():
  plain = {'weight_decay': 0.0, 'schedule': 'constant', 'checkpoint_every': 3}
  if name != 'custom':
    return {'optimizer': name, 'optimizer_options': OPTIONS[name], **plain}, {}
  config = {'optimizer': 'custom', 'schedule': 'custom', 'learning_rate': 3e-4, 'warmup_steps': 1000}
  rate = optax.schedules.linear_schedule(0.01, 0.0, 20)
  return plain | config, {'optimizer': optax.adabelief, 'schedule': rate}

def run(workdir, steps, sizes, devices):
  settings, given = arguments()
  config = standin.make_config(num_steps=steps, **settings)
  mesh = partitioning.make_mesh(sizes, jax.devices()[:devices])
  model = standin.make_model(config)
  return train(model, config, f'{folder}/{workdir}', mesh=mesh, batches=standin.batches, **given)

four = {'data': 2, 'fsdp': 2}
one, many = run('one', 8, {'data': 1}, 1), run('many', 8, four, 4)
run('resumed', 5, four, 4)
resumed = run('resumed', 8, four, 4)
jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), jax.device_get(resumed), jax.device_get(many))
for part in ('params', 'ema'):
  pair = [jax.device_get(getattr(state, part)) for state in (one, many)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *pair)
moved = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(many.opt_state))
leaves = jax.tree_util.tree_leaves_with_path(many.opt_state)
split = [
  jax.tree_util.keystr(path, simple=True, separator='/') for path, leaf in leaves
  if leaf.addressable_shards[0].data.size < leaf.size
]
print(json.dumps({'moved': moved > 0, 'split': split, 'updates': int(resumed.updates)}))
"""


SHARDED = ['label_embedding', 'leave/bias', 'leave/kernel']


@pytest.mark.parametrize(
  ('name', 'split'),
  [
    # The factored moments of the kernels are whole on every device.
    pytest.param('adafactor', ['1/0/v/label_embedding', '1/0/v/leave/bias'], marks=pytest.mark.slow),
    ('custom', [f'1/0/{moment}/{leaf}' for moment in ('mu', 'nu') for leaf in SHARDED]),
    pytest.param('lion', [f'1/0/mu/{leaf}' for leaf in SHARDED], marks=pytest.mark.slow),
    # Each of its two optimizers has the parameters of the other masked.
    pytest.param(
      'muon',
      [
        *(f'1/inner_states/adam/inner_state/0/{moment}/leave/bias' for moment in ('mu', 'nu')),
        *(f'1/inner_states/muon/inner_state/0/mu/{leaf}' for leaf in ('label_embedding', 'leave/kernel')),
      ],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_it_trains_on_four_devices_and_resumes_bit_for_bit(tmp_path, name, split):
  command = [sys.executable, '-c', TRAIN, tmp_path, name]
  done = subprocess.run(command, env=virtual(4), capture_output=True, text=True, timeout=280)
  assert done.returncode == 0, done.stdout + done.stderr
  assert json.loads(done.stdout.splitlines()[-1]) == {'moved': True, 'split': split, 'updates': 8}
