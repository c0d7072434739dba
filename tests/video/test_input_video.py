"""Videos that users give: exact reading, and errors that say what to do."""

from __future__ import annotations

import io
import math
import re
import shlex

import numpy as np
import pytest

from vdm_jax.video import codecs, input_video, transforms
from vdm_jax.video.input_video import Given, check_frame_rate, read_given

SIZE = {'height': 16, 'width': 32}
EXACT = 'The mp4 files that this library writes of small videos are enlarged; the .npy file beside them is exact.'


def clip(num_frames=4, channels=3, height=16, width=32):
  """At most 256 colours a frame, so that a gif of it is exact."""
  small = np.random.default_rng(0).integers(0, 256, (num_frames, height // 4, width // 4, channels))
  return small.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)


def save(path, array):
  np.save(path, array)
  return path


def raises(error, message):
  return pytest.raises(error, match=f'^{re.escape(message)}$')


def test_an_array_is_given_as_it_is_and_stays_in_its_file(tmp_path):
  path = save(tmp_path / 'a.npy', clip())
  found = read_given(path, **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip())
  assert found.video.dtype == np.uint8
  assert found.frame_rate is None
  assert isinstance(found.video.base, np.memmap)
  assert not found.video.flags.writeable


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64, '>f4'])
def test_floats_come_back_as_the_levels_they_were_made_from(tmp_path, dtype):
  path = save(tmp_path / 'a.npy', transforms.to_float(clip()).astype(dtype))
  np.testing.assert_array_equal(read_given(path, **SIZE, channels=3).video, clip())


def test_gif_and_png_are_exact_and_mp4_within_two_levels(tmp_path):
  codecs.write_gif(tmp_path / 'a.gif', clip(), fps=8)
  found = read_given(tmp_path / 'a.gif', **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip())
  assert found.frame_rate == pytest.approx(8, rel=0.06)

  codecs.write_png(tmp_path / 'a.png', clip()[0])
  found = read_given(tmp_path / 'a.png', **SIZE, channels=3)
  np.testing.assert_array_equal(found.video, clip()[:1])
  assert found.frame_rate is None

  flat = np.full((5, 16, 32, 3), [200, 40, 90], np.uint8)
  codecs.write_mp4(tmp_path / 'a.mp4', flat, fps=24)
  found = read_given(str(tmp_path / 'a.mp4'), **SIZE, channels=3)
  assert np.abs(found.video.astype(int) - flat).max() <= 2
  assert found.frame_rate == pytest.approx(24, rel=1e-3)


def test_a_video_of_one_frame_tells_no_rate(tmp_path):
  codecs.write_mp4(tmp_path / 'a.mp4', clip(1), fps=24)
  assert read_given(tmp_path / 'a.mp4', **SIZE, channels=3).frame_rate is None


@pytest.mark.parametrize('kind', ['npy', 'float', 'gif'])
@pytest.mark.parametrize(('stored', 'wanted'), [(1, 3), (3, 1)])
def test_channels_are_converted(tmp_path, kind, stored, wanted):
  video = clip(channels=stored)
  path = tmp_path / ('a.gif' if kind == 'gif' else 'a.npy')
  if kind == 'gif':
    codecs.write_gif(path, video, fps=8)
  else:
    save(path, video if kind == 'npy' else transforms.to_float(video))
  np.testing.assert_array_equal(read_given(path, **SIZE, channels=wanted).video, transforms.to_channels(video, wanted))


def test_another_size_is_refused_with_a_command(tmp_path):
  path = tmp_path / 'my clip.gif'
  codecs.write_gif(path, clip(height=32, width=64), fps=8)
  with raises(
    ValueError,
    f'{path}: the frames are 32x64 (height x width), but 16x32 are needed: resize them, for example with '
    f'`ffmpeg -i {shlex.quote(str(path))} -vf scale=32:16 OUT.mp4`. {EXACT}',
  ):
    read_given(path, **SIZE, channels=3)
  path = tmp_path / 'a.png'
  codecs.write_png(path, clip(height=32)[0])
  with pytest.raises(ValueError, match=re.escape(f'`ffmpeg -i {path} -vf scale=32:16 OUT.png`. {EXACT}')):
    read_given(path, **SIZE, channels=3)
  path = save(tmp_path / 'a.npy', clip(width=16))
  with raises(
    ValueError,
    f'{path}: the frames are 16x16 (height x width), but 16x32 are needed: resize the array before it is saved. '
    + EXACT,
  ):
    read_given(path, **SIZE, channels=3)


def test_files_that_are_no_videos(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(FileNotFoundError, f'{path}: there is no such file; check the path, or give {input_video.ACCEPTED}.'):
    read_given(path, **SIZE, channels=3)
  with pytest.raises(FileNotFoundError, match='there is no such file'):
    read_given(tmp_path, **SIZE, channels=3)
  path.write_text('I am a text file that somebody has renamed.')
  with raises(
    ValueError,
    f'{path}: cannot be decoded as a video (Invalid data found when processing input); re-encode or remove the file. '
    f'Or give {input_video.ACCEPTED}.',
  ):
    read_given(path, **SIZE, channels=3)


@pytest.mark.parametrize(
  ('array', 'reason'),
  [
    (np.zeros((16, 32, 3), np.uint8), 'the array has the shape (16, 32, 3)'),
    (np.zeros((1, 2, 16, 32, 3), np.uint8), 'the array has the shape (1, 2, 16, 32, 3)'),
    (np.uint8(3), 'the array has the shape ()'),
    (np.zeros((2, 16, 32, 4), np.uint8), 'the array has the shape (2, 16, 32, 4)'),
    (np.zeros((2, 3, 16, 32), np.float32), 'the array has the shape (2, 3, 16, 32)'),
    (np.zeros((2, 16, 32, 3), np.int64), 'the array holds int64'),
    (np.zeros((2, 16, 32, 3), bool), 'the array holds bool'),
    (np.zeros((2, 16, 32, 3), np.complex64), 'the array holds complex64'),
  ],
)
def test_arrays_that_are_no_videos(tmp_path, array, reason):
  path = save(tmp_path / 'a.npy', array)
  with raises(ValueError, f'{path}: {reason}; give {input_video.ACCEPTED}.'):
    read_given(path, **SIZE, channels=3)


@pytest.mark.parametrize('value', [1.01, -2, 255, math.nan, math.inf, -math.inf])
def test_floats_outside_of_the_range_are_refused_with_their_frame(tmp_path, value):
  video = np.zeros((4, 16, 32, 3), np.float32)
  video[2, 3, 4, 1] = value
  path = save(tmp_path / 'a.npy', video)
  with raises(
    ValueError,
    f'{path}: frame 2 has values outside of [-1, 1] or not finite; scale the array to [-1, 1], or save it as uint8.',
  ):
    read_given(path, **SIZE, channels=3)


def test_numbers_of_frames(tmp_path):
  path = save(tmp_path / 'a.npy', clip(0))
  with raises(ValueError, f'{path}: there are no frames in this file; give one or more.'):
    read_given(path, **SIZE, channels=3)
  save(path, clip(5))
  codecs.write_gif(tmp_path / 'a.gif', clip(5), fps=8)
  for file in (path, tmp_path / 'a.gif'):
    assert len(read_given(file, **SIZE, channels=3, max_frames=5).video) == 5
    with raises(ValueError, f'{file}: there are 5 frames in this file, but at most 4 are read; cut it.'):
      read_given(file, **SIZE, channels=3, max_frames=4)


def bytes_of(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def objects():
  """A file of pickled objects, which is never loaded."""
  return bytes_of(np.zeros(2)).replace(b"'<f8'", b"'|O' ")


@pytest.mark.parametrize(
  'content', [b'', b'text', b'PK\x03\x04 a zip file', bytes_of(clip())[:100], bytes_of(clip())[:-1], objects()]
)
def test_damaged_arrays_are_named(tmp_path, content):
  path = tmp_path / 'a.npy'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'^{re.escape(f"{path}: cannot be read as a .npy file (")}') as caught:
    read_given(path, **SIZE, channels=3)
  assert str(caught.value).endswith(f'; give {input_video.ACCEPTED}.')


def test_damaged_headers_raise_nothing_else(tmp_path):
  """Whatever one byte of the header becomes, the file is a video or a ValueError that names it."""
  path, content, rng = tmp_path / 'a.npy', bytes_of(clip()), np.random.default_rng(0)
  for _ in range(300):
    damaged = bytearray(content)
    damaged[rng.integers(128)] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      assert read_given(path, **SIZE, channels=3).video.shape == clip().shape
    except ValueError as error:
      assert str(error).startswith(f'{path}: ')


def test_a_model_of_other_channels_is_named(tmp_path):
  path = save(tmp_path / 'a.npy', clip())
  with raises(ValueError, 'channels=4, but files of videos have 1 or 3: use a model of 1 or 3 channels.'):
    read_given(path, **SIZE, channels=4)


@pytest.mark.parametrize(
  ('name', 'told', 'wanted', 'agree'),
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
def test_frame_rates(name, told, wanted, agree):
  video = Given(clip(), told)
  if agree:
    check_frame_rate(video, wanted, name)
    return
  with raises(
    ValueError,
    f'{name}: the file has {told:.4g} frames per second, but {wanted:g} are wanted: ask for {told:.4g}, convert the '
    f'file, for example with `ffmpeg -i {name} -vf fps={wanted:g} OUT.mp4`, or give a .npy file, which tells no rate.',
  ):
    check_frame_rate(video, wanted, name)
