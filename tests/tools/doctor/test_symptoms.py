"""Faults are introduced one by one, and each is named; shipped configurations have none."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.tools.doctor import symptoms
from vdm_jax.training import state
from vdm_jax.video import to_float

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
ON_DIGITS = sorted(path.stem for path in CONFIGS.glob('digits*.py'))


def config_of(name):
  return runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()


@pytest.fixture(scope='module')
def clips():
  """float32 [128 8 16 16 1] in [-1, 1]."""
  found = data.examples(config_of('digits').data, 'train', seed=0, count=128)
  return to_float(np.stack([clip.video for clip in found]))


def test_clips_of_the_digits_have_no_fault(clips):
  for start in range(0, len(clips), 8):
    eight = clips[start : start + 8]
    assert symptoms.wrong_range(eight) is symptoms.wrong_axes(eight) is None


@pytest.mark.parametrize(
  ('spoil', 'text'),
  [
    (lambda x: 127.5 * (x + 1), 'from 0 to 255'),
    (lambda x: (x + 1) / 2, 'which looks like [0, 1]'),
    (lambda x: 2 * x + 1, 'from -1 to 3'),
    (lambda x: to_float(((x + 1) / 2).astype(np.uint8)), 'stored as uint8'),
    (lambda x: np.where(x > 0.9, np.nan, x), 'remove the NaNs'),
  ],
)
def test_a_wrong_range_is_named(clips, spoil, text):
  fault = symptoms.wrong_range(spoil(clips[:8]))
  assert fault.name == 'wrong range of x' and text in fault.text


@pytest.mark.parametrize(
  ('axes', 'steady'), [((0, 2, 1, 3, 4), 'rows'), ((0, 3, 2, 1, 4), 'columns'), ((0, 2, 3, 1, 4), 'columns')]
)
def test_a_wrong_order_of_axes_is_named(clips, axes, steady):
  for start in range(0, 128, 8):
    fault = symptoms.wrong_axes(clips[start : start + 8].transpose(axes))
    assert fault.name == 'wrong order of axes' and f'least along {steady}' in fault.text


def test_noise_and_still_images_have_no_wrong_axes():
  noise = np.random.default_rng(0).standard_normal((8, 6, 8, 10, 3))
  assert symptoms.wrong_axes(noise) is None
  assert symptoms.wrong_axes(np.repeat(noise[:, :1], 6, axis=1)) is None
  assert symptoms.wrong_axes(noise[:, :1]) is None


@pytest.mark.parametrize('given', [0.05, 5.0])
def test_a_wrong_sigma_data_is_named_if_it_is_used(clips, given):
  x = clips[:8]
  fault = symptoms.wrong_sigma_data(x, {'parameterization': 'edm', 'sigma_data': given})
  assert fault.name == 'wrong sigma_data' and f'model.sigma_data={given:g}, ' in fault.text
  assert symptoms.wrong_sigma_data(x, {'parameterization': 'v', 'sigma_data': given}) is None
  assert symptoms.wrong_sigma_data(x, {'parameterization': 'snap', 'sigma_data': float(x.std())}) is None


def left(training) -> float | None:
  """Return the share of the initial weights in the fault, in percent."""
  fault = symptoms.frozen_ema(training, state.ema_decay(training))
  return None if fault is None else int(fault.text.split('share of ')[1].split('%')[0])


def test_a_frozen_ema_is_named():
  training = config_of('digits').training
  assert left(training) is None
  training.update(ema_decay=0.9999, ema_warmup=False, num_steps=2_000)
  assert left(training) == round(100 * 0.9999**1_999)
  training.ema_warmup = True  # forgets the initial weights at once
  assert left(training) is None
  training.update(ema_half_life=2_000.0, ema_warmup=False)
  assert left(training) == 50
  training.update(ema_decay=0.0, ema_half_life=0.0)
  assert left(training) is None


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('[!_]*.py')), ids=lambda path: path.stem)
def test_no_shipped_configuration_has_a_frozen_ema(path):
  training = config_of(path.stem).training
  assert left(training) is None


@pytest.mark.parametrize('name', ON_DIGITS)
def test_no_shipped_configuration_on_digits_has_a_fault(name):
  config = config_of(name)
  found = data.examples(config.data, 'train', seed=0, count=8)
  x = to_float(np.stack([clip.video for clip in found]))
  faults = symptoms.wrong_range(x), symptoms.wrong_axes(x), symptoms.wrong_sigma_data(x, config.model)
  assert faults == (None, None, None)
