"""The benchmark of one training step: it trains, its FLOP counts are consistent, and it compares medians."""

from __future__ import annotations

import json
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.standin_network import standin

from vdm_jax.benchmarks import unet_step


def test_the_training_step_lowers_the_loss():
  model = standin()
  init, train_step = unet_step.make_train_step(model)
  params = jax.jit(model.init)(jax.random.key(0))
  state, step = (params, init(params)), jax.jit(train_step)
  x = jnp.linspace(-1, 1, 8 * 8 * 8 * 3).reshape(1, *model.video_shape)
  losses = []
  for _ in range(8):
    *state, loss = step(*state, x, jax.random.key(1))
    losses.append(float(loss))
  assert np.all(np.diff(losses) < 0)


@pytest.mark.slow
def test_flops_are_three_forward_passes_and_proportional_to_the_batch():
  model = unet_step.build(num_frames=2, size=8)
  one, two = (unet_step.describe(model, batch) for batch in (1, 2))
  assert two['train_step_flops'] == pytest.approx(3 * two['forward_flops'], rel=0.01)
  assert one['parameters'] == two['parameters']
  # The work is proportional to the batch.
  assert {2 * one[name] - two[name] for name in ('train_step_flops', 'forward_flops')} == {0}


def command(source: str) -> str:
  return f'{shlex.quote(sys.executable)} -c {shlex.quote(source)}'


def test_a_command_is_read_as_json():
  figures = {'train_step_seconds': 1.5, 'forward_seconds': 0.5, 'parameters': 7}
  assert unet_step.run_command(command(f'print({json.dumps(json.dumps(figures))})')) == figures


def test_a_command_that_fails_or_omits_a_time_is_an_error():
  with pytest.raises(ValueError, match='failed with exit status 3: no luck$'):
    unet_step.run_command(command('import sys; sys.stderr.write("no luck"); sys.exit(3)'))
  source = command('print(\'{"forward_seconds": 1}\')')
  with pytest.raises(ValueError, match=f'^{re.escape(source)} .*train_step_seconds is missing'):
    unet_step.run_command(source)


def test_ratios_are_of_medians_over_alternating_rounds():
  order = []

  def side(name, steps):
    values = iter(steps)

    def once():
      order.append(name)
      return {'train_step_seconds': next(values), 'forward_seconds': 1.0, 'train_step_flops': 12}

    return once

  result = unet_step.compare(side('a', [1.0, 9.0, 2.0]), side('b', [6.0, 8.0, 99.0]), 3)
  assert order == ['a', 'b'] * 3
  assert result['times_faster'] == {'train_step': 4.0, 'forward': 1.0}
  assert result['ours'] == {
    'train_step_seconds': 2.0,
    'forward_seconds': 1.0,
    'train_step_flops': 12,
    'train_step_flops_per_second': 6.0,
  }
  assert result['against']['train_step_flops_per_second'] == 1.5
  assert result['rounds']['train_step_seconds'] == [[1.0, 6.0], [9.0, 8.0], [2.0, 99.0]]
