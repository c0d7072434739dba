from __future__ import annotations

import numpy as np
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data.sources import array as arrays


class Payload:
  """Unpickled, it would write a file."""

  def __reduce__(self):
    return open, ('canary', 'w')


def test_only_the_requested_frames_are_copied(tmp_path):
  video = np.arange(20 * 4 * 6 * 3, dtype=np.int64).astype(np.uint8).reshape(20, 4, 6, 3)
  np.save(tmp_path / 'a.npy', video)
  window = arrays.read_array(tmp_path / 'a.npy', [3, 8, 13, 18], max_bytes=4 * 4 * 6 * 3)
  np.testing.assert_array_equal(window, video[[3, 8, 13, 18]])
  assert window.base is None
  assert arrays.probe_array(tmp_path / 'a.npy') == (20, 0.0, (4, 6))
  with raises(ValueError, f'{tmp_path}/a.npy', '4 frames of 4x6', 'data.num_frames'):
    arrays.read_array(tmp_path / 'a.npy', range(4), max_bytes=4 * 4 * 6 * 3 - 1)


def test_arrays_are_refused_without_running_anything(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = tmp_path / 'a.npy'
  for array, found in [
    (np.zeros((2, 4, 6), np.uint8), 'uint8 (2, 4, 6)'),
    (np.zeros((2, 4, 6, 4), np.complex64), 'complex64 (2, 4, 6, 4)'),
    (np.zeros((2, 4, 6, 3), bool), 'bool (2, 4, 6, 3)'),
    (np.zeros((0, 4, 6, 3), np.uint8), '(0, 4, 6, 3)'),
  ]:
    np.save(path, array)
    with raises(ValueError, path, found):
      arrays.probe_array(path)
  np.save(path, np.array([Payload()], object), allow_pickle=True)
  with raises(ValueError, path, "Array can't be memory-mapped: Python objects"):
    arrays.probe_array(path)
  with open(path, 'wb') as file:
    np.lib.format.write_array_header_1_0(
      file, {'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 1000, 1000, 3)}
    )
  with raises(ValueError, path):
    arrays.probe_array(path)
  path.write_bytes(b'\x93NUMPY')
  with raises(ValueError, path):
    arrays.probe_array(path)
  assert not (tmp_path / 'canary').exists()


def test_many_clips_in_one_file(tmp_path):
  clips = np.random.default_rng(0).integers(0, 256, (23, 5, 4, 6, 1)).astype(np.uint8)
  path = tmp_path / 'clips.npy'
  np.save(path, clips)
  sources = {
    split: data.StoredClips(data.Array(path), split, num_frames=5, frame_rate=10.0) for split in ('train', 'test')
  }
  found = {}
  for source in sources.values():
    for i, name in enumerate(source.names):
      clip = source.read(i, np.random.default_rng(0), 5)
      found[int(name)] = clip.video
      assert (clip.caption, clip.label, clip.frame_rate, clip.resolution) == ('', None, 10.0, (4, 6))
  np.testing.assert_array_equal([found[i] for i in range(23)], clips)
  assert 1 <= len(sources['test']) <= 6
  with raises(ValueError, path, 'uint8 (5, 4, 6, 1)', '[n t h w c] of uint8'):
    np.save(path, clips[0])
    data.Array(path)
  with raises(FileNotFoundError, f'data.path={str(tmp_path)!r}'):
    data.Array(tmp_path)
