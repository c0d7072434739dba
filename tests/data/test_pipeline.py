from __future__ import annotations

import fractions
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.batches import Letters, assert_equal, build, configure, leaves, read_back, take
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data import pipeline
from vdm_jax.data.sources import catalog, digits
from vdm_jax.types import Batch
from vdm_jax.video import to_float, to_uint8, write_gif, write_mp4


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """37 clips: clip i has the constant gray level 6 i, and its caption names i."""
  root = tmp_path_factory.mktemp('clips')
  for i in range(37):
    write_mp4(root / f'{i:02}.mp4', np.full((9, 16, 16, 1), 6 * i, np.uint8), fps=8)
    (root / f'{i:02}.txt').write_text(f'number {i}')
  return str(root)


def clip_numbers(batch):
  """Return the clip of `folder` that each frame of the batch comes from: int [b t+n-1]."""
  return np.rint((batch.x.mean(axis=(2, 3, 4)) + 1) * 127.5 / 6).astype(int)


def test_shapes_types_and_range():
  batch = next(build(configure()))
  assert isinstance(batch, Batch)
  assert batch.x.shape == (6, 10, 16, 16, 1)
  assert batch.x.dtype == np.float32
  assert (batch.x.min(), batch.x.max()) == (-1.0, 1.0)
  assert batch.cond.text.shape == batch.cond.text_mask.shape == (6, 3, 40)
  assert batch.cond.text_mask.dtype == bool
  assert batch.cond.label.shape == (6, 3)
  assert batch.cond.label.dtype == np.int32
  assert batch.cond.drop is None


HARD = {'num_digits': 1, 'random_start': True, 'bounce': True, 'colors': True}
FIRST = {
  'plain': (configure(), {}, 2051551381),
  'third host from step 5': (configure(), {'start': 5, 'rows': (2, 3)}, 1362754172),
  'hard': (configure(channels=3, num_frames=4, height=20, digits=HARD), {'seed': 3}, 2560602149),
  'held out': (configure(channels=3, num_frames=4, height=20, digits=HARD), {'seed': 3, 'split': 'test'}, 129326539),
}


def checksum(batches):
  parts = (leaf for batch in batches for leaf in (batch.x, batch.cond.text, batch.cond.text_mask, batch.cond.label))
  return zlib.crc32(b''.join(part.tobytes() for part in parts if part is not None))


@pytest.mark.parametrize('name', FIRST)
def test_earlier_runs_resume_on_the_same_batches(name):
  """Streams are those from before frame skips of digits, images as videos and padding existed."""
  config, arguments, expected = FIRST[name]
  assert checksum(take(build(config, **arguments), 3)) == expected


@pytest.mark.parametrize(('split', 'expected'), [('train', 3111689498), ('test', 2286753735)])
def test_earlier_runs_on_a_folder_resume_on_the_same_batches(tmp_path, split, expected):
  for i in range(13):
    noise = np.random.default_rng(i).integers(0, 256, (12, 16, 18, 1)).astype(np.uint8)
    write_gif(tmp_path / f'{i:02}.gif', noise, fps=8)
    (tmp_path / f'{i:02}.txt').write_text(f'number {i}')
  config = configure(name='folder', path=str(tmp_path), labels=False, flip=True, num_frames=4, frame_skip=3)
  assert checksum(take(build(config, split=split), 6)) == expected


def are_images(batch):
  """Return which videos are a repeated image, by their pixels: bool [b]."""
  return (batch.x[:, :8] == batch.x[:, :1]).all(axis=(1, 2, 3, 4))


@pytest.mark.parametrize(
  ('rate', 'batch_size', 'count'), [(0.5, 6, 3), (0.3, 10, 3), (0.7, 10, 7), (1 / 3, 3, 1), (0.99, 100, 99), (1, 6, 6)]
)
def test_every_batch_has_its_share_of_images(rate, batch_size, count):
  for start in (0, 10**9):
    for batch in take(build(configure(image_rate=rate, batch_size=batch_size, num_images=0), start=start), 3):
      assert are_images(batch).sum() == count
      np.testing.assert_array_equal(
        batch.cond.frame_interval, np.where(are_images(batch), np.float32(0), np.float32(1 / 8))
      )


@pytest.mark.parametrize('rate', [0.3, 0.4, 0.85])
def test_images_are_spread_evenly(rate):
  config = configure(image_rate=rate, batch_size=1, num_images=0)
  shown = np.array([are_images(batch)[0] for batch in take(build(config), 80)])
  period = {0.3: 10, 0.4: 5, 0.85: 20}[rate]
  counts = shown.reshape(-1, period).sum(1)
  assert (counts == round(period * rate)).all(), 'the same number in every period'
  running = np.cumsum(shown) - rate * np.arange(1, 81)
  assert np.abs(running).max() < 2, 'without clusters'


@pytest.mark.parametrize(('rate', 'parts'), [(0.5, 2), (0.5, 4), (0.25, 4), (0.75, 8)])
def test_every_host_and_micro_batch_gets_its_share_of_images(rate, parts):
  rate = fractions.Fraction(rate)
  marks = np.array([pipeline._mark_images(i, 0, rate=rate)[1] for i in range(64 * parts)])
  np.testing.assert_allclose(marks.reshape(64, parts).mean(0), float(rate), atol=0.1)  # every n-th element
  hosts = marks.reshape(-1, parts, 4).mean((0, 2))  # blocks of 4
  np.testing.assert_allclose(hosts, float(rate), atol=0.1)


def test_an_image_is_a_random_frame_of_its_clip(tmp_path):
  """Frame f of every clip has the gray level 20 f."""
  levels = np.uint8(20) * np.arange(12, dtype=np.uint8)
  for name in 'abc':
    write_gif(tmp_path / f'{name}.gif', levels[:, None, None, None].repeat(16, 1).repeat(16, 2), fps=8)
  config = configure(name='folder', path=str(tmp_path), labels=False, image_rate=0.5, num_images=0)
  x = np.concatenate([batch.x for batch in take(build(config), 40)])
  frames = np.rint((x.mean(axis=(2, 3, 4)) + 1) * 127.5 / 20).astype(int)
  is_image = (np.diff(frames[:, :8]) == 0).all(1)
  assert is_image.sum() * 2 == len(frames)
  videos, images = frames[~is_image, :8], frames[is_image, :8]
  assert (np.diff(videos) == 1).all()
  assert (np.diff(images) == 0).all()
  counts = np.bincount(images[:, 0], minlength=12)
  assert len(counts) == 12
  assert np.abs(counts - 10).max() <= 9  # three standard deviations


def test_a_video_of_one_frame_is_an_image():
  batch = next(build(configure(num_frames=1)))
  assert (batch.cond.frame_interval == 0).all()


@pytest.mark.parametrize(('least', 'most', 'drawn'), [(1, 3, {1, 2, 3}), (2, 3, {2, 3}), (3, 0, {3}), (2, 2, {2})])
def test_the_frame_interval_matches_the_skip_in_the_pixels(tmp_path, least, most, drawn):
  """Frame f of every clip has the gray level 5 f, so that differences give the skip."""
  levels = np.uint8(5) * np.arange(40, dtype=np.uint8)
  for name in 'abc':
    write_gif(tmp_path / f'{name}.gif', levels[:, None, None, None].repeat(16, 1).repeat(16, 2), fps=10)
  config = configure(
    name='folder', path=str(tmp_path), labels=False, num_images=0, frame_skip=least, frame_skip_max=most
  )
  batches = take(build(config), 20)
  x, intervals = (np.concatenate(parts) for parts in zip(*((b.x, b.cond.frame_interval) for b in batches), strict=True))
  seen = np.rint(np.diff(x[:, :8].mean(axis=(2, 3, 4)), axis=1) * 127.5 / 5).astype(int)
  assert (seen == seen[:, :1]).all()
  np.testing.assert_allclose(intervals, seen[:, 0] / 10, rtol=1e-6)
  skips, counts = np.unique(seen[:, 0], return_counts=True)
  assert set(skips) == drawn
  assert np.abs(counts - 120 / len(drawn)).max() <= 18  # 3.5 standard deviations


def test_a_larger_skip_of_digits_covers_more_distance():
  """With skips of 1 to 4, 29 frames take a digit across; a clip shows 8 of them."""
  batch = next(build(configure(frame_skip_max=4, batch_size=200, num_images=0)))
  skips = np.rint(batch.cond.frame_interval * 8).astype(int)
  direction = batch.cond.label[:, 0] % 4
  # The distance is 8 pixels: frame f of 29 is at floor(8 (2 f + 1) / 58).
  path = 8 * (2 * np.arange(29) + 1) // 58
  possible = {skip: {tuple(np.diff(path[s::skip][:8])) for s in range(29 - 7 * skip)} for skip in (1, 2, 3, 4)}
  assert set(skips) == set(possible)
  for video, skip, towards in zip(batch.x[..., 0], skips, direction, strict=True):
    ink = (video + 1).sum(axis=2 if towards >= 2 else 1)  # [t position]
    steps = np.rint(np.diff(ink @ np.arange(16) / ink.sum(axis=1))).astype(int)
    backwards = towards in (0, 2)  # the path from its other end, the other way
    assert tuple(steps) in ({tuple(-step for step in p[::-1]) for p in possible[skip]} if backwards else possible[skip])


def test_padding_surrounds_the_video_and_its_images():
  padded, bare = (next(build(configure(height=height, width=24, pad_rows=rows))) for height, rows in ((28, 3), (22, 0)))
  np.testing.assert_array_equal(padded.x, np.pad(bare.x, ((0, 0), (0, 0), (3, 3), (0, 0), (0, 0)), 'edge'))
  np.testing.assert_array_equal(padded.cond.resolution, np.full((6, 2), (22, 24), np.float32))
  np.testing.assert_array_equal(padded.cond.label, bare.cond.label)


def test_padded_clips_of_a_folder_keep_their_aspect(tmp_path):
  rows = np.linspace(0, 255, 20).astype(np.uint8)[None, :, None, None]
  for name in 'ab':
    write_gif(tmp_path / f'{name}.gif', rows.repeat(8, 0).repeat(30, 2), fps=8)
  config = configure(name='folder', path=str(tmp_path), labels=False, height=24, width=30, pad_rows=2)
  batch = next(build(config))
  expected = to_float(rows[0, :, 0, 0][[0, 0, *range(20), 19, 19]])
  np.testing.assert_array_equal(batch.x, np.broadcast_to(expected[:, None, None], batch.x.shape))
  np.testing.assert_array_equal(batch.cond.resolution, np.full((6, 2), (20, 30), np.float32))


def test_resolution_and_interval_belong_to_the_video(tmp_path):
  """Clips differ in size and frame rate, and each has an image of another clip."""
  sizes = {'a': (16, 32, 5), 'b': (48, 24, 10), 'c': (64, 64, 20)}
  for level, (name, (height, width, fps)) in enumerate(sizes.items()):
    write_gif(tmp_path / f'{name}.gif', np.full((8, height, width, 1), 100 * level, np.uint8), fps=fps)
    (tmp_path / f'{name}.txt').write_text(name)
  config = configure(name='folder', path=str(tmp_path), labels=False, num_images=1)
  for batch in take(build(config), 3):
    assert batch.cond.resolution.dtype == batch.cond.frame_interval.dtype == np.float32
    shown = [sizes[read_back(tokens[0])] for tokens in batch.cond.text]
    for (*size, fps), resolution, interval in zip(shown, batch.cond.resolution, batch.cond.frame_interval, strict=True):
      assert resolution.tolist() == size
      assert interval == pytest.approx(1 / fps, rel=0.02)


def test_embeddings_keep_their_width():
  def embed(captions):
    return np.ones((len(captions), 5, 7), np.float32), np.ones((len(captions), 5), bool)

  batch = next(build(configure(text='bert-large'), embed))
  assert batch.cond.text.shape == (6, 3, 5, 7)
  assert batch.cond.text_mask.shape == (6, 3, 5)


def test_without_text_and_labels_drop_has_the_number_of_conditions():
  batch = next(build(configure(text='none', labels=False)))
  np.testing.assert_array_equal(batch.cond.drop, np.zeros((6, 3), bool))
  assert [field is None for field in batch.cond] == [True, True, True, False, False, False, True, True]


def glyph_is_in(frame, digit):
  """Return whether the 16x16 frame contains exactly one training glyph of this digit."""
  images, labels = digits.glyphs('train')
  windows = np.lib.stride_tricks.sliding_window_view(frame, (8, 8)).reshape(-1, 8, 8)
  complete = [window.tobytes() for window in windows if window.sum() == frame.sum()]
  return bool({image.tobytes() for image in images[labels == digit]} & set(complete))


def test_videos_and_images_carry_their_own_captions():
  batch = next(build(configure(num_images=8)))
  pixels = to_uint8(batch.x[..., 0]).astype(np.uint8)
  differing = 0
  for video, tokens, labels in zip(pixels, batch.cond.text, batch.cond.label, strict=True):
    for position, frames in enumerate([video[:8], *video[8:, None]]):
      caption = read_back(tokens[position])
      digit, direction = divmod(int(labels[position]), 4)
      assert caption == f'a {digit} moving {digits.DIRECTIONS[direction]}'
      assert all(glyph_is_in(frame, digit) for frame in frames)
    differing += len({read_back(row) for row in tokens}) > 2
  assert differing == 6


def test_images_come_from_other_clips_and_from_all_of_them(folder):
  config = configure(name='folder', path=folder, num_images=4, labels=False)
  numbers = np.concatenate([clip_numbers(batch) for batch in take(build(config), 30)])
  videos, images = numbers[:, :8], numbers[:, 8:]
  assert (videos == videos[:, :1]).all()
  assert (images != videos[:, :1]).all()
  assert set(images.ravel()) == set(videos.ravel())


def test_captions_of_a_folder_follow_their_clips(folder):
  config = configure(name='folder', path=folder, num_images=3, labels=False)
  for batch in take(build(config), 5):
    for shown, tokens in zip(clip_numbers(batch), batch.cond.text, strict=True):
      assert [read_back(row) for row in tokens] == [f'number {i}' for i in shown[7:]]


def test_every_epoch_has_every_clip_once_in_a_new_order(folder):
  config = configure(name='folder', path=folder, batch_size=1, num_images=0, labels=False)
  names = data.StoredClips(data.Folder(folder), 'train', num_frames=8).names
  epochs = np.array([clip_numbers(batch)[0, 0] for batch in take(build(config), 3 * len(names))]).reshape(3, -1)
  for epoch in epochs:
    assert sorted(epoch) == [int(name[:2]) for name in names]
  assert len({tuple(epoch) for epoch in epochs}) == 3
  for seed in (1, 2):  # not the next epoch of seed 0 either
    other = [clip_numbers(batch)[0, 0] for batch in take(build(config, seed=seed), len(names))]
    assert all(other != epoch.tolist() for epoch in epochs)


@pytest.mark.parametrize('hosts', [[None], [(0, 3), (1, 2)], [(0, 1, 6, 7), (2, 4, 8, 10), (3, 5, 9, 11)]])
def test_resuming_at_any_step_equals_never_having_stopped(tmp_path, hosts):
  """Every step of three epochs of 37 clips, in batches of four; three hosts take four rows each.

  The resumed stream of elements does not depend on the hosts or on the batch size.
  """
  levels = 6 * np.arange(37)[:, None] + np.arange(3)  # identify the clip and the frame
  np.save(tmp_path / 'a.npy', np.uint8(levels)[..., None, None, None].repeat(4, 2).repeat(4, 3))
  config = configure(
    name='array',
    path=str(tmp_path / 'a.npy'),
    frame_rate=8.0,
    train_on_all=True,
    num_images=1,
    text='none',
    labels=False,
    num_frames=2,
    flip=True,
    image_rate=0.4,
    frame_skip_max=2,
    height=4,
    width=4,
    batch_size=4 if len(hosts) < 3 else 12,
  )
  single = take(build(configure(**config.to_dict() | {'batch_size': 1})), 112)
  stream = [np.concatenate(parts) for parts in zip(*map(leaves, single), strict=True)]
  shown = np.rint((stream[0][:111, 0].mean(axis=(1, 2, 3)) + 1) * 127.5).astype(int) // 6
  for epoch in shown.reshape(3, 37):
    assert sorted(epoch) == list(range(37))
  for step in range(112 // config.batch_size):
    for rows in hosts:
      batch = next(build(config, start=step, rows=rows))
      places = step * config.batch_size + np.array(rows or range(config.batch_size))
      for leaf, expected in zip(leaves(batch), stream, strict=True):
        np.testing.assert_array_equal(leaf, expected[places])


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('changes', [{}, {'image_rate': 0.4, 'frame_skip_max': 3, 'height': 20, 'pad_rows': 2}])
def test_hosts_make_any_rows_of_one_global_batch(changes, split):
  """In blocks, interleaved, of unequal numbers, and the same rows twice."""
  config = configure(**changes)
  whole = take(build(config, split=split), 4)
  for rows in ((0, 1), (2, 5), (1, 3, 4), (2, 5), (0, 1, 2, 3, 4, 5)):
    host = take(build(config, split=split, rows=rows), 4)
    held = data.held_out(config, Letters(), seed=0, num_batches=4, rows=rows) if split == 'test' else host
    for step, batch in enumerate(whole):
      for leaf, part, kept in zip(leaves(batch), leaves(host[step]), leaves(held[step]), strict=True):
        assert part.shape == (len(rows), *leaf.shape[1:])
        np.testing.assert_array_equal(part, leaf[list(rows)])
        np.testing.assert_array_equal(kept, part)


def test_seeds_and_splits_differ():
  streams = [next(build(configure(), seed=seed, split=split)) for seed in (0, 1) for split in ('train', 'test')]
  for left, right in itertools.combinations(streams, 2):
    assert (left.x != right.x).any(axis=(1, 2, 3, 4)).all()


@pytest.mark.parametrize('size', [2, 5, 9])
def test_batches_of_another_size_continue_the_stream(folder, size):
  """Three batches of 4, then batches of another size from the twelfth example on, whichever rows a host makes."""
  config = configure(name='folder', path=folder, labels=False, batch_size=4)
  expected = np.concatenate([clip_numbers(batch)[:, 0] for batch in take(build(config), 12)])[12 : 12 + 2 * size]
  config.batch_size = size
  offset = 12 - 3 * size
  found = np.concatenate([clip_numbers(batch)[:, 0] for batch in take(build(config, start=3, offset=offset), 2)])
  np.testing.assert_array_equal(found, expected)
  (own,) = take(build(config, start=3, offset=offset, rows=(1,)), 1)
  assert clip_numbers(own)[:, 0].tolist() == [expected[1]]


def test_the_held_out_set_is_the_start_of_the_test_stream(folder):
  config = configure(name='folder', path=folder, labels=False, flip=True)
  first, again = (data.held_out(config, Letters(), seed=0, num_batches=2) for _ in range(2))
  for a, b, c in zip(first, again, take(build(config, split='test'), 2), strict=True):
    assert_equal(a, b)
    assert_equal(a, c)
  names = data.StoredClips(data.Folder(folder), 'test', num_frames=8).names
  shown = np.concatenate([clip_numbers(batch)[:, 0] for batch in first])
  assert shown.tolist() == [int(name[:2]) for name in itertools.islice(itertools.cycle(names), 12)]


def test_flips_mirror_whole_clips_with_probability_one_half(tmp_path):
  video = np.zeros((8, 16, 16, 1), np.uint8)
  video[:, :, :4] = 255  # bright at the left
  for name in 'abc':
    write_mp4(tmp_path / f'{name}.mp4', video, fps=8)
  config = configure(name='folder', path=str(tmp_path), labels=False, flip=True, num_images=1)
  x = np.concatenate([batch.x for batch in take(build(config), 40)])
  left, right = x[:, :, :, 0].mean(axis=(2, 3)) > 0, x[:, :, :, -1].mean(axis=(2, 3)) > 0
  assert (left != right).all()
  assert (left[:, :8] == left[:, :1]).all()  # all frames of a clip are flipped together
  assert 0.35 < left[:, 0].mean() < 0.65
  assert 0.35 < (left[:, 0] == left[:, 8]).mean() < 0.65  # its image independently
  assert all((batch.x[:, :, :, 0] > 0).all() for batch in take(build(config, split='test'), 10))


def test_clips_are_scaled_to_the_configured_size(folder):
  config = configure(name='folder', path=folder, labels=False, height=12, width=20, channels=3, num_images=0)
  for batch in take(build(config), 3):
    assert batch.x.shape == (6, 8, 12, 20, 3)
    assert np.ptp(batch.x, axis=(1, 2, 3, 4)).max() < 0.02  # constant gray remains constant


def test_a_single_clip_provides_its_own_images(tmp_path):
  write_mp4(tmp_path / 'a.mp4', np.full((8, 16, 16, 1), 90, np.uint8), fps=8)
  config = configure(name='folder', path=str(tmp_path), labels=False)
  assert (clip_numbers(next(build(config))) == 15).all()


@pytest.mark.slow
def test_workers_change_nothing():
  config = configure(digits={'num_digits': 1, 'random_start': True}, image_rate=0.5, frame_skip_max=3)
  for start in (0, 3):
    batches = {
      workers: take(build(configure(**config.to_dict() | {'num_workers': workers}), start=start), 5)
      for workers in (0, 2)
    }
    for left, right in zip(batches[0], batches[2], strict=True):
      assert_equal(left, right)
      assert right.x.base is None  # not a view of shared memory


@pytest.mark.slow
def test_workers_share_the_list_of_bad_clips_and_its_limit(tmp_path):
  (root := tmp_path / 'clips').mkdir()
  for i in range(300):  # more than are checked before the first batch
    path = root / f'{i:03}.npy'
    np.save(path, np.full((3, 16, 16, 3), i % 256, np.uint8))
    if i % 3 == 0:
      path.write_bytes(b'')
  config = configure(
    name='folder', path=str(root), frame_rate=8.0, num_frames=3, text='none', labels=False, batch_size=30
  )
  streams = []
  for workers in (0, 2):
    (state := tmp_path / f'{workers}').mkdir()
    config.update(num_workers=workers, max_bad_share=0.34)
    streams.append(take(build(config, quarantine=str(state)), 9))
    listed = [json.loads(line)['clip'] for line in (state / 'quarantine.jsonl').read_text().splitlines()]
    assert len(listed) == len(set(listed))
    (tmp_path / f'{workers}' / 'quarantine.jsonl').unlink()
  for left, right in zip(*streams, strict=True):
    assert_equal(left, right)
  config.update(max_bad_share=(len(listed) - 0.5) / 300)  # exceeded by the last one
  stream = build(config, quarantine=str(tmp_path / '2'))
  with raises(data.TooManyBadClips, f'{len(listed)} of 300 clips'):
    take(stream, 30)


EXIT_WITH_LIVE_WORKERS = """
import sys
sys.path.insert(0, {folder!r})
from helpers.batches import Letters, configure
from vdm_jax import data
if __name__ == '__main__':
  batches = data.build(configure(num_workers=1), Letters(), seed=0)
  kept = [next(batches), next(batches)]
  print(kept[1].x.shape)
"""


@pytest.mark.slow
def test_workers_exit_silently_with_the_program(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(EXIT_WITH_LIVE_WORKERS.format(folder=str(Path(__file__).parents[1])))
  paths = os.pathsep.join(sys.path)
  done = subprocess.run(
    [sys.executable, script], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': paths}
  )
  assert (done.returncode, done.stdout.strip(), done.stderr) == (0, '(6, 10, 16, 16, 1)', '')


def test_closed_streams_stop_their_threads():
  before = threading.active_count()
  for _ in range(5):
    batches = build(configure())
    next(batches)
    batches.close()
  deadline = time.monotonic() + 5
  while threading.active_count() > before and time.monotonic() < deadline:
    time.sleep(0.01)
  assert threading.active_count() <= before


@pytest.mark.parametrize(
  ('changes', 'arguments', 'named'),
  [
    ({'name': 'digit'}, {}, ("data.name='digit'", "'digits'")),
    ({}, {'split': 'valid'}, ("split='valid'", "'train'", "'test'")),
    ({'batch_size': 0}, {}, ('data.batch_size=0',)),
    ({'num_images': -1}, {}, ('data.num_images=-1',)),
    ({'channels': 2}, {}, ('data.channels=2',)),
    ({}, {'start': -1}, ('start=-1',)),
    *(({}, {'rows': rows}, (f'rows={rows}', 'data.batch_size=6')) for rows in ([4, 6], [-1, 2], [3, 1], [1, 1], [])),
    ({'text': 'bert-large'}, {}, ("data.text='bert-large'",)),
    ({'frame_skip': 0}, {}, ('data.frame_skip=0',)),
    ({'frame_skip': 3, 'frame_skip_max': 2}, {}, ('data.frame_skip_max=2', 'data.frame_skip=3')),
    ({'image_rate': -0.1}, {}, ('data.image_rate=-0.1',)),
    ({'image_rate': 1.5}, {}, ('data.image_rate=1.5',)),
    ({'pad_rows': -1}, {}, ('data.pad_rows=-1',)),
    ({'pad_rows': 8}, {}, ('data.pad_rows=8', 'data.height=16')),
    ({'pad_rows': 2}, {}, ('digits: 12x16',)),
    ({'flip': True}, {}, ('data.flip=True', "data.name='digits'")),
    ({'digits': {'num_digits': 2}}, {}, ('data.labels=True', "data.name='digits'")),
  ],
)
def test_errors_come_before_the_first_batch(changes, arguments, named):
  with raises(ValueError, *named):
    build(configure(**changes), **arguments)


def test_a_text_function_without_text():
  with raises(ValueError, "data.text='none'"):
    data.build(configure(text='none'), Letters(), seed=0)


def test_vocabulary(folder):
  assert data.vocabulary(configure()) == catalog.build(configure(), 'test', 5).vocabulary
  words = {'number', *(str(i) for i in range(37))}
  assert data.vocabulary(configure(name='folder', path=folder)) == tuple(sorted(words))


LONG = {'num_digits': 1, 'random_start': False, 'bounce': True, 'colors': False, 'clip_frames': 32}


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize(('num_frames', 'skip'), [(8, 1), (4, 3), (32, 1)])
def test_windows_are_parts_of_one_longer_clip(split, num_frames, skip):
  """A clip has 32 frames for windows of any length, so what follows a window is in the same clip."""
  source = catalog.build(configure(digits=LONG, num_frames=num_frames, frame_skip=skip), split, 3)
  rng, last, starts = np.random.default_rng(0), 32 - (num_frames - 1) * skip, set()
  for index in range(60):
    whole = digits.Digits(split=split, seed=3, num_frames=32, bounce=True)[index]
    part = source.read(index, rng, num_frames, skip)
    fits = {s for s in range(last) if (whole.video[s::skip][:num_frames] == part.video).all()}
    assert fits and (part.caption, part.label) == (whole.caption, whole.label)
    starts |= fits
  assert starts >= {0, last - 1}
  longer = source.read(0, rng, 32)
  np.testing.assert_array_equal(longer.video, digits.Digits(split=split, seed=3, num_frames=32, bounce=True)[0].video)


def test_batches_are_windows_of_longer_clips():
  batch = next(data.build(configure(digits=LONG, text='none', labels=False, num_images=0), None, seed=3, split='test'))
  source = digits.Digits(split='test', seed=3, num_frames=32, bounce=True)
  for index, x in enumerate(batch.x):
    whole = source[index].video / np.float32(127.5) - 1
    assert any(np.abs(whole[start : start + 8] - x).max() < 1e-6 for start in range(25))


@pytest.mark.parametrize(('clip_frames', 'changes', 'span'), [(7, {}, 8), (21, {'frame_skip': 3}, 22)])
def test_clips_shorter_than_a_window_raise(clip_frames, changes, span):
  with raises(ValueError, f'data.digits.clip_frames={clip_frames}', f'{span} frames'):
    catalog.build(configure(digits=LONG | {'clip_frames': clip_frames}, **changes), 'train', 0)


def test_captions_of_both_splits(folder):
  assert data.captions(configure()) == catalog.build(configure(), 'test', 5).captions
  config = configure(name='folder', path=folder)
  seen = {clip.caption for split in ('train', 'test') for clip in data.examples(config, split, seed=0, count=99)}
  assert data.captions(config) == tuple(sorted(seen))


def test_examples_have_no_padding_and_the_smallest_skip(folder):
  changes = {'frame_skip': 2, 'frame_skip_max': 3, 'image_rate': 0.5, 'height': 20, 'pad_rows': 2}
  for clip, whole in zip(
    data.examples(configure(**changes), 'test', seed=1, count=5),
    [digits.Digits(split='test', seed=1, num_frames=22)[i].video for i in range(5)],
    strict=True,
  ):
    assert clip.frame_rate == 4
    assert clip.video.shape == (8, 16, 16, 1)
    assert any((clip.video == whole[start : start + 15 : 2]).all() for start in range(8))
  clips = data.examples(configure(name='folder', path=folder, num_frames=3, **changes), 'test', seed=1, count=2)
  assert [clip.video.shape for clip in clips] == [(3, 16, 16, 1)] * 2


def test_import_stays_light():
  """Reading a configuration or sampling must not wait for SciPy or FFmpeg."""
  code = "import sys, vdm_jax.data; print([m for m in ('scipy', 'av', 'flax') if m in sys.modules])"
  shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
  assert shown.strip() == '[]'


def test_with_bad_clips_the_stream_is_the_same_on_all_hosts_and_after_a_resume(tmp_path):
  """A fifth of the clips is bad, and most are only found when they are decoded."""
  (root := tmp_path / 'clips').mkdir()
  (state := tmp_path / 'state').mkdir()
  for i in range(30):
    patches = np.random.default_rng(i).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
    write_mp4(root / f'{i:02}.mp4', patches, fps=8)
    if i % 5 == 0:
      content = (root / f'{i:02}.mp4').read_bytes()
      middle = content.find(b'mdat') + 800
      (root / f'{i:02}.mp4').write_bytes(content[:middle] + b'\xa5' * 400 + content[middle + 400 :] if i else b'')
  config = configure(
    name='folder', path=str(root), text='none', labels=False, num_frames=6, max_bad_share=0.2, flip=True
  )
  whole = take(build(config, quarantine=str(state)), 12)
  lines = (state / 'quarantine.jsonl').read_text().splitlines()
  train = [name for name in data.StoredClips(data.Folder(root), 'train', num_frames=6).names if int(name[:2]) % 5 == 0]
  assert sorted(json.loads(line)['clip'] for line in lines) == train
  for rows in (range(6), (0, 4), (1, 2), (3, 5)):
    for start in (0, 5, 11):
      batch = next(build(config, quarantine=str(state), start=start, rows=rows))
      np.testing.assert_array_equal(batch.x, whole[start].x[list(rows)])
  assert (state / 'quarantine.jsonl').read_text().splitlines() == lines
  with raises(data.TooManyBadClips, 'data.path=', 'of 30 clips'):
    take(build(configure(**config.to_dict() | {'max_bad_share': 0.1})), 12)


def test_train_on_all_adds_the_clips_of_the_test_split(folder):
  config = configure(name='folder', path=folder, batch_size=37, num_images=0, labels=False)
  shown = {
    (split, on_all): sorted(
      clip_numbers(next(build(configure(**config.to_dict() | {'train_on_all': on_all}), split=split)))[:, 0]
    )
    for split in ('train', 'test')
    for on_all in (False, True)
  }
  assert shown['train', True] == list(range(37))
  assert shown['test', True] == shown['test', False]
  assert set(shown['train', False]) == set(range(37)) - set(shown['test', False])
  with raises(ValueError, 'data.train_on_all=True', "data.name='digits'"):
    build(configure(train_on_all=True))
