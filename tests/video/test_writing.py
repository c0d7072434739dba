from __future__ import annotations

import tracemalloc

import av
import numpy as np
import pytest
from helpers.clip_files import numbered
from helpers.messages import raises
from PIL import Image

from vdm_jax.video import reading, writing


def patches(seed, size, rows=4, columns=6, frames=3):
  """Return constant squares of random colors, new in every frame."""
  colors = np.random.default_rng(seed).integers(0, 256, (frames, rows, columns, 3)).astype(np.uint8)
  return colors.repeat(size, axis=1).repeat(size, axis=2)


@pytest.mark.parametrize('seed', range(3))
def test_mp4_reproduces_constant_colors_within_two_levels(tmp_path, seed):
  video = patches(seed, size=16)
  writing.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = reading.read_video(tmp_path / 'a.mp4')
  inside = np.zeros(video.shape[1:3], bool)
  inside.reshape(4, 16, 6, 16)[:, 2:-2, :, 2:-2] = True  # chroma has half the resolution, so edges are left out
  assert np.abs(read.astype(int) - video)[:, inside].max() <= 2


def test_other_decoders_give_the_same_colors(tmp_path):
  """swscale's default path replicates chroma, so that even edges hold."""
  video = patches(0, size=16)
  writing.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  with av.open(str(tmp_path / 'a.mp4')) as container:
    read = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
  assert np.abs(read.astype(int) - video).max() <= 3


def test_black_and_white_keep_their_values(tmp_path):
  video = np.zeros((2, 32, 32, 1), np.float32)
  video[0], video[1] = -1, 1
  writing.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = reading.read_video(tmp_path / 'a.mp4')
  assert read[0].max() == 0
  assert read[1].min() == 255


@pytest.mark.parametrize('fps', [1, 8, 24, 30000 / 1001, 60])
def test_mp4_keeps_its_frame_rate(tmp_path, fps):
  writing.write_mp4(tmp_path / 'a.mp4', numbered(9), fps=fps)
  info = reading.probe(tmp_path / 'a.mp4')
  assert info.num_frames == 9
  assert info.frame_rate == pytest.approx(fps, rel=1e-3)


def test_odd_sides_repeat_their_last_pixels(tmp_path):
  video = patches(1, size=16)[:, :-1, :-3]
  writing.write_mp4(tmp_path / 'a.mp4', video, fps=8)
  read = reading.read_video(tmp_path / 'a.mp4')
  assert read.shape == (3, 64, 94, 3)
  assert np.abs(read[:, -1, 4:12].astype(int) - video[:, -1, 4:12]).max() <= 2


@pytest.mark.parametrize('fps', [8, 20, 25])
def test_gif_is_exact_and_keeps_frames_that_do_not_change(tmp_path, fps):
  video = patches(2, size=4).repeat(3, axis=0)
  writing.write_gif(tmp_path / 'a.gif', video, fps=fps)
  np.testing.assert_array_equal(reading.read_video(tmp_path / 'a.gif'), video)
  assert reading.probe(tmp_path / 'a.gif').frame_rate == pytest.approx(fps, rel=0.02)
  assert b'NETSCAPE2.0\x03\x01\x00\x00' in (tmp_path / 'a.gif').read_bytes()  # repeats endlessly


def test_a_gray_gif_is_exact_with_all_256_levels(tmp_path):
  video = np.random.default_rng(0).permutation(256).reshape(1, 16, 16, 1).astype(np.uint8)
  writing.write_gif(tmp_path / 'a.gif', video, fps=8)
  np.testing.assert_array_equal(reading.read_video(tmp_path / 'a.gif'), video.repeat(3, axis=-1))


def test_png_is_exact(tmp_path):
  image = patches(3, size=1)[0]
  writing.write_png(tmp_path / 'a.png', image)
  np.testing.assert_array_equal(reading.read_video(tmp_path / 'a.png')[0], image)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_files(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'a.mp4'
  writing.write_mp4(path, numbered(4), fps=8)
  before = path.read_bytes()
  frames = iter([writing._yuv420(frame) for frame in patches(0, size=16, frames=100)])

  def fail_at_the_end(frame):
    if (picture := next(frames, None)) is not None:
      return picture
    assert [file for file in path.parent.iterdir() if file != path]  # part of it is on disk
    raise RuntimeError('disk full')

  monkeypatch.setattr(writing, '_yuv420', fail_at_the_end)
  with pytest.raises(RuntimeError, match='disk full'):
    writing.write_mp4(path, patches(0, size=16, frames=101), fps=8)
  assert path.read_bytes() == before
  assert [file.name for file in path.parent.iterdir()] == ['a.mp4']


def test_errors_of_writing(tmp_path):
  path = tmp_path / 'a.mp4'
  with raises(ValueError, 'video', '(2, 4, 32, 32, 3)'):
    writing.write_mp4(path, np.zeros((2, 4, 32, 32, 3), np.uint8), fps=8)
  for fps in (0, float('nan')):
    with raises(ValueError, path, f'fps={fps}'):
      writing.write_mp4(path, numbered(2), fps=fps)
  assert not path.exists()


@pytest.mark.parametrize('write', [writing.write_mp4, writing.write_gif])
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
  assert reading.probe(tmp_path / 'array').num_frames == 20


@pytest.mark.parametrize('write', [writing.write_mp4, writing.write_gif])
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


@pytest.mark.parametrize('write', [writing.write_mp4, writing.write_gif])
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
    writing.write_mp4(tmp_path / 'a.mp4', video, fps=24)
    written.add((tmp_path / 'a.mp4').read_bytes())
  assert len(written) == 1


@pytest.mark.parametrize(
  ('fps', 'kept'), [(50, [*range(12)]), (100, [0, 2, 4, 6, 8, 10]), (120, [0, 2, 5, 7, 10]), (1000, [0])]
)
def test_a_gif_of_a_high_frame_rate_keeps_its_speed(tmp_path, fps, kept):
  """Browsers show frames of one hundredth of a second for ten: such frames are left out."""
  video = np.full((12, 8, 8, 1), 20, np.uint8) * np.arange(12, dtype=np.uint8)[:, None, None, None]
  writing.write_gif(tmp_path / 'a.gif', video, fps)
  np.testing.assert_array_equal(reading.read_video(tmp_path / 'a.gif')[:, 0, 0, 0], 20 * np.array(kept))
  with Image.open(tmp_path / 'a.gif') as image:
    assert image.info.get('duration', 20) == 20  # milliseconds


def test_webm_is_vp9_with_the_frames_and_the_rate(tmp_path):
  video = patches(5, size=16, frames=6)
  writing.write_webm(tmp_path / 'a.webm', video, fps=24)
  with av.open(str(tmp_path / 'a.webm')) as container:
    stream = container.streams.video[0]
    assert (container.format.name, stream.codec_context.name) == ('matroska,webm', 'vp9')
    assert stream.average_rate == 24
  read = reading.read_video(tmp_path / 'a.webm')
  assert read.shape == video.shape and np.abs(read.astype(int) - video).mean() < 6


def test_without_an_encoder_of_vp9_the_message_names_other_formats(tmp_path, monkeypatch):
  def unknown(name, mode):
    raise av.codec.codec.UnknownCodecError(name)

  monkeypatch.setattr(av, 'Codec', unknown)
  with raises(ValueError, 'webm', 'VP9', 'mp4'):
    writing.write_webm(tmp_path / 'a.webm', patches(5, size=4), fps=24)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('fps', [0.001, 1001, 1e9])
def test_frame_rates_that_files_cannot_have(tmp_path, fps):
  for write in (writing.write_mp4, writing.write_gif, writing.write_webm):
    with raises(ValueError, f'fps={fps}', '0.01 to 1000'):
      write(tmp_path / 'a', numbered(2), fps)
  writing.check_fps(float('inf'), 'of images')
