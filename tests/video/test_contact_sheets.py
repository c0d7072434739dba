from __future__ import annotations

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.video import contact_sheets, reading, writing


def clip(seed, num_frames=4, side=16, channels=3):
  return np.random.default_rng(seed).integers(0, 256, (num_frames, side, side, channels)).astype(np.uint8)


def cells(sheet, row, num_frames, side=64):
  pitch = side + contact_sheets.GAP
  strip = sheet[row * pitch :, contact_sheets.LABEL_WIDTH :]
  return [strip[:side, i * pitch : i * pitch + side] for i in range(num_frames)]


def test_rows_are_videos_and_frames_run_from_left_to_right():
  videos = [clip(0), clip(1)]
  sheet = contact_sheets.contact_sheet(videos, ['one', 'two'])
  for row, video in enumerate(videos):
    for frame, cell in zip(video, cells(sheet, row, 4), strict=True):
      np.testing.assert_array_equal(cell, frame.repeat(4, axis=0).repeat(4, axis=1))


def test_many_frames_are_subsampled_evenly_with_both_ends():
  video = np.full((31, 64, 64, 1), np.arange(31)[:, None, None, None], np.uint8)
  shown = [int(cell[0, 0, 0]) for cell in cells(contact_sheets.contact_sheet([video], ['x']), 0, 16)]
  assert shown == list(range(0, 31, 2))


def test_captions_are_legible_and_differ():
  def label(caption):
    return contact_sheets.contact_sheet([clip(0)], [caption])[:, : contact_sheets.LABEL_WIDTH]

  assert not label('').any()
  assert label('a 3 moving left').max() > 200
  assert (label('a 3 moving left') != label('a 3 moving right')).any()
  assert not label('i' * 10)[:, 150:].any()


@pytest.mark.parametrize(
  'caption',
  ['a\nb\t\x00\x1b[31mred', 'x' * 10_000, 'word ' * 1000, '\U0001f600 日本語 שלום é', '\udcff\u202e', ' '],
)
def test_strange_captions_are_harmless(caption):
  sheet = contact_sheets.contact_sheet([clip(0), clip(1)], [caption, 'plain'])
  plain = contact_sheets.contact_sheet([clip(0), clip(1)], ['', 'plain'])
  assert sheet.shape == plain.shape
  np.testing.assert_array_equal(sheet[:, contact_sheets.LABEL_WIDTH :], plain[:, contact_sheets.LABEL_WIDTH :])
  np.testing.assert_array_equal(sheet[66:], plain[66:])


def test_videos_may_differ_in_length_and_channels():
  sheet = contact_sheets.contact_sheet([clip(0, 2), clip(1, 4, channels=1)], ['short', 'gray'])
  np.testing.assert_array_equal(cells(sheet, 0, 2)[1][::4, ::4], clip(0, 2)[1])
  np.testing.assert_array_equal(cells(sheet, 1, 4)[3][::4, ::4], clip(1, 4, channels=1)[3].repeat(3, -1))
  assert not sheet[:66, contact_sheets.LABEL_WIDTH + 2 * 66 :].any()


def test_tile_places_videos_in_reading_order_and_stops_on_the_last_frame():
  videos = [clip(i, num_frames=2 + i) for i in range(3)]
  tiled = contact_sheets.tile(videos, columns=2, frame_size=16)
  assert tiled.shape == (4, 36, 36, 3)
  for i, (top, left) in enumerate([(0, 0), (0, 18), (18, 0)]):
    for frame in range(4):
      expected = videos[i][min(frame, 1 + i)]
      np.testing.assert_array_equal(tiled[frame, top : top + 16, left : left + 16], expected)
  assert not tiled[:, 18:, 18:].any()


def test_tiled_videos_can_be_written_and_read(tmp_path):
  tiled = contact_sheets.tile([clip(i, channels=1) for i in range(5)])
  writing.write_mp4(tmp_path / 'a.mp4', tiled, fps=8)
  read = reading.read_video(tmp_path / 'a.mp4')
  assert np.abs(read.astype(int) - tiled).max() <= 6  # gray noise, which loses no color


def test_errors():
  with raises(ValueError, 'contact_sheet', '1 videos', '2 captions'):
    contact_sheets.contact_sheet([clip(0)], ['a', 'b'])
  with raises(ValueError, 'tile', '[(8, 8), (16, 16)]'):
    contact_sheets.tile([clip(0), clip(0, side=8)])


def test_a_sheet_reads_only_the_frames_that_it_shows(tmp_path):
  shown = np.rint(np.linspace(0, 2999, 16)).astype(int)
  video = np.full((3000, 8, 8, 1), np.nan, np.float32)  # converting any other frame raises
  video[shown] = np.linspace(-1, 1, 16)[:, None, None, None]
  np.save(tmp_path / 'a.npy', video)
  mapped = np.load(tmp_path / 'a.npy', mmap_mode='r', allow_pickle=False)
  sheet = contact_sheets.contact_sheet([mapped], ['x'])
  np.testing.assert_array_equal(sheet, contact_sheets.contact_sheet([video[shown]], ['x']))


@pytest.mark.parametrize('channels', [1, 3])
def test_frames_enlarged_one_at_a_time_equal_all_at_once(channels):
  video, taken = clip(2, num_frames=5, channels=channels), []
  frames = contact_sheets.enlarge_frames((taken.append(number) or frame for number, frame in enumerate(video)), 64)
  first = next(frames)
  assert taken == [0]
  np.testing.assert_array_equal(np.stack([first, *frames]), contact_sheets.enlarge(video, 64))
