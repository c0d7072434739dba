"""The tutorial on scientific video, at a tiny size: its data solve their equation, and every step runs in its units."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.code_blocks import REPOSITORY, blocks

PAGE = REPOSITORY / 'docs' / 'tutorials' / 'scientific_video.md'
SIZES = {
  'CLIPS, STEPS, POINTS = ': '40, 2, 3',
  'NETWORK = ': "{'base_channels': 8, 'channel_multipliers': (1,), 'attention_resolutions': ()}",
}


def run(folder, count=None) -> dict[str, object]:
  """Runs the first Python blocks of the page with 40 clips, 2 steps, 3 noise levels and one level of 8 channels."""
  namespace: dict[str, object] = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for block in [block for block in blocks(PAGE) if block.language == 'python'][:count]:
      text = block.text
      for name, value in SIZES.items():
        text = re.sub(f'^{name}.*$', name + value, text, flags=re.MULTILINE)
      exec(compile(text, block.place, 'exec'), namespace)
  return namespace


@pytest.fixture(scope='module')
def tutorial(tmp_path_factory):
  """The variables of the page after all of it ran."""
  return run(tmp_path_factory.mktemp('fluid'))


def test_the_data_solve_the_equation_of_advection_and_diffusion(tmp_path):
  """Every mode turns by the same angle in every frame, and its energy decays with twice the rate times k squared."""
  train, k = run(tmp_path, 1)['train'].astype(np.float64), 2 * np.pi * np.fft.fftfreq(16)
  spectrum = np.fft.fft2(train - 20, axes=(2, 3))
  energy = np.abs(spectrum) ** 2
  squared = np.add.outer(k**2, k**2)
  there = energy[:, 0, ..., 0] > 1
  for channel, rate in enumerate((0.0, 0.3)):
    found = np.log(energy[:, 3, ..., channel][there] / energy[:, 0, ..., channel][there])
    expected = np.broadcast_to(-2 * 3 * rate * squared, there.shape)[there]
    np.testing.assert_allclose(found, expected, atol=0.02)
  phase = np.angle(spectrum[:, 2, 1, 0, 0] / spectrum[:, 1, 1, 0, 0])  # the same turn in every frame
  np.testing.assert_allclose(phase, np.angle(spectrum[:, 1, 1, 0, 0] / spectrum[:, 0, 1, 0, 0]), atol=1e-3)


def test_predictions_keep_the_given_frames_in_the_units_of_the_data(tutorial):
  predicted, test = tutorial['predicted'], tutorial['test']
  assert predicted.shape == test.shape == (16, 8, 16, 16, 2)
  np.testing.assert_allclose(predicted[:, :2], test[:, :2], atol=1e-4)
  (low, high), _ = tutorial['values']
  assert low - 1e-4 <= predicted[:, 2:, ..., 0].min() and predicted[:, 2:, ..., 0].max() <= high + 1e-4
  assert tutorial['error'](test) == 0 and tutorial['error'](test + 3) == pytest.approx(3, rel=1e-5)


def test_the_coarse_measurement_is_the_mean_of_the_cells(tutorial):
  coarse, test = tutorial['coarse'], tutorial['test']
  np.testing.assert_allclose(coarse[3, 2, 1, 0, 1], test[3, 2, 4:8, :4, 1].mean(), rtol=1e-6)
  assert tutorial['bicubic'].shape == tutorial['resolved'].shape == test.shape
