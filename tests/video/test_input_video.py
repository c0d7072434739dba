"""Input videos: exact reading, and errors that name the fix."""

from __future__ import annotations

import io
import math
import shlex

import av
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
  covering = 'scale=32:16:force_original_aspect_ratio=increase,crop=32:16'  # stretches nothing
  command = f'`ffmpeg -i {shlex.quote(str(path))} -vf {covering} OUT.mp4`'
  with raises(ValueError, path, '32x64', '16x32', command, EXACT):
    read_input_video(path, **SIZE, channels=3)
  path = tmp_path / 'a.png'
  writing.write_png(path, clip(height=32)[0])
  with raises(ValueError, f'`ffmpeg -i {path} -vf {covering} OUT.png`', EXACT):
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


# ---- fitting --------------------------------------------------------------------------------------------------------


def colors(path, size, rate, *, num_frames=12):
  """Write frame i as a picture whose left third is 10 i, the middle 100 + i, the right third 250."""
  height, width = size
  video = np.full((num_frames, height, width, 1), 250, np.uint8)
  for number, frame in enumerate(video):
    frame[:, : width // 3], frame[:, width // 3 : 2 * width // 3] = 10 * number, 100 + number
  writing.write_mp4(path, video, rate) if str(path).endswith('.mp4') else np.save(path, video)
  return path


def test_frames_are_fitted_as_training_fits_them(tmp_path):
  path = colors(tmp_path / 'a.npy', (16, 96), 8)
  stored = np.load(path)
  read = {fit: read_input_video(path, **SIZE, channels=1, fit=fit) for fit in ('cover', 'contain', 'squash')}
  # Three times as wide as high, to twice: the middle third stays, with a half of each other one at its sides.
  np.testing.assert_array_equal(read['cover'].video, stored[:, :, 32:64])
  contained = read['contain'].video  # scaled by a third, to 5 of 16 rows
  assert (contained[:, :5] == 0).all() and (contained[:, 10:] == 0).all()
  assert (contained[:, 5:10, 2:8] == 10 * np.arange(12)[:, None, None, None]).all()
  squashed = read['squash'].video
  assert (squashed[:, :, 2:8] == 10 * np.arange(12)[:, None, None, None]).all() and (squashed[:, :, 26:] == 250).all()
  for fit, words in (('cover', 'scaled to cover'), ('contain', 'black borders'), ('squash', 'stretched')):
    assert '16x96' in read[fit].fitted and '16x32' in read[fit].fitted and words in read[fit].fitted
  assert read_input_video(save(tmp_path / 'b.npy', clip()), **SIZE, channels=3, fit='cover').fitted == ''


@pytest.mark.parametrize(
  ('rate', 'wanted', 'picked'),
  [
    (24, 8, [0, 3, 6, 9]),
    (30, 8, [0, 4, 8, 11]),  # 3.75 frames each: 0, 3.75, 7.5, 11.25
    (12, 8, [0, 2, 3, 5, 6, 8, 9, 11]),
    (30000 / 1001, 30, [*range(12)]),
    (24, 24.4, [*range(12)]),
  ],
)
def test_frames_are_picked_by_time(tmp_path, rate, wanted, picked):
  path = colors(tmp_path / 'a.mp4', (16, 96), rate)
  found = read_input_video(path, channels=1, frame_rate=wanted)
  np.testing.assert_allclose(found.video[:, 8, 8, 0], 10 * np.array(picked), atol=2)
  assert found.frame_rate == wanted
  assert (f'{len(picked)} of 12 frames' in found.fitted) == (len(picked) < 12)
  few = read_input_video(path, channels=1, frame_rate=wanted, num_frames=3)
  np.testing.assert_array_equal(few.video, found.video[:3])
  with raises(ValueError, f'{len(picked) + 1} frames', path, f'only {len(picked)}'):
    read_input_video(path, channels=1, frame_rate=wanted, num_frames=len(picked) + 1)


def test_frames_of_a_varying_rate_are_picked_by_their_own_times(tmp_path):
  shown = [0, 1, 2, 3, 4, 5, 10, 11, 12, 20]  # in units of 1/20 s: a pause of 5 and one of 8
  with av.open(str(tmp_path / 'a.mp4'), 'w') as container:
    stream = container.add_stream('libx264', rate=20)
    stream.width, stream.height, stream.pix_fmt = 32, 16, 'yuv420p'
    for number, time in enumerate(shown):
      frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 20 * number, np.uint8), 'rgb24')
      frame.pts = time
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  found = read_input_video(tmp_path / 'a.mp4', channels=1, frame_rate=4)
  # At 0, 1/4, 1/2, 3/4 and 1 s, units 0, 5, 10, 15 and 20: the frames shown at 0, 5, 10, 12 and 20.
  np.testing.assert_allclose(found.video[:, 8, 8, 0], 20 * np.array([0, 5, 6, 8, 9]), atol=4)
  with raises(ValueError, 'a.mp4', 'vary', '10'):
    read_input_video(tmp_path / 'a.mp4', channels=1, frame_rate=10)


def test_a_file_slower_than_needed_raises_because_frames_would_be_repeated(tmp_path):
  path = colors(tmp_path / 'a.mp4', (16, 96), 12)
  with raises(ValueError, path, '12 frames per second', '24'):
    read_input_video(path, channels=1, frame_rate=24)
  assert len(read_input_video(path, channels=1, frame_rate=24, num_frames=1).video) == 1


def test_a_large_video_is_read_in_parts_with_the_same_frames(tmp_path, monkeypatch):
  path = colors(tmp_path / 'a.mp4', (64, 128), 8)
  whole = read_input_video(path, **SIZE, channels=3, fit='cover', frame_rate=4)
  monkeypatch.setattr(input_video, '_CHUNK_BYTES', 2 * 3 * 64 * 128)
  again = read_input_video(path, **SIZE, channels=3, fit='cover', frame_rate=4)
  np.testing.assert_array_equal(again.video, whole.video)
  assert whole.video.shape == (6, 16, 32, 3)


def test_pictures_and_animations_are_fitted_too(tmp_path):
  writing.write_png(tmp_path / 'portrait.png', np.full((50, 20, 3), 77, np.uint8))
  read = read_input_video(tmp_path / 'portrait.png', **SIZE, channels=1, fit='cover', frame_rate=8)
  assert (read.video == 77).all() and read.video.shape == (1, 16, 32, 1)
  writing.write_gif(tmp_path / 'a.gif', clip(8, height=20, width=20), fps=20)
  read = read_input_video(tmp_path / 'a.gif', **SIZE, channels=3, fit='contain', frame_rate=10)
  assert len(read.video) == 4 and (read.video[:, :, :8] == 0).all() and (read.video[:, :, 24:] == 0).all()
