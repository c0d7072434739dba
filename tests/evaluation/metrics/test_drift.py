"""Drift along a video: closed forms of color, motion and seams."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from vdm_jax.evaluation import drift


def noise(num_frames, seed=0, shape=(5, 6, 3)):
  return np.random.default_rng(seed).integers(0, 256, (num_frames, *shape)).astype(np.uint8)


def shifted(num_frames):
  """A random picture that moves one pixel a frame around a ring."""
  picture = noise(1, shape=(7, 16, 3))[0]
  return np.stack([np.roll(picture, frame, axis=1) for frame in range(num_frames)])


def gray(levels):
  return np.full((len(levels), 4, 4, 1), np.array(levels)[:, None, None, None], np.uint8)


def test_a_constant_speed_has_no_seams():
  found = drift(shifted(30), [0, 7, 8, 20])
  assert [seam['frame'] for seam in found['seams']] == [7, 8, 20]
  assert [seam['score'] for seam in found['seams']] == [1.0, 1.0, 1.0]
  assert found['seam_score'] == 1.0
  moving = [block['motion'] for block in found['blocks'] if block['first'] < block['last']]
  assert len(moving) == 3
  assert len(set(moving)) == 1


def test_a_cut_scores_its_change_over_the_mean_change_of_both_blocks():
  """Three pairs that change by 2 levels, then two that change by 7: the mean is 4, and the cut changes 60 levels."""
  found = drift(gray([10, 12, 14, 16, 76, 83, 90]), [0, 4])
  assert [block['motion'] for block in found['blocks']] == pytest.approx([2 / 127.5, 7 / 127.5], rel=1e-15)
  assert found['seams'] == [{'frame': 4, 'change': pytest.approx(60 / 127.5, rel=1e-15), 'score': 15.0}]
  assert found['seam_score'] == 15.0


def test_the_sign_of_a_change_does_not_matter():
  levels = [10, 12, 14, 16, 76, 83, 90]
  mirrored = [255 - level for level in levels]
  assert drift(gray(levels), [0, 4])['seams'] == drift(gray(mirrored), [0, 4])['seams']
  assert drift(gray([0, 255, 0, 255]), [0, 2])['seams'][0]['change'] == 2.0  # black to white is the whole range


@pytest.mark.parametrize('starts', [[0], [0, 1, 2, 9], [3, 5, 12]])
def test_colors_and_motion_are_those_of_numpy(starts):
  video = noise(13)
  floats = video / 127.5 - 1
  found = drift(video, starts)
  bounds = sorted({0, *starts, 13})
  assert [(block['first'], block['last']) for block in found['blocks']] == [
    (first, end - 1) for first, end in zip(bounds[:-1], bounds[1:], strict=True)
  ]
  for block in found['blocks']:
    part = floats[block['first'] : block['last'] + 1]
    np.testing.assert_allclose(block['color_mean'], part.mean(axis=(0, 1, 2)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(block['color_std'], part.std(axis=(0, 1, 2)), rtol=0, atol=1e-13)
    if len(part) > 1:
      assert block['motion'] == pytest.approx(np.abs(np.diff(part, axis=0)).mean(), rel=1e-13)
    else:
      assert block['motion'] is None
  for seam in found['seams']:
    change = np.abs(floats[seam['frame']] - floats[seam['frame'] - 1]).mean()
    assert seam['change'] == pytest.approx(change, rel=1e-13)


def test_frames_before_the_first_start_are_a_separate_block():
  found = drift(shifted(12), [4, 8])
  assert [block['name'] for block in found['blocks']] == ['given', '0', '1']
  assert [seam['frame'] for seam in found['seams']] == [4, 8]
  assert [block['name'] for block in drift(shifted(12), [0, 8])['blocks']] == ['0', '1']


@pytest.mark.parametrize('chunk', [1, 90, 180, 91 * 4, 10**9])
def test_the_result_does_not_depend_on_the_chunk(chunk):
  assert drift(noise(17), [2, 3, 11], chunk=chunk) == drift(noise(17), [2, 3, 11])


def test_a_mapped_file_is_read_in_parts(tmp_path):
  np.save(tmp_path / 'a.npy', noise(40))
  read = []

  class Recorded:
    """An array that records how many frames are read at a time."""

    def __init__(self, array):
      self.array, self.shape, self.ndim, self.dtype = array, array.shape, array.ndim, array.dtype

    def __len__(self):
      return len(self.array)

    def __getitem__(self, where):
      read.append(len(self.array[where]))
      return self.array[where]

  mapped = np.load(tmp_path / 'a.npy', mmap_mode='r', allow_pickle=False)
  assert drift(Recorded(mapped), [0, 30], chunk=4 * 90) == drift(noise(40), [0, 30])
  assert max(read) == 5  # four frames and the following one


def test_undefined_values_are_null():
  still = drift(gray([9, 9, 200, 200]), [0, 2])
  assert [seam['score'] for seam in still['seams']] == [None]
  assert still['seam_score'] is None
  single = drift(gray([1, 2, 3]), [0, 1, 2])
  assert [block['motion'] for block in single['blocks']] == [None, None, None]
  assert [seam['score'] for seam in single['seams']] == [None, None]
  mixed = drift(gray([9, 9, 200, 206, 208, 210]), [0, 2, 3])
  assert [seam['score'] for seam in mixed['seams']] == [None, 3.0]
  assert mixed['seam_score'] == 3.0
  assert drift(gray([5]), [0])['seams'] == []


def test_the_record_is_plain_json():
  found = drift(noise(9), np.array([2, 5]))
  assert json.loads(json.dumps(found, allow_nan=False)) == found
  assert found['frames'] == 9


@pytest.mark.parametrize('starts', [[], [-1, 2], [3, 3], [4, 2], [0, 9]])
def test_bad_starts_are_named(starts):
  with pytest.raises(ValueError, match=re.escape(f'drift: starts={starts} ') + '.* from 0 to 8'):
    drift(noise(9), starts)


def test_other_errors():
  with pytest.raises(ValueError, match=re.escape('drift: starts=[0, 1.5] are not integers')):
    drift(noise(9), [0, 1.5])
  with pytest.raises(ValueError, match=re.escape('drift: the video is float32 [9, 5, 6, 3]; pass uint8 [t h w c]')):
    drift(noise(9).astype(np.float32), [0])
  with pytest.raises(ValueError, match=re.escape('drift: the video is uint8 [0, 5, 6, 3];')):
    drift(noise(0), [0])
