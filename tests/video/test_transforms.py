from __future__ import annotations

import numpy as np
import pytest
from helpers.messages import raises
from PIL import Image

from vdm_jax.video import transforms


def test_pixels_survive_the_round_trip_and_span_the_range():
  levels = np.arange(256, dtype=np.uint8)
  floats = transforms.to_float(levels)
  assert floats.dtype == np.float32
  assert (floats[0], floats[-1]) == (-1.0, 1.0)
  np.testing.assert_allclose(np.diff(floats), 2 / 255, atol=1e-6)
  np.testing.assert_array_equal(transforms.to_uint8(floats), levels)


def test_out_of_range_is_clipped_not_wrapped_or_rescaled():
  np.testing.assert_array_equal(transforms.to_uint8(np.array([-1.5, 0.0, 1.01, 9.0])), [0, 128, 255, 255])


def test_errors_of_pixels():
  with raises(ValueError, 'to_uint8: uint8'):
    transforms.to_uint8(np.zeros(3, np.uint8))
  with raises(ValueError, 'to_float: float32'):
    transforms.to_float(np.zeros(3, np.float32))
  with raises(ValueError, 'to_uint8: 2 of 4 pixels'):
    transforms.to_uint8(np.array([0.0, np.nan, np.inf, 1.0]))


def test_gray_and_color():
  gray = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  color = transforms.to_channels(gray, 3)
  assert (color == gray).all()
  np.testing.assert_array_equal(transforms.to_channels(color, 1), gray)
  primaries = np.diag([255, 255, 255]).astype(np.uint8).reshape(1, 1, 3, 3)
  assert transforms.to_channels(primaries, 1).ravel().tolist() == [76, 150, 29]


def ramp(height, width):
  """Return an image whose brightness grows with the column, so that a pixel identifies its origin."""
  return np.tile(np.linspace(0, 255, width), (height, 1)).round().astype(np.uint8)[None, :, :, None]


@pytest.mark.parametrize(('height', 'width'), [(32, 64), (64, 64), (128, 64), (40, 120)])
def test_crop_is_central_and_keeps_the_aspect(height, width):
  cut = transforms.resize_and_crop(ramp(height, width), 16, 16).astype(float)[0, :, :, 0]
  side = min(height, width)
  source = (width - side) / 2 + (np.arange(16) + 0.5) * side / 16 - 0.5  # the pixel that column j shows
  # bicubic filtering is exact on a ramp except within its support of the two ends
  np.testing.assert_allclose(cut[:, 2:-2], np.tile(source[2:-2] * 255 / (width - 1), (16, 1)), atol=2)


def test_squashing_keeps_both_ends_and_stretches():
  squashed = transforms.squash(ramp(40, 120), 16, 16).astype(float)[0, :, :, 0]
  source = (np.arange(16) + 0.5) * 120 / 16 - 0.5
  np.testing.assert_allclose(squashed[:, 2:-2], np.tile(source[2:-2] * 255 / 119, (16, 1)), atol=2)
  video = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
  np.testing.assert_array_equal(transforms.squash(video, 16, 24), video)
  image = Image.fromarray(video[1]).resize((10, 20), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(transforms.squash(video, 20, 10)[1], np.asarray(image))


def test_the_right_size_is_unchanged():
  video = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
  np.testing.assert_array_equal(transforms.resize_and_crop(video, 16, 24), video)


def test_constant_images_remain_constant():
  video = np.full((2, 31, 47, 3), [[[[10, 200, 99]]]], np.uint8)
  assert (transforms.resize_and_crop(video, 16, 8) == [10, 200, 99]).all()


@pytest.mark.parametrize('rows', [0, 1, 5])
def test_padding_repeats_the_edge_rows(rows):
  video = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
  padded = transforms.pad_rows(video, rows)
  assert padded.shape == (2, 4 + 2 * rows, 6, 3)
  for row in range(4 + 2 * rows):
    np.testing.assert_array_equal(padded[:, row], video[:, min(max(row - rows, 0), 3)])


def test_window_starts_are_uniform_over_all_that_fit():
  rng = np.random.default_rng(0)
  starts = [transforms.window_start(12, 3, 4, rng) for _ in range(4000)]
  counts = np.bincount(starts, minlength=4)
  assert len(counts) == 4  # 9 of 12 frames are spanned
  assert np.abs(counts / 1000 - 1).max() < 0.12  # four standard deviations
  with raises(ValueError, '8 frames', 'num_frames=3', 'frame_skip=4', '9'):
    transforms.window_start(8, 3, 4, rng)


def test_flip_mirrors_columns_with_probability_one_half():
  rng = np.random.default_rng(0)
  video = ramp(2, 8)
  flipped = [transforms.random_flip(video, rng) for _ in range(1000)]
  mirrored = sum((f == video[:, :, ::-1]).all() for f in flipped)
  assert all((f == video).all() or (f == video[:, :, ::-1]).all() for f in flipped)
  assert 440 < mirrored < 560
