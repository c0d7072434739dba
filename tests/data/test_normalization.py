"""Data that are not pictures: their normalization and its inverse, what is refused, missing values, and `inspect`."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import configuration, data
from vdm_jax.data import __main__ as command
from vdm_jax.data import normalization
from vdm_jax.data.normalization import Statistics, make
from vdm_jax.video import transforms

RANGE = ((-10.0, 30.0), (0.0, 4.0))  # of two channels


def fields(count=12, num_frames=5, size=6) -> np.ndarray:
  """Two channels, float32 [n t h w 2], within RANGE."""
  rng = np.random.default_rng(0)
  return (rng.random((count, num_frames, size, size, 2)) * [40, 4] + [-10, 0]).astype(np.float32)


@pytest.fixture
def stored(tmp_path):
  """Returns `write(array, **changes)`, which stores clips and returns the section `data` that reads them."""

  def write(array, **changes):
    np.save(tmp_path / 'a.npy', array)
    config = configuration.default().data
    config.update(name='array', path=str(tmp_path / 'a.npy'), frame_rate=1.0, batch_size=2, num_frames=3, height=6)
    config.update({'width': 6, 'channels': array.shape[-1], **changes})
    return config

  return write


def test_values_are_those_of_the_formulas():
  x = np.array([[-10.0, 1.0], [20.0, 4.0]])
  of_range = make('range', RANGE, channels=2)
  np.testing.assert_allclose(of_range.apply(x), [[-1, -0.5], [0.5, 1]], rtol=1e-6)
  standard = make('standard', ((5, 10), (1, 2)), channels=2)
  np.testing.assert_allclose(standard.apply(x), [[-1.5, 0], [1.5, 1.5]], rtol=1e-6)
  np.testing.assert_array_equal(make('none', channels=2).apply(x), x.astype(np.float32))
  for normalize in (of_range, standard):
    np.testing.assert_allclose(normalize.undo(normalize.apply(x)), x, rtol=1e-6)


def test_pixels_are_as_they_were():
  video = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  pixels = make('pixels', channels=1)
  np.testing.assert_array_equal(pixels.apply(video), transforms.to_float(video))
  x = pixels.apply(video)
  assert pixels.pictures(x) is x and (pixels.undo(x) == x).all()


def test_pictures_show_the_chosen_channels():
  x = np.linspace(-1.5, 1.5, 5 * 4).reshape(1, 1, 5, 4)
  of_range = make('range', ((0, 1),) * 4, channels=4, shown=(3, 0, 1))
  np.testing.assert_allclose(of_range.pictures(x), np.clip(x[..., [3, 0, 1]], -1, 1), rtol=1e-6)
  np.testing.assert_allclose(make('standard', ((0, 1),) * 4, channels=4, shown=(2,)).pictures(x), x[..., 2:3] / 3)
  assert make('none', channels=2).shown == (0,) and make('none', channels=7).shown == (0, 1, 2)


@pytest.mark.parametrize(
  ('arguments', 'parts'),
  [
    (('pixels', (), 4), ['data.channels=4', 'data.normalization']),
    (('pixels', RANGE, 3), ['data.normalization_values', "'pixels'"]),
    (('range', (), 2), ['data.normalization_values=()', 'inspect']),
    (('range', RANGE, 3), ['each of the 3 channels']),
    (('range', ((1, 1), (0, 4)), 2), ['lowest and highest']),
    (('standard', ((1, 0), (0, 4)), 2), ['standard deviation']),
    (('standard', ((1, float('nan')), (0, 4)), 2), ['standard deviation']),
    (('range', ('ab', 'cd'), 2), ['lowest and highest']),
    (('ranges', RANGE, 2), ["'ranges'", "'range'"]),
  ],
)
def test_settings_that_do_not_fit_are_refused(arguments, parts):
  kind, values, channels = arguments
  with raises(ValueError, *parts):
    make(kind, values, channels=channels)
  with raises(ValueError, 'data.shown_channels=(0, 1)', '0 to 1'):
    make('none', channels=2, shown=(0, 1))


def test_statistics_are_those_of_numpy_in_any_parts_without_missing_values():
  values = fields() + 1e6  # a large mean, which a sum of squares would not survive
  values[0, 0, 0, :, 1] = np.nan
  found = Statistics()
  for part in np.array_split(values.reshape(-1, 2), [1, 100, 107]):
    found.add(part)
  whole = values.astype(np.float64)
  axes = (0, 1, 2, 3)
  np.testing.assert_allclose(found.mean, np.nanmean(whole, axes), rtol=1e-12)
  np.testing.assert_allclose(found.deviation, np.nanstd(whole, axes), rtol=1e-9)
  np.testing.assert_array_equal(found.low, np.nanmin(whole, axes))
  np.testing.assert_array_equal(found.high, np.nanmax(whole, axes))
  assert np.float32(found.values('range')[0][0]) == np.float32(found.low[0])


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64', 'int16'])
def test_batches_are_the_normalized_data(stored, dtype):
  array = fields().astype(dtype)
  batch = next(data.build(stored(array, normalization='range', normalization_values=RANGE), None, seed=0))
  assert batch.x.shape == (2, 3, 6, 6, 2) and batch.x.dtype == np.float32 and batch.mask is None
  windows = np.stack([array[:, start : start + 3] for start in range(3)], 1).reshape(-1, 3, 6, 6, 2)
  expected = (windows.astype(np.float64) - [10, 2]) / [20, 2]
  for video in batch.x:
    assert np.abs(expected - video).max(axis=(1, 2, 3, 4)).min() < 1e-6


def test_a_missing_value_is_zero_and_not_in_the_loss(stored):
  array = fields()
  array[:, :, 2, 3, 1] = np.nan
  config = stored(array, normalization='range', normalization_values=RANGE)
  with raises(ValueError, 'a.npy', 'not finite', 'data.missing_values=True'):
    next(data.build(config, None, seed=0))
  config.missing_values = True
  batch = next(data.build(config, None, seed=0))
  expected = np.ones((2, 3, 6, 6, 2), np.float32)
  expected[:, :, 2, 3, 1] = 0
  np.testing.assert_array_equal(batch.mask, expected)
  assert (batch.x[:, :, 2, 3, 1] == 0).all() and np.isfinite(batch.x).all()
  array[0] = np.inf
  with raises(ValueError, 'not finite'):
    for clip in data.examples(stored(array[:1].repeat(12, 0), **_given(config)), 'train', seed=0, count=1):
      raise AssertionError(clip)


def _given(config):
  return {name: config[name] for name in ('normalization', 'normalization_values', 'missing_values')}


def test_arrays_that_are_not_pictures_need_a_normalization(stored):
  for array in (fields(), (fields() * 0).astype(np.uint8)):
    with raises(ValueError, 'a.npy', 'with 2 channels', 'data.normalization'):
      next(data.build(stored(array, channels=3), None, seed=0))
  with raises(ValueError, 'data.missing_values'):
    next(data.build(stored((fields() * 0).astype(np.uint8)[..., :1], missing_values=True), None, seed=0))
  with raises(ValueError, 'float32 with 2 channels', 'data.channels=3'):
    next(data.build(stored(fields(), channels=3, normalization='none'), None, seed=0))


def test_every_channel_is_resized_alike():
  """A plane a + b row stays one, but at the borders, under bicubic interpolation."""
  rows = np.arange(16.0)[None, :, None, None]
  video = np.broadcast_to(rows * [1, -2, 0.5, 1000], (2, 16, 16, 4)).astype(np.float32)
  small = transforms.resize_and_crop(video, 8, 8)
  expected = (2 * np.arange(8) + 0.5)[None, :, None, None] * np.array([1, -2, 0.5, 1000])
  np.testing.assert_allclose(small[:, 2:6], np.broadcast_to(expected, (2, 8, 8, 4))[:, 2:6], rtol=1e-5)
  gray = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
  four = transforms.resize_and_crop(gray.repeat(4, -1), 8, 12)
  np.testing.assert_array_equal(four, transforms.resize_and_crop(gray, 8, 12).repeat(4, -1))


def test_samples_beyond_the_threshold_are_refused():
  config = configuration.default()
  normalization.check_sampling(config)
  config.data.normalization = 'standard'
  with raises(ValueError, "sampling.threshold='clip'", 'standard'):
    normalization.check_sampling(config)
  config.sampling.threshold = 'none'
  normalization.check_sampling(config)
  config.model.upsampling = 2
  with raises(ValueError, 'model.upsampling=2'):
    normalization.check_sampling(config)


def test_inspect_measures_the_training_clips_and_prints_the_settings(tmp_path, stored, capsys):
  array = fields()
  path = stored(array).path
  assert command.main(['inspect', path, '--num_frames=3', '--frame_rate=1', f'--sheet={tmp_path}/sheet.png']) == 0
  shown = capsys.readouterr().out
  source = data.Array(path)
  train = array[[clip for clip, name in enumerate(source.names) if name not in source.held_out()]]
  low, high = train.min((0, 1, 2, 3)), train.max((0, 1, 2, 3))
  (line,) = [line for line in shown.splitlines() if 'normalization=range' in line]
  pairs = eval(line.split('normalization_values=')[1].rstrip('"'))
  np.testing.assert_array_equal(np.float32(pairs), np.stack([low, high], 1))
  assert 'data.channels=2' in shown and (tmp_path / 'sheet.png').exists()
  assert command.main(['convert', path, str(tmp_path / 'out')]) == 2
  assert 'shards hold pictures' in capsys.readouterr().err
