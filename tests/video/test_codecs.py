from __future__ import annotations

import functools
import operator
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.video import codecs, transforms


def patches(seed, size, rows=4, columns=6, frames=3):
  """Return constant squares of random colors, new in every frame."""
  colors = np.random.default_rng(seed).integers(0, 256, (frames, rows, columns, 3)).astype(np.uint8)
  return colors.repeat(size, axis=1).repeat(size, axis=2)


def numbered(num_frames, side=48):
  """Return a video whose frame i has the gray value 6 i, so that a decoded frame identifies its number."""
  return np.full((num_frames, side, side, 3), 6 * np.arange(num_frames)[:, None, None, None], np.uint8)


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


@pytest.mark.parametrize('seed', range(3))
def test_mp4_reproduces_constant_colors_within_two_levels(tmp_path, seed):
  video = patches(seed, size=16)
  codecs.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = codecs.read_video(tmp_path / 'a.mp4')
  inside = np.zeros(video.shape[1:3], bool)
  inside.reshape(4, 16, 6, 16)[:, 2:-2, :, 2:-2] = True  # chroma has half the resolution, so edges are left out
  assert np.abs(read.astype(int) - video)[:, inside].max() <= 2


def test_other_decoders_give_the_same_colors(tmp_path):
  """swscale's default path replicates chroma, so that even edges hold."""
  video = patches(0, size=16)
  codecs.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  with av.open(str(tmp_path / 'a.mp4')) as container:
    read = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
  assert np.abs(read.astype(int) - video).max() <= 3


def test_black_and_white_keep_their_values(tmp_path):
  video = np.zeros((2, 32, 32, 1), np.float32)
  video[0], video[1] = -1, 1
  codecs.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = codecs.read_video(tmp_path / 'a.mp4')
  assert read[0].max() == 0
  assert read[1].min() == 255


@pytest.mark.parametrize('fps', [1, 8, 24, 30000 / 1001, 60])
def test_mp4_keeps_its_frame_rate(tmp_path, fps):
  codecs.write_mp4(tmp_path / 'a.mp4', numbered(9), fps=fps)
  info = codecs.probe(tmp_path / 'a.mp4')
  assert info.num_frames == 9
  assert info.frame_rate == pytest.approx(fps, rel=1e-3)


def test_odd_sides_repeat_their_last_pixels(tmp_path):
  video = patches(1, size=16)[:, :-1, :-3]
  codecs.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = codecs.read_video(tmp_path / 'a.mp4')
  assert read.shape == (3, 64, 94, 3)
  assert np.abs(read[:, -1, 4:12].astype(int) - video[:, -1, 4:12]).max() <= 2


@pytest.mark.parametrize('fps', [8, 20, 25])
def test_gif_is_exact_and_keeps_frames_that_do_not_change(tmp_path, fps):
  video = patches(2, size=4).repeat(3, axis=0)
  codecs.write_gif(tmp_path / 'a.gif', video, fps=fps)
  np.testing.assert_array_equal(codecs.read_video(tmp_path / 'a.gif'), video)
  assert codecs.probe(tmp_path / 'a.gif').frame_rate == pytest.approx(fps, rel=0.02)
  assert b'NETSCAPE2.0\x03\x01\x00\x00' in (tmp_path / 'a.gif').read_bytes()  # repeats endlessly


def test_a_gray_gif_is_exact_with_all_256_levels(tmp_path):
  video = np.random.default_rng(0).permutation(256).reshape(1, 16, 16, 1).astype(np.uint8)
  codecs.write_gif(tmp_path / 'a.gif', video, fps=8)
  np.testing.assert_array_equal(codecs.read_video(tmp_path / 'a.gif'), video.repeat(3, axis=-1))


def test_png_is_exact(tmp_path):
  image = patches(3, size=1)[0]
  codecs.write_png(tmp_path / 'a.png', image)
  np.testing.assert_array_equal(codecs.read_video(tmp_path / 'a.png')[0], image)


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
  assert codecs.probe(tmp_path / name).num_frames == 40
  assert numbers(codecs.read_video(tmp_path / name)) == list(range(40))
  for start, num_frames, frame_skip in [(0, 1, 1), (1, 8, 1), (13, 5, 4), (24, 16, 1), (39, 1, 7)]:
    window = codecs.read_video(tmp_path / name, start=start, num_frames=num_frames, frame_skip=frame_skip)
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
  np.testing.assert_allclose(codecs.read_video(path), video.astype(int), atol=5)
  assert codecs.probe(path) == (5, 8.0, video.shape[1:3])


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
  np.testing.assert_array_equal(codecs.read_video(tmp_path / 'a.mp4'), frames)


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
  whole = codecs.read_video(tmp_path / 'a.mp4')
  for start, num_frames, frame_skip in [(29, 1, 1), (17, 5, 1), (3, 9, 3), (0, 8, 4), (2, 4, 2.5)]:
    window = codecs.read_video(tmp_path / 'a.mp4', start=start, num_frames=num_frames, frame_skip=frame_skip)
    np.testing.assert_array_equal(window, whole[transforms.frame_numbers(start, num_frames, frame_skip)])
  times = codecs._index(tmp_path / 'a.mp4').times
  with av.open(str(tmp_path / 'a.mp4')) as container:
    decoded = {frame.pts for frame in codecs._needed(container, container.streams.video[0], {times[13]})}
  assert times[13] in decoded
  assert len(decoded) < 24, 'of 30 frames, three in four of which are B-frames'


def test_frames_that_differ_in_size_raise(tmp_path):
  for side in (32, 48):
    encode(tmp_path / f'{side}.ts', numbered(4, side), 'libx264')
  both = tmp_path / 'both.ts'
  both.write_bytes((tmp_path / '32.ts').read_bytes() + (tmp_path / '48.ts').read_bytes())
  with raises(ValueError, both, 'size'):
    codecs.read_video(both)


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
  assert numbers(codecs.read_video(path, start=5, num_frames=3, frame_skip=2)) == [5, 7, 9]
  assert codecs.probe(path).frame_rate == pytest.approx(11 / 1.21, rel=1e-6)


@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_rotated_videos_are_turned_upright(tmp_path, rotation):
  upright = np.zeros((2, 32, 64, 3), np.uint8)
  upright[:, :16, :32] = 255  # the upper left corner is white
  stored = np.rot90(upright, -rotation // 90, axes=(1, 2))
  encode(tmp_path / 'a.mp4', np.ascontiguousarray(stored), 'libx264', rotation=rotation)
  read = codecs.read_video(tmp_path / 'a.mp4')
  np.testing.assert_allclose(read, upright, atol=12)


def test_a_rewritten_file_is_read_again(tmp_path):
  for num_frames in (3, 5):
    codecs.write_mp4(tmp_path / 'a.mp4', numbered(num_frames), fps=8)
    assert numbers(codecs.read_video(tmp_path / 'a.mp4')) == list(range(num_frames))


def test_a_failed_write_leaves_the_old_file_and_no_temporary_files(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'a.mp4'
  codecs.write_mp4(path, numbered(4), fps=8)
  before = path.read_bytes()
  frames = iter([codecs._yuv420(frame) for frame in patches(0, size=16, frames=100)])

  def fail_at_the_end(frame):
    if (picture := next(frames, None)) is not None:
      return picture
    assert [file for file in path.parent.iterdir() if file != path]  # part of it is on disk
    raise RuntimeError('disk full')

  monkeypatch.setattr(codecs, '_yuv420', fail_at_the_end)
  with pytest.raises(RuntimeError, match='disk full'):
    codecs.write_mp4(path, patches(0, size=16, frames=101), fps=8)
  assert path.read_bytes() == before
  assert [file.name for file in path.parent.iterdir()] == ['a.mp4']


def test_errors_of_reading(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(FileNotFoundError, path):
    codecs.read_video(path)
  path.write_text('A renamed text file.')
  with raises(ValueError, path, 'Invalid data found when processing input'):
    codecs.read_video(path)
  codecs.write_mp4(path, numbered(8), fps=8)
  with raises(ValueError, path, 'frame 9', '8 frames'):
    codecs.read_video(path, start=1, num_frames=5, frame_skip=2)
  with raises(ValueError, path, 'frame 8', '8 frames'):
    codecs.read_video(path, start=8)
  with raises(ValueError, path, 'start=0, num_frames=0, frame_skip=1'):
    codecs.read_video(path, num_frames=0)


def test_a_sound_file_has_no_video(tmp_path):
  path = tmp_path / 'a.mp4'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('aac', rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format='fltp', layout='mono')
    frame.rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  with raises(ValueError, path, 'no video frames'):
    codecs.read_video(path)


@pytest.mark.parametrize('kept', [0, 10, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_named(tmp_path, kept):
  path = tmp_path / 'a.mp4'
  codecs.write_mp4(path, numbered(8), fps=8)
  content = path.read_bytes()
  path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
  with raises(ValueError, f'{path}: '):
    codecs.read_video(path)


def test_errors_of_writing(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(ValueError, 'video', '(2, 4, 32, 32, 3)'):
    codecs.write_mp4(path, np.zeros((2, 4, 32, 32, 3), np.uint8), fps=8)
  for fps in (0, float('nan')):
    with raises(ValueError, path, f'fps={fps}'):
      codecs.write_mp4(path, numbered(2), fps=fps)
  assert not path.exists()


@pytest.mark.parametrize('write', [codecs.write_mp4, codecs.write_gif])
@pytest.mark.parametrize('kind', ['uint8', 'float', 'gray'])
def test_an_iterable_of_frames_gives_the_bytes_of_the_array(tmp_path, write, kind):
  video = patches(4, size=8, frames=20)[:, :-1, :-1]
  if kind == 'gray':
    video = video[..., :1]
  if kind == 'float':
    video = np.random.default_rng(0).uniform(-1.2, 1.2, (20, 31, 47, 3)).astype(np.float32)
  write(tmp_path / 'array', video, fps=24)
  write(tmp_path / 'frames', (frame for frame in video), fps=24)
  write(tmp_path / 'list', list(video), fps=24)
  np.save(tmp_path / 'a.npy', video)
  write(tmp_path / 'mapped', np.load(tmp_path / 'a.npy', mmap_mode='r', allow_pickle=False), fps=24)
  written = [(tmp_path / name).read_bytes() for name in ('array', 'frames', 'list', 'mapped')]
  assert written[1:] == written[:1] * 3
  assert codecs.probe(tmp_path / 'array').num_frames == 20


@pytest.mark.parametrize('write', [codecs.write_mp4, codecs.write_gif])
def test_memory_does_not_grow_with_the_length(tmp_path, write):
  def peak(num_frames):
    frames = (np.full((64, 64, 3), number % 256, np.uint8) for number in range(num_frames))
    tracemalloc.start()
    write(tmp_path / 'a', frames, fps=8)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return size

  peak(2)  # imports and caches
  assert peak(400) < peak(40) + 10 * 64**2 * 3  # 360 more frames take less than ten


@pytest.mark.parametrize('write', [codecs.write_mp4, codecs.write_gif])
def test_an_iterable_of_frames_that_fails_leaves_the_old_file(tmp_path, write):
  path = tmp_path / 'a'
  write(path, numbered(4), fps=8)
  before = path.read_bytes()

  def broken():
    yield from numbered(50)
    raise RuntimeError('no more memory')

  with pytest.raises(RuntimeError, match='no more memory'):
    write(path, broken(), fps=8)
  for frames, named in [
    ([], (path,)),
    ([*numbered(3), *numbered(2, side=32)], (path, 'frame 3', '32x32', '48x48')),
    ([np.zeros((8, 8), np.uint8)], ('video', '(1, 8, 8)')),
  ]:
    with raises(ValueError, *named):
      write(path, iter(frames), fps=8)
  assert path.read_bytes() == before
  assert [file.name for file in tmp_path.iterdir()] == ['a']


def test_equal_videos_give_equal_files(tmp_path):
  rng, written = np.random.default_rng(0), set()
  video = rng.integers(0, 256, (20, 4, 6, 1)).repeat(8, 1).repeat(8, 2)[:, :-1, :-1].astype(np.uint8)
  for _ in range(150):
    np.full(int(rng.integers(1, 200_000)), int(rng.integers(255)), np.uint8)
    codecs.write_mp4(tmp_path / 'a.mp4', video, fps=24)
    written.add((tmp_path / 'a.mp4').read_bytes())
  assert len(written) == 1
