"""The clips that are continued, and the scores of continuations."""

from __future__ import annotations

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.benchmarks.paper_claims import conditioning
from vdm_jax.video import to_float


@pytest.fixture
def config():
  return conditioning.RUN.config()


def test_the_true_continuation_keeps_its_digit(config):
  videos, digits = conditioning.heldout_clips(config, 12, 32)
  kept = conditioning.score(videos, digits, [4, 8])
  other = conditioning.score(videos, (digits + 1) % 10, [4, 8])
  assert kept['identity'] > 0.9 and other['identity'] < 0.1
  spliced = np.concatenate([videos[:, :11], np.roll(videos, 1, axis=0)[:, 11:]], axis=1)
  smooth, seam = (conditioning.score(one, digits, [4, 11])['seam_score'] for one in (videos, spliced))
  assert seam > smooth + 1, 'digits move a pixel every second frame, not in odd ones'


def test_clips_are_held_out_and_depend_on_the_seed(config):
  first, _ = conditioning.heldout_clips(config, 3, 16)
  trained = [clip.video for clip in data.examples(config.data, 'train', seed=0, count=3, num_frames=16)]
  assert not np.array_equal(first, to_float(np.stack(trained)))
  config.seed = 1
  assert not np.array_equal(first, conditioning.heldout_clips(config, 3, 16)[0])
