from __future__ import annotations

import functools
import operator
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.clip_files import numbered
from helpers.messages import raises

from vdm_jax.video import frame_index, reading, transforms, writing


def numbers(video):
  return np.rint(video.mean(axis=(1, 2, 3)) / 6).astype(int).tolist()


def encode(path, video, codec, pixel_format='yuv420p', rotation=0, **options):
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(codec, rate=8, options=options)
    stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], pixel_format
    if rotation:
      stream.set_display_rotation(rotation)
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24').reformat(format=pixel_format)))
    container.mux(stream.encode())


@pytest.mark.parametrize(
  ('name', 'codec', 'options'),
  [
    ('a.mp4', 'libx264', {'g': '250', 'bf': '3'}),
    ('b.mp4', 'libx264', {'g': '12', 'bf': '2', 'x264-params': 'open-gop=1'}),
    ('c.mp4', 'mpeg4', {'g': '12', 'bf': '2', 'qmin': '1', 'qmax': '2'}),  # seeking is inexact here
    ('a.mov', 'libx264', {'g': '5'}),
    ('a.mkv', 'libx264', {'g': '12', 'bf': '3'}),
    ('a.webm', 'libvpx-vp9', {'g': '12'}),
    ('a.avi', 'mpeg4', {'g': '12', 'bf': '2', 'qmin': '1', 'qmax': '2'}),
    ('b.avi', 'libx264', {'g': '12', 'bf': '3'}),
  ],
)
def test_windows_are_exact_in_every_container(tmp_path, name, codec, options):
  encode(tmp_path / name, numbered(40), codec, **options)
  assert reading.probe(tmp_path / name).num_frames == 40
  assert numbers(reading.read_video(tmp_path / name)) == list(range(40))
  for start, num_frames, frame_skip in [(0, 1, 1), (1, 8, 1), (13, 5, 4), (24, 16, 1), (39, 1, 7)]:
    window = reading.read_video(tmp_path / name, start=start, num_frames=num_frames, frame_skip=frame_skip)
    assert numbers(window) == list(range(start, start + num_frames * frame_skip, frame_skip))


@pytest.mark.parametrize(
  ('name', 'codec', 'pixel_format'),
  [
    ('hevc_ten_bits.mp4', None, None),
    ('ten_bits.mp4', 'libx264', 'yuv420p10le'),
    ('alpha.webm', 'libvpx-vp9', 'yuva420p'),
    ('alpha.mov', 'png', 'rgba'),
    ('odd.mkv', 'ffv1', 'bgr0'),
  ],
)
def test_all_pixel_formats_become_eight_bits_per_color(tmp_path, name, codec, pixel_format):
  """HEVC is read from a stored file, because PyAV's encoder of it sometimes corrupts memory."""
  video = np.zeros((5, 33 if 'odd' in name else 32, 48, 3), np.uint8)
  video[:] = (np.uint8([[30], [90], [150], [200], [240]]) + np.uint8([10, 0, 5]))[:, None, None]
  path = tmp_path / name if codec else Path(__file__).with_name(name)
  if codec:
    encode(path, video, codec, pixel_format)
  np.testing.assert_allclose(reading.read_video(path), video.astype(int), atol=5)
  assert reading.probe(path) == (5, 8.0, video.shape[1:3])


@pytest.mark.parametrize(
  ('pixel_format', 'height', 'width'),
  [('yuv420p', 36, 50), ('yuv422p', 34, 48), ('yuv444p', 35, 47), ('yuv444p', 34, 49), ('yuv420p10le', 34, 48)],
)
def test_colors_equal_those_of_one_exact_conversion(tmp_path, pixel_format, height, width):
  """Bit for bit, whether the conversion is direct or through planes."""
  encode(tmp_path / 'a.mp4', noise(6, height, width), 'libx264', pixel_format)
  with av.open(str(tmp_path / 'a.mp4')) as container:
    exact = ['BILINEAR', 'ACCURATE_RND', 'FULL_CHR_H_INT']
    flags = functools.reduce(operator.or_, (av.video.reformatter.Interpolation[name] for name in exact))
    directly = {'format': 'rgb24', 'interpolation': flags, 'dst_color_range': 2}
    frames = [frame.to_ndarray(**directly) for frame in container.decode(video=0)]
  np.testing.assert_array_equal(reading.read_video(tmp_path / 'a.mp4'), frames)


def noise(frames, height, width):
  """Return noisy images that drift, so that frames are predicted from each other."""
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 200, (height // 4 + frames, width // 4 + frames, 3)).repeat(4, axis=0).repeat(4, axis=1)
  drifting = [picture[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(frames)]
  return np.uint8(drifting + rng.integers(0, 30, (frames, height, width, 1)))


@pytest.mark.parametrize('options', [{'b-pyramid': 'normal'}, {'b-pyramid': 'none', 'open-gop': '1', 'keyint': '12'}])
def test_skipping_frames_changes_no_pixel(tmp_path, options):
  parameters = ':'.join(f'{name}={value}' for name, value in {'bframes': 3, 'b-adapt': 0, **options}.items())
  encode(tmp_path / 'a.mp4', noise(30, 32, 48), 'libx264', **{'x264-params': parameters})
  whole = reading.read_video(tmp_path / 'a.mp4')
  for start, num_frames, frame_skip in [(29, 1, 1), (17, 5, 1), (3, 9, 3), (0, 8, 4), (2, 4, 2.5)]:
    window = reading.read_video(tmp_path / 'a.mp4', start=start, num_frames=num_frames, frame_skip=frame_skip)
    np.testing.assert_array_equal(window, whole[transforms.frame_numbers(start, num_frames, frame_skip)])
  times = frame_index.index_file(tmp_path / 'a.mp4').times
  with av.open(str(tmp_path / 'a.mp4')) as container:
    decoded = {frame.pts for frame in reading._needed(container, container.streams.video[0], {times[13]})}
  assert times[13] in decoded
  assert len(decoded) < 24, 'of 30 frames, three in four of which are B-frames'


def test_frames_that_differ_in_size_raise(tmp_path):
  for side in (32, 48):
    encode(tmp_path / f'{side}.ts', numbered(4, side), 'libx264')
  both = tmp_path / 'both.ts'
  both.write_bytes((tmp_path / '32.ts').read_bytes() + (tmp_path / '48.ts').read_bytes())
  with raises(ValueError, both, 'size'):
    reading.read_video(both)


def test_with_a_variable_frame_rate_frames_are_counted(tmp_path):
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=100, options={'g': '4'})
    stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
    for i, frame in enumerate(numbered(12)):
      picture = av.VideoFrame.from_ndarray(frame, 'rgb24')
      picture.pts = i * i
      container.mux(stream.encode(picture))
    container.mux(stream.encode())
  assert numbers(reading.read_video(path, start=5, num_frames=3, frame_skip=2)) == [5, 7, 9]
  assert reading.probe(path).frame_rate == pytest.approx(11 / 1.21, rel=1e-6)


@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_rotated_videos_are_turned_upright(tmp_path, rotation):
  upright = np.zeros((2, 32, 64, 3), np.uint8)
  upright[:, :16, :32] = 255  # the upper left corner is white
  stored = np.rot90(upright, -rotation // 90, axes=(1, 2))
  encode(tmp_path / 'a.mp4', np.ascontiguousarray(stored), 'libx264', rotation=rotation)
  read = reading.read_video(tmp_path / 'a.mp4')
  np.testing.assert_allclose(read, upright, atol=12)


def test_a_rewritten_file_is_read_again(tmp_path):
  for num_frames in (3, 5):
    writing.write_mp4(tmp_path / 'a.mp4', numbered(num_frames), fps=8)
    assert numbers(reading.read_video(tmp_path / 'a.mp4')) == list(range(num_frames))


def test_errors_of_reading(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(FileNotFoundError, path):
    reading.read_video(path)
  path.write_text('A renamed text file.')
  with raises(ValueError, path, 'Invalid data found when processing input'):
    reading.read_video(path)
  writing.write_mp4(path, numbered(8), fps=8)
  with raises(ValueError, path, 'frame 9', '8 frames'):
    reading.read_video(path, start=1, num_frames=5, frame_skip=2)
  with raises(ValueError, path, 'frame 8', '8 frames'):
    reading.read_video(path, start=8)
  with raises(ValueError, path, 'start=0, num_frames=0, frame_skip=1'):
    reading.read_video(path, num_frames=0)


def test_a_sound_file_has_no_video(tmp_path):
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format='fltp', layout='mono')
    frame.rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with raises(ValueError, path, 'no video frames'):
    reading.read_video(path)


@pytest.mark.parametrize('kept', [0, 10, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_named(tmp_path, kept):
  path = tmp_path / 'a.mp4'
  writing.write_mp4(path, numbered(8), fps=8)
  content = path.read_bytes()
  path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
  with raises(ValueError, f'{path}: '):
    reading.read_video(path)
