"""Clips as models see them, for measurements and previews."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.batches import configure

from vdm_jax import data
from vdm_jax.video import to_uint8


def test_squashed_clips_show_the_whole_frame_in_training_and_measurement(tmp_path):
  frame = np.zeros((12, 24, 3), np.uint8)
  frame[:, :4], frame[:, -4:] = (255, 0, 0), (0, 0, 255)  # cut off by a central crop
  np.save(tmp_path / 'a.npy', np.stack([frame] * 4))
  settings = {'num_frames': 4, 'height': 12, 'width': 12, 'channels': 3, 'frame_rate': 8.0, 'train_on_all': True}
  settings |= {'text': 'none', 'labels': False, 'num_images': 0}
  found = {}
  for resize in ('cover', 'squash'):
    config = configure(name='folder', path=str(tmp_path), batch_size=1, resize=resize, **settings)
    found[resize] = data.ExampleClips(config, 'train', seed=0, num_frames=4)[0].video
    batch = next(data.build(config, None, seed=0))
    np.testing.assert_array_equal(to_uint8(batch.x[0]), found[resize])
  assert not found['cover'].any(), 'the middle is black'
  assert (found['squash'][0, 6, 0] == [255, 0, 0]).all() and (found['squash'][0, 6, -1] == [0, 0, 255]).all()
  with pytest.raises(ValueError, match="data.resize='stretch' is unknown: choose one of cover, squash"):
    next(data.build(configure(name='folder', path=str(tmp_path), resize='stretch', **settings), None, seed=0))
