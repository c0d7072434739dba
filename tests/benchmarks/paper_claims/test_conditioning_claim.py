"""The clips that are continued, and how what was made of them is scored."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.benchmarks.paper_claims import conditioning
from vdm_jax.video import to_float


@pytest.fixture
def config():
  return conditioning.RUN.config()


def test_the_true_future_keeps_its_digit(config):
  videos, digits = conditioning.heldout_clips(config, 12, 32)
  kept = conditioning.score(videos, digits, [4, 8])
  other = conditioning.score(videos, (digits + 1) % 10, [4, 8])
  assert kept['identity'] > 0.9 and other['identity'] < 0.1
  spliced = np.concatenate([videos[:, :11], np.roll(videos, 1, axis=0)[:, 11:]], axis=1)
  smooth, seam = (conditioning.score(one, digits, [4, 11])['seam_score'] for one in (videos, spliced))
  assert seam > smooth + 1, 'digits move a pixel every second frame, not at odd ones'


def test_clips_are_those_of_no_training_and_of_the_seed(config):
  first, _ = conditioning.heldout_clips(config, 3, 16)
  trained = [clip.video for clip in data.examples(config.data, 'train', seed=0, count=3, num_frames=16)]
  assert not np.array_equal(first, to_float(np.stack(trained)))
  config.seed = 1
  assert not np.array_equal(first, conditioning.heldout_clips(config, 3, 16)[0])
