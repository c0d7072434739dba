"""What the doctor finds before any long work, one fault at a time, on the configurations as they are shipped."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from vdm_jax import doctor

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FAULTS = [
  ('digits_fit', {'sampling.fps': 0}, 'sampling.fps=0 must be positive: it is the frame rate of the videos.'),
  (
    'digits_fit',
    {'sampling.original_size': (16,)},
    'original_size=(16,) is no size: give height and width in pixels.',
  ),
  (
    'digits_fit',
    {'data.num_images': 4},
    'data.num_images=4: FIT takes no appended images, for its groups would mix them with the video. Set it to 0, and '
    'data.still_rate to train on images as videos.',
  ),
  (
    'digits_fit',
    {'model.patch_size': (4, 4)},
    'model.patch_size=(4, 4) must be three positive sizes: frames, rows, columns.',
  ),
  (
    'digits_fit',
    {'model.num_latents': 30},
    'model.num_latents=30 / 1 x 2 x 2 groups=4 leaves 2: use model.num_latents=28 or 32.',
  ),
  (
    'digits_fit',
    {'training.accept_mismatch': True},
    'training.accept_mismatch has no effect without training.first_stage: leave it out, or name one.',
  ),
  (
    'digits_fit',
    {'training.self_condition_rate': 0.0},
    'training.self_condition_rate=0.0, but model.self_conditioning=True: a network that hands on its latents must see '
    'them in training, and only such a one can. Snap uses 0.9; set both or neither.',
  ),
  (
    'digits',
    {'training.self_condition_rate': 0.9},
    'training.self_condition_rate=0.9, but model.self_conditioning=False: a network that hands on its latents must see '
    'them in training, and only such a one can. Snap uses 0.9; set both or neither.',
  ),
  (
    'digits_fit',
    {'sampling.churn': 0.1, 'sampling.churn_min': 2.0, 'sampling.churn_max': 1.0},
    'sampling.churn_min=2.0, churn_max=1.0: choose 0 <= churn_min < churn_max.',
  ),
  (
    'digits_fit_upsampler',
    {'training.first_stage': '', 'sampling.augmentation': 1.5},
    'sampling.augmentation=1.5 must be in [0, 1]: 0 leaves the low-resolution video as it is, 1 is noise alone.',
  ),
  (
    'digits_fit_upsampler',
    {'training.first_stage': 'runs/none'},
    'runs/none has no config.json: name the workdir of a training run, or a weights file.',
  ),
]


def shipped(name, changes):
  config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
  config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize(('name', 'changes', 'message'), FAULTS, ids=lambda value: str(value)[:40])
def test_faults_are_found_one_by_one(name, changes, message):
  assert doctor.problems(shipped(name, changes)) == [message]


@pytest.mark.parametrize('name', ['digits', 'digits_fit'])
def test_nothing_is_wrong_with_what_is_shipped(name):
  assert doctor.problems(shipped(name, {})) == []
