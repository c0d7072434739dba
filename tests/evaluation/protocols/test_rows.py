"""Published rows: which of them a run reproduces, and what is printed beside a value."""

from __future__ import annotations

import pytest

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, sweeps
from vdm_jax.evaluation.protocols import rows
from vdm_jax.jobs import experiments


def points(name, experiment):
  config = experiments.load(experiment)
  return sweeps.points(PROTOCOLS[name], 'rows', config), sweeps.left_out(PROTOCOLS[name], config)


def test_rows_of_a_run_set_the_sampler_of_each():
  found, others = points('vdm-kinetics600-50k', 'kinetics600')
  assert others == [] and [(p.changes['num_steps'], p.changes['langevin_delta']) for p in found] == [
    (256, 0.0),
    (128, 0.1),
  ]
  assert all(p.changes['reconstruction_weight'] == 9.0 and p.changes['gamma'] == 0.0 for p in found)
  found, others = points('vdm-bair-100x256', 'bair')
  assert others == [] and [(p.changes['num_steps'], p.changes['langevin_delta']) for p in found] == [
    (512, 0.0),
    (256, 0.1),
  ]
  found, others = points('vdm-t2v-64', 't2v_large')
  settings = [(p.changes['guidance_weight'], p.changes['conditioning']) for p in found]
  assert settings == [(1.0, 'reconstruction'), (1.0, 'redraw'), (4.0, 'reconstruction'), (4.0, 'redraw')]
  assert others == []


@pytest.mark.parametrize(
  ('protocol', 'experiment', 'expected'),
  [
    ('vdm-t2v-4096', 't2v_small:images4', [('Table 4', 'data.num_images=4')]),
    ('vdm-t2v-4096', 't2v_large:skip4', [('Table 5', f'data.frame_skip=4, guidance_weight={w}') for w in (0, 1, 4)]),
    ('snap-internal-50k', 'snap_unet_284m', [('Table 2', 'model.base_channels=192')]),
    ('snap-internal-50k', 'snap_ablation:ii', [('Table 3', 'model.sigma_data=0.5, model.sigma_in=4')]),
    ('snap-internal-50k', 'snap_ablation:i', [('Table 3', 'model.parameterization=edm')]),
    ('snap-internal-50k', 'snap_fit_500m', [('Table 2', 'latent_width=1024'), ('Table 3', 'latent_width=1024')]),
    ('snap-ucf101-10k', 'snap_fit_3b9_upsampler', [('Table 4', 'latent_width=3072')]),
  ],
)
def test_rows_of_other_models_are_left_out_by_name(protocol, experiment, expected):
  found, others = points(protocol, experiment)
  assert len(found) == len(expected) and len(found) + len(others) == len(rows.rows_of(PROTOCOLS[protocol]))
  for point, (table, setting) in zip(found, expected, strict=True):
    assert table in point.series and setting in point.series
  assert all(' is ' in reason and ', not ' in reason for reason in others)


def test_a_run_that_reproduces_no_row_is_refused():
  with pytest.raises(InvalidInput, match='(?s)none of the published rows .*Table 4.*data.num_images is 8, not 4'):
    sweeps.points(PROTOCOLS['vdm-t2v-4096'], 'rows', experiments.load('digits'))
  with pytest.raises(InvalidInput, match='--protocol=own, which has no published rows'):
    sweeps.points(PROTOCOLS['own'], 'rows', experiments.load('digits'))


def test_only_values_of_the_same_setting_are_called_published():
  config = experiments.load('t2v_large:skip4')
  published = PROTOCOLS['vdm-t2v-4096'].published

  def beside(**changes):
    return rows.beside(published, 'fvd', 'test', config.to_dict(), config.sampling.to_dict() | changes)

  assert beside(guidance_weight=1.0) == '; published 51.95 (Video Diffusion Models, Table 5)'
  others = beside(guidance_weight=1.0, num_steps=64)
  assert others.startswith('; published only for other settings: ') and '51.95 (num_steps=256)' in others
  marked = rows.published(published, config.to_dict(), config.sampling.to_dict())
  assert sum(figure['same_setting'] for figure in marked) == 10, 'one row: two values of five metrics'


def test_every_published_value_is_of_a_row():
  counts = {name: len(rows.rows_of(protocol)) for name, protocol in PROTOCOLS.items() if protocol.published}
  assert counts == {
    'vdm-ucf101-c3d-10k': 1,
    'vdm-bair-100x256': 2,
    'vdm-kinetics600-50k': 2,
    'vdm-kinetics600-50k-replacement': 1,
    'vdm-t2v-4096': 9,
    'vdm-t2v-64': 4,
    'snap-ucf101-10k': 1,
    'snap-msrvtt-59800': 1,
    'snap-internal-50k': 9,
  }
  assert len(PROTOCOLS['vdm-t2v-64'].published) == 40
