"""The record of the protocol `digits`, for a model that copies its training clips and for one that does not move."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax import configuration, data
from vdm_jax.evaluation import evaluate_digits, parse_caption
from vdm_jax.evaluation.digits.digit_protocol import trained_clips
from vdm_jax.video import to_float


@pytest.fixture(scope='module')
def config():
  config = configuration.default().data
  config.update(name='digits', num_frames=8, height=16, width=16, channels=1)
  return config


@pytest.fixture(scope='module')
def copied(config):
  """The record of a model that copies its last training clips, trained on 600 clips in the order of seed 3."""
  config.update(text='none', labels=True, batch_size=60)
  batches = data.build(config, None, seed=3)
  seen = [next(batches).x for _ in range(10)]
  return evaluate_digits(lambda prompts: np.concatenate(seen[-2:]), config, seed=3, num_trained=600)


def test_the_clips_trained_on_are_those_of_the_training_stream(config):
  config = config.copy_and_resolve_references()
  config.update(text='none', labels=True, batch_size=5)
  batches = data.build(config, None, seed=7)
  seen = [next(batches) for _ in range(4)]
  clips, captions = trained_clips(config, 7, 20)
  np.testing.assert_array_equal(to_float(clips), np.concatenate([batch.x for batch in seen]))
  labels = [digit * 4 + direction for digit, direction in map(parse_caption, captions)]
  assert labels == np.concatenate([batch.cond.label[:, 0] for batch in seen]).tolist()
  assert not np.array_equal(trained_clips(config, 8, 20)[0], clips)


def test_a_model_that_copies_training_clips_is_detected(copied):
  assert copied['num_videos'] == 120
  assert copied['memorisation']['samples'] < 1e-3 < copied['memorisation']['held_out']
  assert copied['memorisation']['share_near'] > 0.99 and copied['memorisation']['training_clips'] == 600
  assert 0.9 < copied['motion']['ratio'] < 1.1 and not copied['motion']['dynamic_images']
  assert copied['precision'] > 0.5 and copied['detail'] is None and len(copied['weights']) == 64
  assert 0.4 < copied['frechet_frames'] / copied['real']['frechet_frames'] < 2.5
  assert copied['recall'] == pytest.approx(copied['real']['recall'], abs=0.15)


def test_held_out_clips_are_not_detected_as_copies(config):
  clips = to_float(np.stack([clip.video for clip in data.examples(config, 'test', seed=5, count=120)]))
  found = evaluate_digits(lambda prompts: clips, config, seed=3, num_trained=600)['memorisation']
  assert found['share_near'] < 0.15 and 0.8 < found['ratio'] < 1.2


def test_memorization_is_null_without_training_clips(config):
  clips = np.zeros((120, 8, 16, 16, 1), np.float32)
  assert evaluate_digits(lambda prompts: clips, config, num_trained=0)['memorisation'] is None


def test_a_model_of_one_still_picture_has_no_motion_and_no_diversity(config, copied):
  still = np.repeat(to_float(data.examples(config, 'test', seed=0, count=1)[0].video[:1]), 8, axis=0)
  record = evaluate_digits(lambda prompts: np.repeat(still[None], len(prompts), axis=0), config, num_trained=100)
  assert record['motion']['ratio'] == 0 and record['motion']['dynamic_images']
  assert record['diversity']['pairwise_per_prompt'] < 1e-3 < copied['diversity']['pairwise_per_prompt']
  assert record['recall'] == 0 < copied['recall']
