"""Settings that a configuration leaves open are those of the run that is resumed."""

from __future__ import annotations

import json

import numpy as np

from vdm_jax import configuration, data
from vdm_jax.jobs import arguments
from vdm_jax.runs import Run
from vdm_jax.video import write_mp4


def test_a_resumed_run_keeps_what_it_was_made_with(tmp_path):
  saved = configuration.to_dict(configuration.default())
  del saved['data']['word_rule'], saved['model']['word_rule']  # as an earlier version wrote it
  saved['sampling']['fps'] = 8
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  config = configuration.default()
  arguments.adopt(config, Run(tmp_path))
  assert config.data.word_rule == config.model.word_rule == 'whitespace'
  assert config.sampling.fps == 8
  config = configuration.default()
  config.data.word_rule = 'unicode'  # chosen, so that the difference is an error
  config.sampling.fps = 24.0
  arguments.adopt(config, Run(tmp_path))
  assert (config.data.word_rule, config.sampling.fps) == ('unicode', 24.0)


def test_a_new_or_damaged_run_changes_nothing(tmp_path):
  for content in (None, '{'):
    if content:
      (tmp_path / 'config.json').write_text(content)
    config = configuration.default()
    arguments.adopt(config, Run(tmp_path))
    assert config.data.word_rule == ''


def test_the_frame_rate_of_samples_is_that_of_the_clips(tmp_path):
  for name, fps in {'a': 24, 'b': 30000 / 1001, 'c': 30000 / 1001, 'd': 60}.items():
    write_mp4(tmp_path / f'{name}.mp4', np.zeros((6, 16, 16, 3), np.uint8), fps=fps)
  config = configuration.default()
  config.data.update({'name': 'folder', 'path': str(tmp_path), 'num_frames': 2, 'train_on_all': True})
  for changes, expected in (
    ({}, 29.97),
    ({'frame_skip': 2}, 14.985),
    ({'frame_skip': 1, 'target_frame_rate': 12.0}, 12),
    ({'target_frame_rate': 0.0, 'name': 'mixture', 'path': '', 'mixture': (f'folder:{tmp_path}',)}, 29.97),
    ({'name': 'digits', 'mixture': (), 'train_on_all': False}, 8),
    ({'num_frames': 1}, 0),
  ):
    config.data.update(changes)
    assert data.overview(config.data).frame_rate == expected, changes
  assert configuration.frames_per_second(config.sampling) == 8
  assert configuration.resolve(config, (), 29.97).sampling.fps == 29.97
  assert configuration.resolve(config, (), 12.0).sampling.fps == 29.97  # set when the run was made
