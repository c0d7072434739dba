"""Clips of several frame rates, read at a single one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.batches import build, configure, take
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources.stored_clips import skip_in_clip_frames
from vdm_jax.video import transforms, write_mp4

RATES = (24, 25, 30, 60)
SECONDS = 1.5


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """Frame f of a clip has the gray level 2 f; the width identifies the frame rate."""
  root = tmp_path_factory.mktemp('rates')
  for rate in RATES:
    levels = 2 * np.arange(round(SECONDS * rate), dtype=np.uint8)
    write_mp4(root / f'{rate}.mp4', levels[:, None, None, None].repeat(16, 1).repeat(rate // 2 * 2, 2), fps=rate)
  return root


@pytest.mark.parametrize('target', [24.0, 12.0, 10.0, 7.5])
@pytest.mark.parametrize('skip', [1, 2])
def test_frames_are_the_nearest_in_time(clips, target, skip):
  source = data.StoredClips(
    data.Folder(clips), 'train', num_frames=5, target_frame_rate=target, max_frame_skip=skip, train_on_all=True
  )
  for index, rate in enumerate(RATES):
    wanted = np.arange(5) * skip / target  # seconds after the first frame
    starts = set()
    for seed in range(20):
      clip = source.read(index, np.random.default_rng(seed), 5, skip)
      numbers = np.rint(clip.video.mean(axis=(1, 2, 3)) / 2).astype(int)
      times = (numbers - numbers[0]) / rate
      assert np.abs(times - wanted).max() <= 0.5 / rate + 1e-9
      assert clip.frame_rate == target / skip
      if rate % target == 0:
        np.testing.assert_allclose(times, wanted, atol=1e-9)
      starts.add(numbers[0])
    last = round(SECONDS * rate) - (numbers[-1] - numbers[0]) - 1
    assert max(starts) <= last
    assert len(starts) > 1


def test_a_batch_has_one_frame_rate(clips):
  config = configure(
    name='folder',
    path=str(clips),
    text='none',
    labels=False,
    train_on_all=True,
    num_frames=4,
    frame_skip_max=2,
    target_frame_rate=12.0,
    width=24,
    max_bad_share=0.0,
  )
  batches = take(build(config), 8)
  levels = np.concatenate([batch.x[:, :4].mean(axis=(2, 3, 4)) for batch in batches])
  intervals = np.concatenate([batch.cond.frame_interval for batch in batches])
  rates = np.concatenate([batch.cond.resolution[:, 1] for batch in batches])  # 25 is 24 wide
  passed = np.rint((levels[:, 3] - levels[:, 0]) * 127.5 / 2) / 3 / np.where(rates == 24, 24.5, rates)
  assert {round(float(interval) * 12) for interval in intervals} == {1, 2}
  np.testing.assert_allclose(passed, intervals, rtol=0.1)


@pytest.mark.parametrize(
  ('rate', 'target', 'num_frames', 'expected'),
  [
    (24, 24, 16, 1.0),
    (24000 / 1001, 24, 16, 1.0),  # 0.1 % slower
    (24000 / 1001, 24, 502, None),  # half a frame late at the end
    (24, 25, 13, 1.0),
    (24, 25, 14, None),
    (15, 24, 2, 1.0),
    (15, 24, 3, None),
    (60, 24, 16, 2.5),
    (60, 0, 16, 1),
  ],
)
def test_a_clip_is_too_slow_if_a_frame_would_appear_twice(rate, target, num_frames, expected):
  assert skip_in_clip_frames(num_frames, 1, rate, target) == expected
  numbers = transforms.frame_numbers(0, num_frames, rate / target) if target else range(num_frames)
  assert (len(set(numbers)) < num_frames) == (expected is None)


def test_integer_skips_are_every_nth_frame():
  for skip in (1, 2, 7):
    assert transforms.frame_numbers(3, 5, skip) == [*range(3, 3 + 5 * skip, skip)]
    assert transforms.window_span(5, skip) == 4 * skip + 1
  assert transforms.frame_numbers(0, 5, 2.5) == [0, 3, 5, 8, 10]


def test_slow_clips_are_unusable_and_inspect_counts_windows_at_the_rate(clips, capsys):
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=16, target_frame_rate=30.0, train_on_all=True)
  with raises(ValueError, f'{clips}/24.mp4', '24 frames per second', '30', 'data.target_frame_rate'):
    source.check(0)
  found, _ = inspect(str(clips), num_frames=16, target_frame_rate=30.0, max_bad_share=0.5)
  assert found.short == [f'{clips}/{rate}.mp4: {rate} frames per second, too few for 30' for rate in (24, 25)]
  assert sum(found.windows.values()) == (45 - 15) + (90 - 30)
  source = data.StoredClips(data.Folder(clips), 'train', num_frames=40, target_frame_rate=30.0, train_on_all=True)
  with raises(ValueError, '60.mp4 has 90 frames', 'data.num_frames=46', '30 of its 60 frames per second'):
    source.read(3, np.random.default_rng(0), 46)
  status = command.main(['inspect', str(clips), '--num_frames=16', '--target_frame_rate=12', '--sheet='])
  shown = capsys.readouterr().out
  assert 'windows of 16 frames with a skip of 1 (at 12 frames per second): ' in shown
  windows = sum(map(int, re.search(r'per second\): (\d+) train, (\d+) test', shown).groups()))
  spans = [transforms.window_span(16, rate / 12) for rate in RATES]
  assert windows == sum(round(SECONDS * rate) - span + 1 for rate, span in zip(RATES, spans, strict=True))
  assert status == 0


def test_digits_have_one_frame_rate():
  with raises(ValueError, 'data.target_frame_rate=4.0', "data.name='digits'"):
    build(configure(target_frame_rate=4.0))
  with raises(ValueError, 'data.target_frame_rate=-1.0'):
    build(configure(target_frame_rate=-1.0))
