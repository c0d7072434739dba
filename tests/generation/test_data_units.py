"""Samples of data that are not pictures: exact files in the data's units, and commands that measure pictures refuse."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import configuration
from vdm_jax.data.normalization import make
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.evaluate_run import evaluate_run
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.generation.outputs import write_sample
from vdm_jax.generation.request import Request
from vdm_jax.generation.short_sample import sample_short
from vdm_jax.generation.task import make_task
from vdm_jax.runs import Run
from vdm_jax.video import reading, to_uint8

VALUES = ((270.0, 310.0), (-5.0, 5.0))  # kelvin, meters per second


@pytest.fixture
def config():
  config = configuration.default()
  config.data.update(channels=2, normalization='range', normalization_values=VALUES)
  return config


def test_a_sample_is_written_exactly_in_the_units_of_the_data(tmp_path):
  x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 2)).astype(np.float32)
  normalize = make('range', VALUES, channels=2)
  files = write_sample(x, tmp_path / 'a', 8, ('mp4',), normalize)
  assert [file.name for file in files] == ['a.mp4', 'a.npy']
  written = np.load(tmp_path / 'a.npy')
  assert written.dtype == np.float32
  np.testing.assert_allclose(written, np.stack([290 + 20 * x[..., 0], 5 * x[..., 1]], -1), rtol=1e-6, atol=1e-6)
  shown = normalize.pictures(x)
  np.testing.assert_array_equal(shown, x[..., :1])
  seen = reading.read_video(tmp_path / 'a.mp4')[:, 8::16, 8::16, :1]  # enlarged by 16
  assert np.abs(seen.astype(int) - to_uint8(shown)).max() <= 3


def test_pictures_have_no_other_file(tmp_path):
  write_sample(np.zeros((3, 8, 8, 1), np.float32), tmp_path / 'a', 8, ('mp4', 'gif'), make('pixels', channels=1))
  assert sorted(file.name for file in tmp_path.iterdir()) == ['a.gif', 'a.mp4']


def test_commands_for_pictures_refuse_before_anything_is_read(config, tmp_path):
  with raises(InvalidInput, '--protocol=digits', "data.normalization='range'", '.npy'):
    evaluate_run(config, Run(tmp_path), EvalOptions(protocol='digits'))
  with raises(InvalidInput, "data.normalization='range'", 'make_long_generator'):
    make_task(config, Request(num_frames=64))
  config.data.normalization = 'standard'
  with raises(InvalidInput, 'sampling.threshold', "'none'"):
    sample_short(config, Run(tmp_path), str(tmp_path / 'out'), Request())
  assert not (tmp_path / 'out').exists()
