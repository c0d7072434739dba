"""Input videos: exact reading, and errors that name the fix."""

from __future__ import annotations

import io
import math
import shlex

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.video import input_video, transforms, writing
from vdm_jax.video.input_video import InputVideo, check_frame_rate, read_input_video

SIZE = {'height': 16, 'width': 32}
EXACT = 'the .npy file beside them is exact'


def clip(num_frames=4, channels=3, height=16, width=32):
  """Return a video with at most 256 colors in a frame, so that a GIF of it is exact."""
  small = np.random.default_rng(0).integers(0, 256, (num_frames, height // 4, width // 4, channels))
  return small.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)


def save(path, array):
  np.save(path, array)
  return path


def test_an_array_is_memory_mapped(tmp_path):
  path = save(tmp_path / 'a.npy', clip())
  found = read_input_video(path, **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip())
  assert found.video.dtype == np.uint8
  assert found.frame_rate is None
  assert isinstance(found.video.base, np.memmap)
  assert not found.video.flags.writeable


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, '>f4'])
def test_floats_are_converted_back_to_their_levels(tmp_path, dtype):
  path = save(tmp_path / 'a.npy', transforms.to_float(clip()).astype(dtype))
  np.testing.assert_array_equal(read_input_video(path, **SIZE, channels=3).video, clip())


def test_gif_and_png_are_exact_and_mp4_within_two_levels(tmp_path):
  writing.write_gif(tmp_path / 'a.gif', clip(), fps=8)
  found = read_input_video(tmp_path / 'a.gif', **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip())
  assert found.frame_rate == pytest.approx(8, rel=0.06)

  writing.write_png(tmp_path / 'a.png', clip()[0])
  found = read_input_video(tmp_path / 'a.png', **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip()[:1])
  assert found.frame_rate is None

  flat = np.full((5, 16, 32, 3), [200, 40, 90], np.uint8)
  writing.write_mp4(tmp_path / 'a.mp4', flat, fps=24)
  found = read_input_video(str(tmp_path / 'a.mp4'), **SIZE, channels=3)
  assert np.abs(found.video.astype(int) - flat).max() <= 2
  assert found.frame_rate == pytest.approx(24, rel=1e-3)


def test_a_video_of_one_frame_has_no_frame_rate(tmp_path):
  writing.write_mp4(tmp_path / 'a.mp4', clip(1), fps=24)
  assert read_input_video(tmp_path / 'a.mp4', **SIZE, channels=3).frame_rate is None


@pytest.mark.parametrize('kind', ['npy', 'float', 'gif'])
@pytest.mark.parametrize(('stored', 'wanted'), [(1, 3), (3, 1)])
def test_channels_are_converted(tmp_path, kind, stored, wanted):
  video = clip(channels=stored)
  path = tmp_path / ('a.gif' if kind == 'gif' else 'a.npy')
  if kind == 'gif':
    writing.write_gif(path, video, fps=8)
  else:
    save(path, video if kind == 'npy' else transforms.to_float(video))
  np.testing.assert_array_equal(
    read_input_video(path, **SIZE, channels=wanted).video, transforms.to_channels(video, wanted)
  )


def test_another_size_raises_with_a_command_that_resizes(tmp_path):
  path = tmp_path / 'my clip.gif'
  writing.write_gif(path, clip(height=32, width=64), fps=8)
  command = f'`ffmpeg -i {shlex.quote(str(path))} -vf scale=32:16 OUT.mp4`'
  with raises(ValueError, path, '32x64', '16x32', command, EXACT):
    read_input_video(path, **SIZE, channels=3)
  path = tmp_path / 'a.png'
  writing.write_png(path, clip(height=32)[0])
  with raises(ValueError, f'`ffmpeg -i {path} -vf scale=32:16 OUT.png`', EXACT):
    read_input_video(path, **SIZE, channels=3)
  path = save(tmp_path / 'a.npy', clip(width=16))
  with raises(ValueError, path, '16x16', '16x32', EXACT):
    read_input_video(path, **SIZE, channels=3)


def test_files_that_are_not_videos(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(FileNotFoundError, path, input_video.ACCEPTED):
    read_input_video(path, **SIZE, channels=3)
  with raises(FileNotFoundError, tmp_path):
    read_input_video(tmp_path, **SIZE, channels=3)
  path.write_text('A renamed text file.')
  with raises(ValueError, path, 'Invalid data found when processing input', input_video.ACCEPTED):
    read_input_video(path, **SIZE, channels=3)


@pytest.mark.parametrize(
  ('array', 'reason'),
  [
    (np.zeros((16, 32, 3), np.uint8), '(16, 32, 3)'),
    (np.zeros((1, 2, 16, 32, 3), np.uint8), '(1, 2, 16, 32, 3)'),
    (np.uint8(3), '()'),
    (np.zeros((2, 16, 32, 4), np.uint8), '(2, 16, 32, 4)'),
    (np.zeros((2, 3, 16, 32), np.float32), '(2, 3, 16, 32)'),
    (np.zeros((2, 16, 32, 3), np.int64), 'int64'),
    (np.zeros((2, 16, 32, 3), bool), 'bool'),
    (np.zeros((2, 16, 32, 3), np.complex64), 'complex64'),
  ],
)
def test_arrays_that_are_not_videos(tmp_path, array, reason):
  path = save(tmp_path / 'a.npy', array)
  with raises(ValueError, f'{path}: {reason}', input_video.ACCEPTED):
    read_input_video(path, **SIZE, channels=3)


@pytest.mark.parametrize('value', [1.01, -2, 255, math.nan, math.inf, -math.inf])
def test_floats_out_of_range_raise_with_their_frame(tmp_path, value):
  video = np.zeros((4, 16, 32, 3), np.float32)
  video[2, 3, 4, 1] = value
  path = save(tmp_path / 'a.npy', video)
  with raises(ValueError, path, 'frame 2', '[-1, 1]'):
    read_input_video(path, **SIZE, channels=3)


def test_numbers_of_frames(tmp_path):
  path = save(tmp_path / 'a.npy', clip(0))
  with raises(ValueError, path, 'no frames'):
    read_input_video(path, **SIZE, channels=3)
  save(path, clip(5))
  writing.write_gif(tmp_path / 'a.gif', clip(5), fps=8)
  for file in (path, tmp_path / 'a.gif'):
    assert len(read_input_video(file, **SIZE, channels=3, max_frames=5).video) == 5
    with raises(ValueError, file, '5 frames', '4'):
      read_input_video(file, **SIZE, channels=3, max_frames=4)


def bytes_of(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def objects():
  """Return a file of pickled objects, which must never be loaded."""
  return bytes_of(np.zeros(2)).replace(b"'<f8'", b"'|O' ")


@pytest.mark.parametrize(
  'content', [b'', b'text', b'PK\x03\x04 a zip file', bytes_of(clip())[:100], bytes_of(clip())[:-1], objects()]
)
def test_damaged_arrays_are_named(tmp_path, content):
  path = tmp_path / 'a.npy'
  path.write_bytes(content)
  with raises(ValueError, f'{path}: ', input_video.ACCEPTED):
    read_input_video(path, **SIZE, channels=3)


def test_damaged_headers_raise_only_value_errors(tmp_path):
  """For any value of one byte of the header, the result is a video or a ValueError that names the file."""
  path, content, rng = tmp_path / 'a.npy', bytes_of(clip()), np.random.default_rng(0)
  for _ in range(300):
    damaged = bytearray(content)
    damaged[rng.integers(128)] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      assert read_input_video(path, **SIZE, channels=3).video.shape == clip().shape
    except ValueError as error:
      assert str(error).startswith(f'{path}: ')


def test_unsupported_channels(tmp_path):
  path = save(tmp_path / 'a.npy', clip())
  with raises(ValueError, 'channels=4'):
    read_input_video(path, **SIZE, channels=4)


@pytest.mark.parametrize(
  ('name', 'rate', 'wanted', 'agree'),
  [
    ('a.mp4', None, 8, True),
    ('a.mp4', 30000 / 1001, 30, True),
    ('a.mp4', 24000 / 1001, 24, True),
    ('a.mp4', 24.47, 24, True),
    ('a.mp4', 25, 24, False),
    ('a.mp4', 24, 25, False),
    ('a.mp4', 16, 8, False),
    ('a.gif', 25, 24, True),
    ('a.GIF', 100 / 13, 8, True),
    ('a.gif', 100 / 12, 8, True),
    ('a.gif', 100 / 8, 12, True),
    ('a.gif', 9, 8, False),
    ('a.mp4', 24, math.inf, False),
    ('a.png', None, math.inf, True),
  ],
)
def test_frame_rates(name, rate, wanted, agree):
  video = InputVideo(clip(), rate)
  if agree:
    check_frame_rate(video, wanted, name)
    return
  command = f'`ffmpeg -i {name} -vf fps={wanted:g} OUT.mp4`'
  with raises(ValueError, name, f'{rate:.4g} frames per second', f'{wanted:g}', f'{rate:.4g}', command, '.npy'):
    check_frame_rate(video, wanted, name)
