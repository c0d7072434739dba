"""Frames in files: reads return what was written, rounded to uint8, in any order and from any process."""

from __future__ import annotations

import numpy as np
from helpers.messages import raises

from vdm_jax.video.frame_store import FrameStore
from vdm_jax.video.transforms import to_float, to_uint8

SHAPE = (10, 4, 6, 3)


def frames(*lead):
  return np.random.default_rng(0).uniform(-1.2, 1.2, (*lead, *SHAPE[1:])).astype(np.float32)


def test_frames_are_read_in_any_order_rounded_to_uint8(tmp_path):
  store = FrameStore([tmp_path / 'a.npy', tmp_path / 'b.npy'], SHAPE)
  x = frames(2, 3)
  store.write([1, 0], [7, 2, 9], x)
  np.testing.assert_array_equal(store.read([0, 1], [9, 7]), to_float(to_uint8(x))[::-1][:, [2, 0]])
  np.testing.assert_array_equal(store.read([0], [0, 1, 3]), -1.0)  # never written


def test_the_file_is_a_plain_array(tmp_path):
  store = FrameStore([tmp_path / 'a.npy'], SHAPE)
  x = frames(1, 10)
  store.write([0], range(10), x)
  np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), to_uint8(x[0]))
  np.testing.assert_array_equal(store.video(0), to_uint8(x[0]))


def test_existing_files_are_continued(tmp_path):
  paths = [tmp_path / 'a.npy', tmp_path / 'b.npy']
  first = FrameStore(paths[:1], SHAPE)
  first.write([0], [3], frames(1, 1))
  again = FrameStore(paths, SHAPE)
  np.testing.assert_array_equal(again.read([0], [3]), first.read([0], [3]))
  again.write([0], [4], frames(1, 1))
  np.testing.assert_array_equal(again.read([0], [3]), again.read([0], [4]))


def test_a_file_of_another_size_raises(tmp_path):
  np.save(tmp_path / 'a.npy', np.zeros((9, 4, 6, 3), np.uint8))
  with raises(ValueError, tmp_path / 'a.npy', 'uint8 (9, 4, 6, 3)', 'uint8 (10, 4, 6, 3)'):
    FrameStore([tmp_path / 'a.npy'], SHAPE)
  (tmp_path / 'b.npy').write_bytes(b'no array')
  with raises(ValueError, tmp_path / 'b.npy'):
    FrameStore([tmp_path / 'b.npy'], SHAPE)


def test_a_frame_out_of_range_raises_and_nothing_is_overwritten(tmp_path):
  store = FrameStore([tmp_path / 'a.npy'], SHAPE)
  before = (tmp_path / 'a.npy').read_bytes()
  with raises(IndexError, 'frame 10', '9'):
    store.write([0], [10], frames(1, 1))
  assert (tmp_path / 'a.npy').read_bytes() == before
