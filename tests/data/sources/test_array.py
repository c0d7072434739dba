from __future__ import annotations

import re

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data.sources import array as arrays


class Payload:
  """Unpickled, it would write a file."""

  def __reduce__(self):
    return open, ('canary', 'w')


def raises(error, message):
  return pytest.raises(error, match=f'^{re.escape(message)}$')


def test_only_the_frames_that_are_asked_for_are_copied(tmp_path):
  video = np.arange(20 * 4 * 6 * 3, dtype=np.int64).astype(np.uint8).reshape(20, 4, 6, 3)
  np.save(tmp_path / 'a.npy', video)
  window = arrays.read_array(tmp_path / 'a.npy', start=3, num_frames=4, frame_skip=5, max_bytes=4 * 4 * 6 * 3)
  np.testing.assert_array_equal(window, video[[3, 8, 13, 18]])
  assert window.base is None
  assert arrays.probe_array(tmp_path / 'a.npy') == (20, 0.0, (4, 6))
  with raises(
    ValueError,
    f'{tmp_path}/a.npy: 4 frames of 4x6 take 0.0 GB, but at most 0.0 GB are read at once; resize the file, or lower '
    'data.num_frames.',
  ):
    arrays.read_array(tmp_path / 'a.npy', start=0, num_frames=4, frame_skip=1, max_bytes=4 * 4 * 6 * 3 - 1)


def test_arrays_are_refused_without_running_anything(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'a.npy'
  needed = 'but uint8 [t h w c] with 1 or 3 channels is needed; replace or remove it.'
  for array, message in [
    (np.zeros((2, 4, 6), np.uint8), f'{path}: holds uint8 (2, 4, 6), {needed}'),
    (np.zeros((2, 4, 6, 4), np.uint8), f'{path}: holds uint8 (2, 4, 6, 4), {needed}'),
    (np.zeros((2, 4, 6, 3), np.float32), f'{path}: holds float32 (2, 4, 6, 3), {needed}'),
    (
      np.zeros((0, 4, 6, 3), np.uint8),
      f'{path}: there are no frames in this file, its shape is (0, 4, 6, 3); remove it.',
    ),
  ]:
    np.save(path, array)
    with pytest.raises(ValueError) as caught:
      arrays.probe_array(path)
    assert str(caught.value) == message
  np.save(path, np.array([Payload()], object), allow_pickle=True)
  with pytest.raises(ValueError, match=r"cannot be read as a .npy file \(Array can't be memory-mapped: Python objects"):
    arrays.probe_array(path)
  with open(path, 'wb') as file:
    np.lib.format.write_array_header_1_0(
      file, {'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 1000, 1000, 3)}
    )
  with pytest.raises(ValueError, match='cannot be read as a .npy file'):
    arrays.probe_array(path)
  path.write_bytes(b'\x93NUMPY')
  with pytest.raises(ValueError, match='cannot be read as a .npy file'):
    arrays.probe_array(path)
  assert not (tmp_path / 'canary').exists()


def test_many_clips_in_one_file(tmp_path):
  clips = np.random.default_rng(0).integers(0, 256, (23, 5, 4, 6, 1)).astype(np.uint8)
  path = tmp_path / 'clips.npy'
  np.save(path, clips)
  sources = {split: data.Array(path, split, num_frames=5, frame_rate=10.0) for split in ('train', 'test')}
  found = {}
  for source in sources.values():
    for i, name in enumerate(source.names):
      clip = source.read(i, np.random.default_rng(0), 5)
      found[int(name)] = clip.video
      assert (clip.caption, clip.label, clip.frame_rate, clip.resolution) == ('', None, 10.0, (4, 6))
  np.testing.assert_array_equal([found[i] for i in range(23)], clips)
  assert 1 <= len(sources['test']) <= 6
  with raises(
    ValueError,
    f'{path}: holds uint8 (5, 4, 6, 1), but uint8 [n t h w c] with 1 or 3 channels is needed; replace or remove it.',
  ):
    np.save(path, clips[0])
    data.Array(path, 'train', num_frames=5)
  with raises(
    FileNotFoundError,
    f"data.path='{tmp_path}' is not a file; it must name a .npy file of uint8 [n t h w c].",
  ):
    data.Array(tmp_path, 'train', num_frames=5)
