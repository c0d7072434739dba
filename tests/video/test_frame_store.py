"""Frames in files: what is read is what was written, rounded as in a video file, whatever the order and the process."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vdm_jax.video.frame_store import FrameStore
from vdm_jax.video.transforms import to_float, to_uint8

SHAPE = (10, 4, 6, 3)


def frames(*lead):
  return np.random.default_rng(0).uniform(-1.2, 1.2, (*lead, *SHAPE[1:])).astype(np.float32)


def test_frames_come_back_in_any_order_as_uint8_holds_them(tmp_path):
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


def test_work_goes_on_from_the_files(tmp_path):
  paths = [tmp_path / 'a.npy', tmp_path / 'b.npy']
  first = FrameStore(paths[:1], SHAPE)
  first.write([0], [3], frames(1, 1))
  again = FrameStore(paths, SHAPE)
  np.testing.assert_array_equal(again.read([0], [3]), first.read([0], [3]))
  again.write([0], [4], frames(1, 1))
  np.testing.assert_array_equal(again.read([0], [3]), again.read([0], [4]))


def test_a_file_of_another_size_is_refused(tmp_path):
  np.save(tmp_path / 'a.npy', np.zeros((9, 4, 6, 3), np.uint8))
  message = 'holds uint8 (9, 4, 6, 3), not uint8 (10, 4, 6, 3); remove it, or write to another folder.'
  with pytest.raises(ValueError, match=re.escape(message)):
    FrameStore([tmp_path / 'a.npy'], SHAPE)
  (tmp_path / 'b.npy').write_bytes(b'no array')
  with pytest.raises(ValueError, match='b.npy is not an array of frames'):
    FrameStore([tmp_path / 'b.npy'], SHAPE)


def test_a_frame_outside_is_refused_and_nothing_is_written_over(tmp_path):
  store = FrameStore([tmp_path / 'a.npy'], SHAPE)
  before = (tmp_path / 'a.npy').read_bytes()
  with pytest.raises(IndexError, match=re.escape('frame 10 is outside of 0 ... 9.')):
    store.write([0], [10], frames(1, 1))
  assert (tmp_path / 'a.npy').read_bytes() == before
