from __future__ import annotations

import os
import pickle
import time

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.data import Folder, StoredClips, TooManyBadClips
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources.folder import LAYOUT
from vdm_jax.video import reading, write_gif, write_mp4


def clip(level, num_frames=12, height=16, width=24):
  """Return a clip whose frame i has the gray value level + 2 i: pixels identify the clip and the frame."""
  levels = level + 2 * np.arange(num_frames)
  return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def fill(root, count, num_frames=12):
  for i in range(count):
    write_mp4(root / f'{i:03}.mp4', clip(30 * (i % 6), num_frames), fps=8)
  return root


def test_the_layout_rule_is_one_sentence():
  assert LAYOUT == (
    'A data folder holds clips (.mp4, .mov, .m4v, .mkv, .webm, .avi, .gif, .npy, or folders of numbered images), '
    'each with an optional caption beside it: clip.mp4 and clip.txt, or a line of metadata.jsonl.'
  )


@pytest.mark.parametrize('count', [2, 3, 10, 60])
def test_each_clip_is_in_one_split(tmp_path, count):
  fill(tmp_path, count)
  train, test = (StoredClips(Folder(tmp_path), split, num_frames=4) for split in ('train', 'test'))
  assert sorted(train.names + test.names) == [f'{i:03}.mp4' for i in range(count)]
  assert train.names == sorted(train.names)
  assert 1 <= len(test) <= max(1, count // 4)
  assert len(train) >= 1


def test_a_new_clip_moves_no_other(tmp_path):
  fill(tmp_path, 40)
  before = {split: set(StoredClips(Folder(tmp_path), split, num_frames=4).names) for split in ('train', 'test')}
  write_mp4(tmp_path / 'another.mp4', clip(0), fps=8)
  after = {split: set(StoredClips(Folder(tmp_path), split, num_frames=4).names) for split in ('train', 'test')}
  assert all(after[split] - {'another.mp4'} == before[split] for split in before)


def test_windows_hold_the_right_frames_of_the_right_clip(tmp_path):
  fill(tmp_path, 6)
  (tmp_path / 'below').mkdir()
  write_gif(tmp_path / 'below' / 'x.GIF', clip(200), fps=8)
  source = pickle.loads(pickle.dumps(StoredClips(Folder(tmp_path), 'train', num_frames=4, max_frame_skip=3)))
  rng, starts = np.random.default_rng(0), {1: set(), 2: set(), 3: set()}
  for skip in list(starts) * 30:
    for i, name in enumerate(source.names):
      level = 200 if name == 'below/x.GIF' else 30 * int(name[:3])
      read = source.read(i, rng, 4, skip)
      first = (int(read.video[0, 8, 8, 0]) - level) / 2
      expected = clip(level)[round(first) :: skip][:4]
      np.testing.assert_allclose(read.video, expected, atol=1)
      assert read.resolution == (16, 24)
      assert read.frame_rate == pytest.approx(8 / skip, rel=0.02)
      starts[skip].add(round(first))
  assert starts == {1: set(range(9)), 2: set(range(6)), 3: set(range(3))}  # the span is 4, 7 and 10 of 12 frames


def test_captions(tmp_path):
  fill(tmp_path, 5)
  texts = ['A red  Ball\n rolls\r\n', '', None, 'nul\x00 \U0001f600 ' + 'x' * 10_000, None]
  for i, text in enumerate(texts):
    if text is not None:
      (tmp_path / f'{i:03}.txt').write_text(text, encoding='utf-8')
  (tmp_path / '004.txt').write_bytes(b'bad \xff utf-8')
  found = {}
  for split in ('train', 'test'):
    source = StoredClips(Folder(tmp_path), split, num_frames=4)
    for i, name in enumerate(source.names):
      found[name[:3]] = source.read(i, np.random.default_rng(0), 4).caption
  assert found == {
    '000': 'A red Ball rolls',
    '001': '',
    '002': '',
    '003': 'nul\x00 \U0001f600 ' + 'x' * 10_000,
    '004': 'bad � utf-8',
  }
  for split in ('train', 'test'):
    assert StoredClips(Folder(tmp_path), split, num_frames=4).captions == tuple(sorted(set(found.values())))
    assert StoredClips(Folder(tmp_path), split, num_frames=4).vocabulary == tuple(
      sorted({'a', 'red', 'ball', 'rolls', 'nul\x00', '\U0001f600', 'x' * 10_000, 'bad', '�', 'utf-8'})
    )


def test_hidden_files_and_other_files_are_ignored(tmp_path):
  fill(tmp_path, 3)
  (tmp_path / '._000.mp4').write_text('what macOS leaves behind')
  (tmp_path / '.cache').mkdir()
  (tmp_path / '.cache' / 'a.mp4').write_text('')
  (tmp_path / 'notes.md').write_text('')
  names = [n for split in ('train', 'test') for n in StoredClips(Folder(tmp_path), split, num_frames=4).names]
  assert sorted(names) == ['000.mp4', '001.mp4', '002.mp4']


def test_errors(tmp_path):
  with raises(ValueError, 'data.path', LAYOUT):
    Folder('')
  missing = str(tmp_path / 'missing')
  with raises(FileNotFoundError, f'data.path={missing!r}', LAYOUT):
    Folder(missing)
  with raises(ValueError, f'data.path={str(tmp_path)!r}', LAYOUT):
    Folder(tmp_path)
  fill(tmp_path, 1)
  assert len(StoredClips(Folder(tmp_path), 'train', num_frames=4)) == 1
  with raises(ValueError, f'data.path={str(tmp_path)!r}', '1 clip', 'test split'):
    StoredClips(Folder(tmp_path), 'test', num_frames=4)
  with raises(ValueError, f'{tmp_path}/000.mp4', '12 frames', 'data.num_frames=5', 'frame skip of 3', '13'):
    StoredClips(Folder(tmp_path), 'train', num_frames=5, max_frame_skip=3).check(0)
  (tmp_path / '000.mp4').write_text('not a video')
  with raises(ValueError, f'{tmp_path}/000.mp4', 'Invalid data found when processing input'):
    StoredClips(Folder(tmp_path), 'train', num_frames=4).check(0)


def test_a_clip_without_a_frame_rate_can_only_be_an_image(tmp_path, monkeypatch):
  fill(tmp_path, 1)
  monkeypatch.setattr(reading, 'probe', lambda path: reading.VideoInfo(12, 0.0))
  with raises(ValueError, f'{tmp_path}/000.mp4', 'data.frame_rate'):
    StoredClips(Folder(tmp_path), 'train', num_frames=2).check(0)
  assert StoredClips(Folder(tmp_path), 'train', num_frames=2, frame_rate=5.0).check(0).frame_rate == 5
  assert StoredClips(Folder(tmp_path), 'train', num_frames=1).read(0, np.random.default_rng(0), 1).frame_rate == 0


def test_links_must_not_lead_out_of_the_folder(tmp_path):
  outside, root = tmp_path / 'outside', tmp_path / 'data'
  outside.mkdir()
  root.mkdir()
  fill(outside, 1)
  (outside / 'secret').write_text('password')
  fill(root, 2)
  (root / 'inside.mp4').symlink_to(root / '000.mp4')
  assert len(Folder(root).names) == 3
  (root / 'out').symlink_to(outside)  # a folder: not followed
  assert len(Folder(root).names) == 3
  for name in ('000.txt', '001.txt'):
    (root / name).symlink_to(outside / 'secret')
  with raises(ValueError, f'{root}/000.txt', 'link', 'data.path'):
    _ = StoredClips(Folder(root), 'train', num_frames=4).vocabulary
  (root / 'x.mp4').symlink_to(outside / '000.mp4')
  with raises(ValueError, f'{root}/x.mp4', 'link', 'data.path'):
    Folder(root)
  os.unlink(root / 'x.mp4')
  link = tmp_path / 'link'
  link.symlink_to(root)  # the root itself may be a link
  assert len(StoredClips(Folder(link), 'train', num_frames=4)) >= 1


def test_many_files_do_not_delay_the_error(tmp_path):
  fill(tmp_path, 1, num_frames=3)
  content = (tmp_path / '000.mp4').read_bytes()
  for i in range(1, 3000):
    (tmp_path / f'{i:04}.mp4').write_bytes(content)
  began = time.monotonic()
  for num_frames in (3, 4):
    clips = StoredClips(Folder(tmp_path), 'train', num_frames=num_frames)
    quarantine = Quarantine(str(tmp_path), 3000, 0.05)
    if num_frames == 3:
      Substituting(clips, 0, quarantine)
      continue
    with raises(TooManyBadClips, '3 frames', 'data.num_frames=4', 'frame skip of 1', '4'):
      Substituting(clips, 0, quarantine)
  assert time.monotonic() - began < 5
