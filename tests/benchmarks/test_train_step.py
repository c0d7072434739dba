"""The benchmark of Snap's networks: its arithmetic in closed form, and the real training step at toy size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vdm_jax.benchmarks import train_step
from vdm_jax.tools.compilation.ideal import evaluation_flops
from vdm_jax.tools.compilation.programs import build_model

TINY = [
  'data.num_frames=2',
  'data.height=8',
  'data.width=8',
  'data.pad_rows=0',
  'data.text_length=3',
  'model.patch_width=16',
  'model.latent_width=16',
  'model.condition_width=16',
  'model.group_size=[2,1,1]',
  'model.num_latents=8',
  'model.num_blocks=2',
  'model.num_global_layers=1',
  'model.patch_head_width=8',
  'model.latent_head_width=8',
  'model.remat=none',
]


def test_a_configuration_is_loaded_with_variant_and_overrides():
  config = train_step.load('configs/snap_ablation.py:iii', TINY)
  assert config.model.sigma_in == 2.0 and config.model.group_size == (2, 1, 1) and config.model.remat == 'none'
  assert (config.model.height, config.data.text) == (8, 't5-11b')


@pytest.mark.slow
def test_the_real_step_is_measured():
  config = train_step.load('configs/snap_fit_500m.py', [*TINY, 'model.dtype=float32'])
  result = train_step.measure(config, 2, repeats=2)
  model = build_model(config)
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert result['parameters'] == sum(leaf.size for leaf in jax.tree.leaves(params))
  assert result['batch'] == 2 and result['train_step_ms_per_video'] > 0 and result['evaluation_ms_per_video'] > 0
  assert result['train_step_mfu'] is None, 'the table of peaks has no CPU'
  batch = train_step.random_batch(model, config, 3)
  flops = evaluation_flops(model, params, batch)
  assert result['evaluation_flops'] == flops / 3, 'work is per video'


@pytest.mark.parametrize(
  ('name', 'tera'),
  [('fit_500m', 0.702), ('fit_3b9', 6.433), ('fit_3b9_upsampler', 28.52), ('unet_85m', 0.691)]
  + [pytest.param('unet_284m', 1.863, marks=pytest.mark.slow)],
)
def test_forward_flops_are_those_of_the_model_cards(name, tera):
  """TFLOP per video, computed from the layers' sizes (for the U-Nets without relative positions)."""
  config = train_step.load(f'configs/snap_{name}.py', [])
  model = build_model(config)
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, train_step.random_batch(model, config, 1)))
  params = jax.eval_shape(model.init, jax.random.key(0))
  flops = evaluation_flops(model, params, batch)
  assert flops == pytest.approx(tera * 1e12, rel=0.01)


def test_table_2_is_printed_beside_the_measurement():
  results = [{'batch': 8, 'train_step_ms_per_video': 20.0, 'evaluation_ms_per_video': 5.25}]
  report = {'snap_fit_500m': results, 'snap_fit_3b9': [], 'snap_fit_3b9_upsampler': results}
  assert train_step.table_2(report).splitlines()[2:] == [
    '| snap_fit_500m | 8 | 20.0 | 69.5 | 5.2 | 23.4 |',
    '| snap_fit_3b9 | does not fit | | 526.0 | | 130.4 |',
  ]
  training = {name: printed[0] for name, printed in train_step.PAPER_MS.items()}
  assert round(training['snap_unet_284m'] / training['snap_fit_500m'], 2) == 3.31, 'the ratio that the abstract states'
  evaluation = {name: printed[1] for name, printed in train_step.PAPER_MS.items()}
  assert round(evaluation['snap_unet_284m'] / evaluation['snap_fit_500m'], 2) == 4.49
  assert set(train_step.PAPER_MS) < set(train_step.CONFIGS)


def test_utilization_counts_three_evaluations_and_the_self_conditioned_share():
  seconds = {'train_step': 2.0, 'evaluation': 0.5}
  found = train_step.rates(seconds, size=4, flops=8e12, self_condition_rate=0.9, peak=100e12)
  assert found == {
    'train_step_ms_per_video': 500.0,
    'train_step_mfu': pytest.approx(3.9 * 8 / 2 / 100),
    'evaluation_ms_per_video': 125.0,
    'evaluation_mfu': pytest.approx(8 / 0.5 / 100),
  }


def results(times):
  return lambda size: {'batch': size, 'train_step_ms_per_video': times[size]} if size in times else None


@pytest.mark.parametrize(
  ('times', 'tried', 'best'),
  [
    ({1: 9.0, 2: 5.0, 4: 3.0}, 3, 4),  # out of memory
    ({1: 9.0, 2: 5.0, 4: 4.99, 8: 1.0}, 3, 4),  # no longer faster
    ({1: 9.0, 2: 5.0, 4: 7.0, 8: 1.0}, 3, 2),  # slower again
    ({1: 9.0, 2: 5.0, 4: 3.0, 8: 2.0, 16: 1.0}, 4, 8),  # the last batch size
    ({}, 0, None),
  ],
)
def test_the_batch_doubles_while_the_rate_grows(times, tried, best):
  found = train_step.best_batch(results(times), 1, last=8)
  assert len(found) == tried and (found[-1]['batch'] if found else None) == best


def test_the_papers_ratio_is_reported_with_ours():
  times = {'train_step_ms_per_video': 2.0, 'evaluation_ms_per_video': 1.0}
  slower = {'train_step_ms_per_video': 6.0, 'evaluation_ms_per_video': 5.0}
  found = train_step.ratios({'snap_fit_500m': [slower, times], 'snap_unet_284m': [slower]})
  paper = {'train_step': 3.31, 'evaluation': 4.49}
  assert found == {'unet_284m_over_fit_500m': {'train_step': 3.0, 'evaluation': 5.0, 'paper': paper}}
  assert train_step.ratios({'snap_fit_500m': [times], 'snap_unet_284m': []}) == {}


def test_only_running_out_of_memory_is_a_result(monkeypatch):
  class Done:
    returncode, stdout = 1, ''

  for message, expected in (('RESOURCE_EXHAUSTED: Out of memory', None), ('KeyError', RuntimeError)):
    Done.stderr = message
    monkeypatch.setattr(train_step.subprocess, 'run', lambda *args, **kwargs: Done)
    if expected is None:
      assert train_step.measure_in_process('configs/x.py', 1, []) is None
    else:
      with pytest.raises(RuntimeError, match='KeyError'):
        train_step.measure_in_process('configs/x.py', 1, [])
