"""Clips whose frame rate varies: frames are picked by their own times, from files and from records."""

from __future__ import annotations

import fractions
import os
import tarfile

import av
import numpy as np
import pytest
from helpers.batches import build, configure, take
from helpers.messages import raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources.archives.webdataset import WebDataset
from vdm_jax.video import reading
from vdm_jax.video.input_video import TooFewFrames, read_input_video
from vdm_jax.video.timed_windows import TimedWindows, mean_frame_rate

# A telephone in the dark: one second at 30 frames per second, then two at 10.
TIMES = np.array([n / 30 for n in range(30)] + [1 + n / 10 for n in range(21)])


def write(path, times, tick=90000):
  """Write frames of these times in seconds; frame n has the gray level 4 n, in which no level is lost."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=30, options={'qp': '0', 'g': '9', 'bf': '2'})
    stream.height, stream.width, stream.pix_fmt = 16, 16, 'yuv444p'
    stream.codec_context.time_base = fractions.Fraction(1, tick)
    for number, time in enumerate(times):
      frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 4 * number, np.uint8), 'rgb24').reformat(format='yuv444p')
      frame.pts, frame.time_base = round(time * tick), fractions.Fraction(1, tick)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def shown(video):
  return np.rint(video.reshape(len(video), -1).mean(1) / 4).astype(int)


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  root = tmp_path_factory.mktemp('varying')
  for name in ('a.mp4', 'b.mkv'):
    write(root / name, TIMES)
  write(root / 'even.mp4', np.arange(50) / 30)
  return root


def opened(path, **settings):
  return data.StoredClips(data.Folder(path), 'train', train_on_all=True, **settings)


def brute_force(times, num_frames, interval):
  """Return the windows by the definition: distinct frames, each nearest to its time and within half a step of it."""
  found = {}
  for start in range(len(times)):
    wanted = [times[start] + k * interval for k in range(num_frames)]
    distances = [np.abs(times - time) for time in wanted]
    picked = [len(times) - 1 - int(np.argmin(np.round(d, 6)[::-1])) for d in distances]  # the later one of two
    near = all(d[p] <= interval / 2 + 1e-6 for d, p in zip(distances, picked, strict=True))
    if near and len(set(picked)) == num_frames and wanted[-1] < times[-1] + (times[-1] - times[-2]) / 2 - 1e-6:
      found[start] = picked
  return found


@pytest.mark.parametrize(('num_frames', 'interval'), [(1, 0.1), (5, 0.2), (3, 0.5), (8, 1 / 30), (12, 0.05), (6, 0.07)])
def test_windows_are_those_of_the_definition(num_frames, interval):
  for times in (TIMES, np.cumsum(np.random.default_rng(0).exponential(0.05, 60))):
    windows, expected = TimedWindows(times, num_frames, interval), brute_force(times, num_frames, interval)
    assert windows.starts().tolist() == list(expected)
    assert all(windows.at(start) == numbers for start, numbers in expected.items())
    if not expected:
      with raises(ValueError, f'{num_frames} frames'):
        windows.draw(np.random.default_rng(0))
      continue
    assert windows.draw(None) == expected[min(expected)]
    drawn = [windows.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert all(expected[numbers[0]] == numbers for numbers in drawn)
    assert len({numbers[0] for numbers in drawn}) > 1


def test_frames_are_picked_by_their_times_and_the_interval_is_the_true_one(clips):
  source = opened(clips, num_frames=6, target_frame_rate=5.0)
  for index in (0, 1):
    for seed in range(12):
      clip = source.read(index, np.random.default_rng(seed), 6)
      times = TIMES[shown(clip.video)]
      assert np.abs(times - times[0] - 0.2 * np.arange(6)).max() <= 0.05 + 1e-3  # half of the longest gap
      assert clip.frame_rate == pytest.approx(5 / (times[-1] - times[0]), rel=2e-3)  # Matroska rounds to 1 ms
  first = source.read(0, None, 6)
  np.testing.assert_allclose(TIMES[shown(first.video)], 0.2 * np.arange(6), atol=1e-9)
  assert first.frame_rate == pytest.approx(5.0, rel=1e-9)
  unpicked = opened(clips, num_frames=10)
  clip = unpicked.window(0, 25, 10)
  assert shown(clip.video).tolist() == list(range(25, 35))
  clip = unpicked.read(0, np.random.default_rng(0), 10)
  times = TIMES[shown(clip.video)]
  assert clip.frame_rate == pytest.approx(9 / (times[-1] - times[0]))
  even = unpicked.read(2, None, 10)
  assert even.frame_rate == pytest.approx(30) and unpicked.times(2) is None


def test_shards_of_files_give_the_same_clips(clips, tmp_path):
  with tarfile.open(tmp_path / 'a.tar', 'w') as shard:
    for file in sorted(clips.iterdir()):
      shard.add(file, file.name)
  folder = opened(clips, num_frames=6, target_frame_rate=5.0)
  shards = data.StoredClips(WebDataset(tmp_path), 'train', num_frames=6, target_frame_rate=5.0, train_on_all=True)
  for index in range(3):
    mine, theirs = (source.read(index, np.random.default_rng(1), 6) for source in (folder, shards))
    np.testing.assert_array_equal(mine.video, theirs.video)
    assert mine.frame_rate == theirs.frame_rate and folder.notes(index) == shards.notes(index)


def test_an_input_video_is_picked_by_its_times(clips):
  read = read_input_video(clips / 'a.mp4', channels=3, frame_rate=5.0)
  np.testing.assert_allclose(TIMES[shown(read.video)], 0.2 * np.arange(16), atol=1e-9)  # from 0 to 3 s
  assert len(read_input_video(clips / 'a.mp4', channels=3, frame_rate=5.0, num_frames=7).video) == 7
  with pytest.raises(TooFewFrames, match=r'^17 .*a\.mp4 has only 16 at 5'):
    read_input_video(clips / 'a.mp4', channels=3, frame_rate=5.0, num_frames=17)
  with raises(ValueError, clips / 'a.mp4', '25 are needed', 'repeat'):
    read_input_video(clips / 'a.mp4', channels=3, frame_rate=25.0)
  assert len(read_input_video(clips / 'a.mp4', channels=3).video) == len(TIMES)


def test_records_give_the_same_clips(clips, tmp_path):
  assert command.main(['convert', str(clips), str(tmp_path / 'records'), '--clips_per_shard=2']) == 0
  folder = opened(clips, num_frames=6, target_frame_rate=5.0)
  records = data.StoredClips(
    data.Records(tmp_path / 'records'), 'train', num_frames=6, target_frame_rate=5.0, train_on_all=True
  )
  for index in range(3):
    for seed in range(4):
      mine, theirs = (source.read(index, np.random.default_rng(seed), 6) for source in (folder, records))
      np.testing.assert_array_equal(mine.video, theirs.video)
      assert mine[1:] == theirs[1:]
  assert list(records.notes(0)) == ['variable frame rate'] and not records.notes(2)


def test_the_network_is_told_the_true_interval(clips):
  settings = {'name': 'folder', 'path': str(clips), 'text': 'none', 'labels': False, 'train_on_all': True}
  config = configure(**settings, num_frames=4, target_frame_rate=5.0, height=16, width=16, flip=False)
  for batch in take(build(config), 3):
    numbers = np.rint((batch.x[:, :4].mean((2, 3, 4)) + 1) * 127.5 / 4).astype(int)
    for picked, interval in zip(numbers, batch.cond.frame_interval, strict=True):
      of_even = (picked[3] - picked[0]) / 30 / 3
      of_varying = (TIMES[picked[3]] - TIMES[picked[0]]) / 3 if picked[3] < len(TIMES) else of_even
      assert min(abs(interval - of_even), abs(interval - of_varying)) < 2e-3


def test_inspect_says_how_many_vary_and_counts_their_windows(clips, capsys):
  found, _ = inspect(str(clips), num_frames=6, target_frame_rate=5.0)
  assert found.notes == {'variable frame rate': ['a.mp4', 'b.mkv']}
  counts = len(brute_force(TIMES, 6, 0.2)), 50 - 30
  assert sum(found.windows.values()) == pytest.approx(2 * counts[0] + counts[1], abs=2)  # of Matroska's rounded times
  before = sorted(os.listdir())
  assert command.main(['inspect', str(clips), '--num_frames=6']) == 0
  assert sorted(os.listdir()) == before, 'a file was written that nobody asked for'
  assert 'variable frame rate: 2 clips, such as a.mp4; set data.target_frame_rate' in capsys.readouterr().out
  slow, _ = inspect(str(clips), num_frames=16, target_frame_rate=25.0, max_bad_share=1.0)
  assert [reason.split(':')[0] for reason in slow.short] == []
  slow, _ = inspect(str(clips), num_frames=30, target_frame_rate=25.0, max_bad_share=1.0)
  assert [reason.split(':')[0] for reason in slow.short] == [f'{clips}/a.mp4', f'{clips}/b.mkv']
  with raises(ValueError, f'{clips}/a.mp4', '30 frames', 'data.target_frame_rate'):
    opened(clips, num_frames=30, target_frame_rate=25.0).check(0)


@pytest.mark.parametrize(('rate', 'name'), [(24, 'a.mkv'), (60, 'a.mkv'), (120, 'b.mkv'), (30000 / 1001, 'a.mp4')])
def test_rounded_times_of_a_constant_rate_do_not_vary(tmp_path, rate, name):
  write(tmp_path / name, np.arange(40) / rate)
  assert reading.frame_times(tmp_path / name) is None
  assert reading.probe(tmp_path / name).frame_rate == pytest.approx(rate, rel=2e-3)


def test_one_missing_frame_makes_the_rate_vary(tmp_path):
  for tick in (30, 90000):
    write(tmp_path / f'{tick}.mp4', np.delete(np.arange(40) / 30, 20), tick)
    times = reading.frame_times(tmp_path / f'{tick}.mp4')
    np.testing.assert_allclose(times, np.delete(np.arange(40) / 30, 20), atol=1e-4)


def test_a_gif_of_several_delays(tmp_path):
  """Viewers show a frame without a delay for a tenth of a second."""
  frames = [Image.fromarray(np.full((8, 8), 20 * n, np.uint8)) for n in range(6)]
  delays = [50, 50, 300, 0, 50, 50]
  frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:], duration=delays, loop=0)
  times = reading.frame_times(tmp_path / 'a.gif')
  np.testing.assert_allclose(times, [0, 0.05, 0.1, 0.4, 0.5, 0.55], atol=1e-9)
  assert mean_frame_rate(times, [0, 1, 2], 0.0) == pytest.approx(20)
  clip = opened(tmp_path, num_frames=2, target_frame_rate=10.0).read(0, None, 2)
  assert np.rint(clip.video[:, 0, 0, 0] / 20).tolist() == [0, 2]
