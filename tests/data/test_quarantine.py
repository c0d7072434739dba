from __future__ import annotations

import json
import math
import os
import pathlib
import pickle
import shutil
import threading

import av
import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data import quarantine
from vdm_jax.data.quarantine import Quarantine, Substituting, TooManyBadClips, substitute
from vdm_jax.video import frame_index, opening, reading, write_mp4, write_png


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
  """A hundred clips of five frames, whose pixels identify the clip and the frame."""
  root = tmp_path_factory.mktemp('clips')
  for i in range(100):
    write_mp4(
      root / f'{i:02}.mp4',
      (2 * i + 8 * np.arange(5, dtype=np.uint8))[:, None, None, None].repeat(16, 1).repeat(16, 2),
      fps=8,
    )
    (root / f'{i:02}.txt').write_text(f'number {i}')
  return root


def copy(clips, root, count):
  for i in range(count):
    for suffix in ('mp4', 'txt'):
      os.link(clips / f'{i:02}.{suffix}', root / f'{i:02}.{suffix}')


def sound(path):
  with av.open(str(path), 'w', format='mp4') as container:
    stream = container.add_stream('aac', rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format='fltp', layout='mono')
    frame.rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def damaged(content, where, length):
  return content[:where] + b'\xa5' * length + content[where + length :]


def huge(width, height):
  return b'GIF89a' + width.to_bytes(2, 'little') + height.to_bytes(2, 'little') + b'\0\0\0;'


def one_frame(path):
  write_mp4(path, np.zeros((1, 16, 16, 3), np.uint8), fps=8)


# Each function takes the path of a missing file and the content of a good clip.
KINDS = {
  'empty': lambda path, good: path.write_bytes(b''),
  'truncated': lambda path, good: path.write_bytes(good[: len(good) // 2]),
  'another type': lambda path, good: path.write_bytes(b'PK\x03\x04' + bytes(200)),
  'no frames': lambda path, good: path.write_bytes(huge(16, 16)),
  'text': lambda path, good: path.write_text('A renamed text file.'),
  'damaged header': lambda path, good: path.write_bytes(damaged(good, 0, 48)),
  'damaged pixels': lambda path, good: path.write_bytes(damaged(good, good.find(b'mdat') + 720, 40)),
  'sound': lambda path, good: sound(path),
  'one frame': lambda path, good: one_frame(path),
  'huge': lambda path, good: path.write_bytes(huge(60000, 60000)),
  'folder': lambda path, good: path.mkdir(),
  'dangling link': lambda path, good: path.symlink_to(path.with_name('gone')),
  'pipe': lambda path, good: os.mkfifo(path),
  'playlist': lambda path, good: path.write_text('#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n'),
  'list of files': lambda path, good: path.write_text('ffconcat version 1.0\nfile 50.mp4\n'),
  'forbidden': lambda path, good: path.write_bytes(b'forbidden'),
}


@pytest.fixture
def forbid(monkeypatch):
  """Files with this content cannot be opened; permissions alone do not stop a test that runs as root."""
  opened = av.open

  def guarded(path, *arguments, **options):
    if os.path.isfile(path) and pathlib.Path(path).read_bytes() == b'forbidden':
      raise av.error.PermissionError(13, 'Permission denied', path)
    return opened(path, *arguments, **options)

  monkeypatch.setattr(av, 'open', guarded)


def spoil(root, names, kind):
  for name in names:
    good = (root / name).read_bytes()
    (root / name).unlink()
    KINDS[kind](root / name, good)


def expected(good_source, seed, index, bad):
  """Return the first clip of the chain of substitutes that is not bad."""
  chain = (substitute(seed, index, attempt, len(good_source)) for attempt in range(len(good_source)))
  return next(i for i in chain if good_source.names[i] not in bad)


@pytest.mark.parametrize(('count', 'share'), [(100, 0.01), (20, 0.1), (20, 0.5)])
@pytest.mark.parametrize('kind', KINDS)
def test_bad_clips_are_replaced_and_listed_once(tmp_path, clips, forbid, kind, count, share):
  root, state = tmp_path / 'data', tmp_path / 'state'
  root.mkdir()
  state.mkdir()
  copy(clips, root, count)
  good_source = data.StoredClips(data.Folder(clips), 'train', num_frames=3) if count == 100 else None
  if good_source is None:
    (same := tmp_path / 'same').mkdir()
    copy(clips, same, count)
    good_source = data.StoredClips(data.Folder(same), 'train', num_frames=3)
  bad = set(good_source.names[:: max(1, round(1 / share))][: max(1, round(share * count))])
  if share == 0.01:
    bad = {good_source.names[31]}
  spoil(root, bad, kind)
  source = data.StoredClips(data.Folder(root), 'train', num_frames=3)
  assert source.names == good_source.names
  listed = Quarantine(str(root), count, share, state)
  streams = [Substituting(source, 7, listed), Substituting(source, 7, Quarantine(str(root), count, 1.0))]
  for index in [*range(len(source))] * (2 if count == 20 else 1) if share > 0.01 else range(25, 35):
    rngs = [np.random.default_rng((5, index)) for _ in range(3)]
    stands_in = expected(good_source, 7, index, bad)
    assert (stands_in == index) == (source.names[index] not in bad)
    wanted = good_source.read(stands_in, rngs[2], 3)
    for stream, rng in zip(streams, rngs, strict=False):
      clip = stream.read(index, rng, 3)
      np.testing.assert_array_equal(clip.video, wanted.video)
      assert clip[1:] == wanted[1:]
      assert rng.bit_generator.state == rngs[2].bit_generator.state, 'the next draws are the same'
  lines = [json.loads(line) for line in (state / 'quarantine.jsonl').read_text().splitlines()]
  assert sorted(line['clip'] for line in lines) == sorted(bad)
  assert all(line['path'] == str(root) and line['reason'].startswith(f'{root}/{line["clip"]}') for line in lines)


@pytest.mark.parametrize('count', [2, 3, 12, 97])
def test_substitutes_reach_every_clip(count):
  for seed in range(3):
    for index in range(count):
      chain = [substitute(seed, index, attempt, count) for attempt in range(count)]
      assert chain[0] == index
      assert sorted(chain) == list(range(count))
  if count == 97:
    assert len({substitute(0, index, 1, count) for index in range(count)}) > count / 2, 'no clip substitutes for all'
    assert [substitute(0, i, 1, count) for i in range(count)] != [substitute(1, i, 1, count) for i in range(count)]


def test_too_many_bad_clips_raise_with_the_list(tmp_path, clips):
  root, state = tmp_path / 'data', tmp_path / 'state'
  root.mkdir()
  state.mkdir()
  copy(clips, root, 20)
  source = data.StoredClips(data.Folder(root), 'train', num_frames=3)
  names = source.names[:3]
  spoil(root, names, 'text')
  reasons = [f'{root}/{name}' for name in names]
  for share, allowed in [(0.15, True), (0.149, False)]:
    listed = Quarantine(str(root), 20, share, state)
    if allowed:
      Substituting(source, 0, listed)
      continue
    where = (f'data.path={str(root)!r}: 3 of 20 clips', 'data.max_bad_share=0.149')
    with raises(TooManyBadClips, *where, *reasons, f'{state}/quarantine.jsonl', 'data.max_bad_share'):
      Substituting(source, 0, listed)
  spoil(root, source.names[3:], 'text')
  with raises(TooManyBadClips, f'data.path={str(root)!r}', *(f'{root}/{name}' for name in source.names[:10])):
    Substituting(source, 0, Quarantine(str(root), 20, 1.0))
  with raises(ValueError, 'data.max_bad_share=1.5'):
    Quarantine(str(root), 20, 1.5)


class Broken:
  """Clips of which every n-th is bad, n being `every`."""

  path, total = 'somewhere', 100_000

  def __init__(self, every):
    self.every, self.names = every, [str(i) for i in range(self.total)]

  def __len__(self):
    return self.total

  def check(self, index):
    if not index % self.every:
      raise ValueError(f'{index} is bad')


@pytest.mark.parametrize(('every', 'stops'), [(2, True), (5, True), (20, False), (10**6, False)])
def test_a_sample_of_256_clips_finds_data_that_are_broken_throughout(monkeypatch, every, stops):
  monkeypatch.setattr(np, 'linspace', lambda *_: np.random.default_rng(0).integers(100_000, size=256))
  source = Broken(every)
  if not stops:
    Substituting(source, 0, Quarantine('somewhere', source.total, 0.05))
    return
  with raises(TooManyBadClips, '256', '100000 clips'):
    Substituting(source, 0, Quarantine('somewhere', source.total, 0.05))


def test_processes_and_runs_share_one_list(tmp_path):
  path = str(tmp_path / 'data')
  (tmp_path / 'quarantine.jsonl').write_text(
    json.dumps({'path': 'other', 'clip': 'x', 'reason': ''}) + '\n' + '{"path": "cut o'
  )
  first, second = (Quarantine(path, 100, 0.03, tmp_path) for _ in range(2))
  first.add('a', ValueError('a is\n bad'))
  second.add('b', ValueError('b'))
  second.add('a', ValueError('a is bad'))
  threads = [threading.Thread(target=q.add, args=('c', ValueError('c'))) for q in (first, second) * 4]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  lines = (tmp_path / 'quarantine.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines[2:]] == [
    {'path': path, 'clip': name, 'reason': reason} for name, reason in (('a', 'a is bad'), ('b', 'b'), ('c', 'c'))
  ]
  third = pickle.loads(pickle.dumps(Quarantine(path, 100, 0.03, tmp_path)))
  with raises(TooManyBadClips, '4 of 100 clips'):
    third.add('d', ValueError('d'))


def test_sizes_bytes_frames_and_time_are_bounded(tmp_path, monkeypatch, clips):
  path, good = tmp_path / 'a.gif', str(clips / '00.mp4')
  path.write_bytes(huge(60000, 60000))
  with raises(ValueError, path):
    reading.probe(path)
  for width, height in [(8192, 8192), (60000, 600)]:
    path.write_bytes(huge(width, height))
    with raises(ValueError, path, f'{height}x{width}', '33,554,432'):
      reading.probe(path)
  with raises(ValueError, good, '4 frames of 16x16', 'data.num_frames'):
    reading.read_video(good, num_frames=4, max_bytes=4 * 16 * 16 * 3 - 1)
  assert len(reading.read_video(good, num_frames=4, max_bytes=4 * 16 * 16 * 3)) == 4
  with raises(ValueError, good, '0 s'):
    reading.read_video(good, max_seconds=0)
  shutil.copy(good, tmp_path / 'b.mp4')
  monkeypatch.setattr(frame_index, 'MAX_FRAMES', 4)
  with raises(ValueError, f'{tmp_path}/b.mp4', '4 frames'):
    reading.probe(tmp_path / 'b.mp4')


@pytest.mark.parametrize('name', ['a.mp4', 'a%03d.png', 'concat:a|b.mp4', 'file:a.mp4'])
def test_no_other_file_is_ever_read(tmp_path, clips, name):
  """Neither through a list of files, nor a pattern, nor a protocol in a name."""
  shutil.copy(clips / '00.mp4', tmp_path / 'secret.mp4')
  write_png(tmp_path / 'a001.png', np.zeros((8, 8, 3), np.uint8))
  path = tmp_path / name
  path.write_text('ffconcat version 1.0\nfile secret.mp4\n')
  with raises(ValueError, path, 'mov, matroska, avi, gif, mpeg, mpegts'):
    reading.read_video(path)


def test_damage_ends_at_the_next_key_frame(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
  write_mp4(tmp_path / 'a.mp4', noise, fps=8)
  good = reading.read_video(tmp_path / 'a.mp4')
  content = (tmp_path / 'a.mp4').read_bytes()
  (tmp_path / 'a.mp4').write_bytes(damaged(content, content.find(b'mdat') + 1200, 40))
  readable = []
  for start in range(37):
    try:
      window = reading.read_video(tmp_path / 'a.mp4', start=start, num_frames=3)
    except ValueError as error:
      known = f'frames {start} to {start + 2} ', 'cannot be decoded as a video (Invalid data'
      assert str(error).removeprefix(f'{tmp_path}/a.mp4: ').startswith(known)
    else:
      np.testing.assert_array_equal(window, good[start : start + 3])
      readable.append(start)
  assert set(range(16, 37)) <= set(readable), 'key frames are 16 apart'
  assert len(readable) < 37
  assert math.isclose(reading.probe(tmp_path / 'a.mp4').frame_rate, 8)
  assert quarantine.FILE == 'quarantine.jsonl'


def test_a_file_that_cannot_be_opened_is_named(tmp_path, clips, monkeypatch):
  def forbidden(path, most):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(opening, 'check_frame_count', forbidden)
  frame_index._cached_index.cache_clear()
  path = clips / '01.mp4'
  with raises(ValueError, path, 'Permission denied'):
    reading.probe(path)
