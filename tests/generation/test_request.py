"""Frame rates that are asked for and were not trained."""

from __future__ import annotations

import math

import pytest

from vdm_jax.generation.request import Request, untrained_rates
from vdm_jax.jobs import experiments
from vdm_jax.jobs.sample import _warn_of_rates


@pytest.mark.parametrize(
  ('experiment', 'changes', 'rates', 'outside'),
  [
    ('snap_fit_500m', {}, (2, 8, 24), [2]),  # 24 frames per second, of which every 1st to 6th frame: 4 and more
    ('snap_fit_500m', {}, (4, 8, 24, math.inf), []),  # and images
    ('snap_fit_500m', {'data.target_frame_rate': 24.0}, (3.9, 23.976, 30), [3.9, 30]),
    ('snap_fit_500m', {'data.image_rate': 0.0}, (24, math.inf), [math.inf]),
    ('t2v_large:skip4', {'data.frame_rate': 24.0}, (6, 24), [24]),
  ],
)
def test_trained_rates_are_those_of_the_clips_over_the_frame_skips(experiment, changes, rates, outside):
  config = experiments.load(experiment)
  config.update_from_flattened_dict(changes)
  assert untrained_rates(config, rates) == outside


def test_an_untrained_rate_is_named_before_sampling(capsys):
  config = experiments.load('snap_fit_500m')
  _warn_of_rates(config, Request(frame_rates=(2.0, 8.0, 24.0)))
  assert capsys.readouterr().err.startswith('warning: this model was not trained at these frame rates: 2. ')
  _warn_of_rates(config, Request(frame_rates=(4.0, 8.0, 24.0)))
  _warn_of_rates(experiments.load('t2v_large'), Request(frame_rate=100.0))  # not conditioned on frame rate
  assert capsys.readouterr().err == ''
