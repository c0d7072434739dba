from __future__ import annotations

import os
import pickle
import re
import time

import numpy as np
import pytest

from vdm_jax.data import Folder, TooManyBadClips
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources.folder import LAYOUT
from vdm_jax.video import codecs, write_gif, write_mp4


def clip(level, num_frames=12, height=16, width=24):
  """Frame i has the grey value level + 2 i: pixels tell the clip and the frame."""
  levels = level + 2 * np.arange(num_frames)
  return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def fill(root, count, num_frames=12):
  for i in range(count):
    write_mp4(root / f'{i:03}.mp4', clip(30 * (i % 6), num_frames), fps=8)
  return root


def raises(error, message):
  return pytest.raises(error, match=f'^{re.escape(message)}$')


def test_the_layout_rule_is_one_sentence():
  assert LAYOUT == (
    'A data folder holds clips (.mp4, .mov, .m4v, .mkv, .webm, .avi, .gif, .npy, or folders of numbered pictures), '
    'each with an optional caption beside it: clip.mp4 and clip.txt, or a line of metadata.jsonl.'
  )


@pytest.mark.parametrize('count', [2, 3, 10, 60])
def test_each_clip_is_in_one_split(tmp_path, count):
  fill(tmp_path, count)
  train, test = (Folder(tmp_path, split, num_frames=4) for split in ('train', 'test'))
  assert sorted(train.names + test.names) == [f'{i:03}.mp4' for i in range(count)]
  assert train.names == sorted(train.names)
  assert 1 <= len(test) <= max(1, count // 4)
  assert len(train) >= 1


def test_a_new_clip_moves_no_other(tmp_path):
  fill(tmp_path, 40)
  before = {split: set(Folder(tmp_path, split, num_frames=4).names) for split in ('train', 'test')}
  write_mp4(tmp_path / 'another.mp4', clip(0), fps=8)
  after = {split: set(Folder(tmp_path, split, num_frames=4).names) for split in ('train', 'test')}
  assert all(after[split] - {'another.mp4'} == before[split] for split in before)


def test_windows_hold_the_right_frames_of_the_right_clip(tmp_path):
  fill(tmp_path, 6)
  (tmp_path / 'below').mkdir()
  write_gif(tmp_path / 'below' / 'x.GIF', clip(200), fps=8)
  source = pickle.loads(pickle.dumps(Folder(tmp_path, 'train', num_frames=4, max_frame_skip=3)))
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
    source = Folder(tmp_path, split, num_frames=4)
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
    assert Folder(tmp_path, split, num_frames=4).captions == tuple(sorted(set(found.values())))
    assert Folder(tmp_path, split, num_frames=4).vocabulary == tuple(
      sorted({'a', 'red', 'ball', 'rolls', 'nul\x00', '\U0001f600', 'x' * 10_000, 'bad', '�', 'utf-8'})
    )


def test_hidden_files_and_other_files_are_ignored(tmp_path):
  fill(tmp_path, 3)
  (tmp_path / '._000.mp4').write_text('what macOS leaves behind')
  (tmp_path / '.cache').mkdir()
  (tmp_path / '.cache' / 'a.mp4').write_text('')
  (tmp_path / 'notes.md').write_text('')
  names = [n for split in ('train', 'test') for n in Folder(tmp_path, split, num_frames=4).names]
  assert sorted(names) == ['000.mp4', '001.mp4', '002.mp4']


def test_errors(tmp_path):
  with raises(ValueError, f'data.path is empty, but it must name a folder of clips. {LAYOUT}'):
    Folder('', 'train', num_frames=4)
  missing = str(tmp_path / 'missing')
  with raises(FileNotFoundError, f'data.path={missing!r} is not a folder; check the path. {LAYOUT}'):
    Folder(missing, 'train', num_frames=4)
  with raises(ValueError, f'data.path={str(tmp_path)!r} has no clips. {LAYOUT}'):
    Folder(tmp_path, 'train', num_frames=4)
  fill(tmp_path, 1)
  assert len(Folder(tmp_path, 'train', num_frames=4)) == 1
  with raises(
    ValueError,
    f'data.path={str(tmp_path)!r} has 1 clip, so that none is left for the test split; '
    'add clips, or use the other split alone.',
  ):
    Folder(tmp_path, 'test', num_frames=4)
  with raises(
    ValueError,
    f'{tmp_path}/000.mp4 has 12 frames, but data.num_frames=5 with a frame skip of 3 needs 13; '
    'remove the clip, or lower data.num_frames, data.frame_skip or data.frame_skip_max.',
  ):
    Folder(tmp_path, 'train', num_frames=5, max_frame_skip=3).check(0)
  (tmp_path / '000.mp4').write_text('not a video')
  with raises(
    ValueError,
    f'{tmp_path}/000.mp4: cannot be decoded as a video (Invalid data found when processing input); '
    're-encode or remove the file.',
  ):
    Folder(tmp_path, 'train', num_frames=4).check(0)


def test_a_clip_without_a_frame_rate_is_a_picture_at_most(tmp_path, monkeypatch):
  fill(tmp_path, 1)
  monkeypatch.setattr(codecs, 'probe', lambda path: codecs.VideoInfo(12, 0.0))
  message = f'{tmp_path}/000.mp4 does not tell its frame rate; re-encode or remove the file, or set data.frame_rate.'
  with raises(ValueError, message):
    Folder(tmp_path, 'train', num_frames=2).check(0)
  assert Folder(tmp_path, 'train', num_frames=2, frame_rate=5.0).check(0).frame_rate == 5
  assert Folder(tmp_path, 'train', num_frames=1).read(0, np.random.default_rng(0), 1).frame_rate == 0


def test_links_may_not_lead_outside(tmp_path):
  outside, root = tmp_path / 'outside', tmp_path / 'data'
  outside.mkdir()
  root.mkdir()
  fill(outside, 1)
  (outside / 'secret').write_text('password')
  fill(root, 2)
  (root / 'inside.mp4').symlink_to(root / '000.mp4')
  assert len(Folder(root, 'train', num_frames=4)) + len(Folder(root, 'test', num_frames=4)) == 3
  (root / 'out').symlink_to(outside)  # a folder: not followed
  assert len(Folder(root, 'train', num_frames=4)) + len(Folder(root, 'test', num_frames=4)) == 3
  for name in ('000.txt', '001.txt'):
    (root / name).symlink_to(outside / 'secret')
  message = f'{root}/000.txt is a link to a place outside of data.path; copy the file instead.'
  with raises(ValueError, message):
    _ = Folder(root, 'train', num_frames=4).vocabulary
  (root / 'x.mp4').symlink_to(outside / '000.mp4')
  with raises(ValueError, f'{root}/x.mp4 is a link to a place outside of data.path; copy the file instead.'):
    Folder(root, 'train', num_frames=4)
  os.unlink(root / 'x.mp4')
  link = tmp_path / 'link'
  link.symlink_to(root)  # the root itself may be a link
  assert len(Folder(link, 'train', num_frames=4)) >= 1


def test_many_files_do_not_delay_the_error(tmp_path):
  fill(tmp_path, 1, num_frames=3)
  content = (tmp_path / '000.mp4').read_bytes()
  for i in range(1, 3000):
    (tmp_path / f'{i:04}.mp4').write_bytes(content)
  began = time.monotonic()
  for num_frames in (3, 4):
    source, quarantine = Folder(tmp_path, 'train', num_frames=num_frames), Quarantine(str(tmp_path), 3000, 0.05)
    if num_frames == 3:
      Substituting(source, 0, quarantine)
      continue
    with pytest.raises(TooManyBadClips, match='has 3 frames, but data.num_frames=4 with a frame skip of 1 needs 4'):
      Substituting(source, 0, quarantine)
  assert time.monotonic() - began < 5
