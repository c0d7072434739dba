"""The record of the protocol `digits`, for a model that repeats its training clips and for one that stands still."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax import configuration, data
from vdm_jax.evaluation import evaluate_digits


@pytest.fixture(scope='module')
def config():
  config = configuration.default().data
  config.update(name='digits', num_frames=8, height=16, width=16, channels=1)
  return config


@pytest.fixture(scope='module')
def copied(config):
  clips = data.to_float(np.stack([clip.video for clip in data.examples(config, 'train', seed=0, count=120)]))
  return evaluate_digits(lambda prompts: clips, config)


def test_a_model_that_repeats_training_clips_is_found_out(copied):
  assert copied['frechet'] == copied['real']['frechet'] and copied['num_videos'] == 120
  assert copied['memorisation']['samples'] < 1e-3 < copied['memorisation']['held_out']
  assert copied['memorisation']['share_near'] > 0.99 and copied['memorisation']['training_clips'] == 1000
  assert 0.9 < copied['motion']['ratio'] < 1.1 and not copied['motion']['dynamic_images']
  assert copied['diversity']['precision'] > 0.5 and len(copied['weights']) == 64


def test_a_model_of_one_still_picture_moves_nothing_and_has_no_diversity(config, copied):
  still = np.repeat(data.to_float(data.examples(config, 'test', seed=0, count=1)[0].video[:1]), 8, axis=0)
  record = evaluate_digits(lambda prompts: np.repeat(still[None], len(prompts), axis=0), config)
  assert record['motion']['ratio'] == 0 and record['motion']['dynamic_images']
  assert record['diversity']['pairwise_per_prompt'] < 1e-3 < copied['diversity']['pairwise_per_prompt']
  assert record['diversity']['recall'] == 0 < copied['diversity']['recall']
