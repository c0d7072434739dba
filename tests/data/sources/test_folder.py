from __future__ import annotations

import os
import pickle
import time
import unicodedata

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import configuration
from vdm_jax.data import Folder, StoredClips, TooManyBadClips
from vdm_jax.data.quarantine import Quarantine, Substituting
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.folder import LAYOUT
from vdm_jax.inputs.text_files import UnreadableText
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
  texts = ['A red  Ball\n rolls.\r\n', '', None, '\ufeffcafe\u0301 \U0001f600 ' + 'x' * 10_000, None]
  for i, text in enumerate(texts):
    if text is not None:
      (tmp_path / f'{i:03}.txt').write_text(text, encoding='utf-8')
  (tmp_path / '004.TXT').write_bytes('utf-16, as PowerShell writes it'.encode('utf-16'))
  found = {}
  for split in ('train', 'test'):
    source = StoredClips(Folder(tmp_path), split, num_frames=4)
    for i, name in enumerate(source.names):
      found[name[:3]] = source.read(i, np.random.default_rng(0), 4).caption
  assert found == {
    '000': 'A red Ball rolls.',
    '001': '',
    '002': '',
    '003': 'caf\u00e9 \U0001f600 ' + 'x' * 10_000,
    '004': 'utf-16, as PowerShell writes it',
  }
  for split in ('train', 'test'):
    assert StoredClips(Folder(tmp_path), split, num_frames=4).captions == tuple(sorted(set(found.values())))
    words = {
      *['a', 'red', 'ball', 'rolls', 'utf', '16', 'as', 'powershell', 'writes', 'it'],
      'caf\u00e9',
      '\U0001f600',
      'x' * 10_000,
    }
    assert StoredClips(Folder(tmp_path), split, num_frames=4).vocabulary == tuple(sorted(words))


def test_a_caption_in_another_encoding_is_named(tmp_path):
  fill(tmp_path, 12)
  (tmp_path / '003.txt').write_bytes('un café'.encode('cp1252'))
  with raises(UnreadableText, f'{tmp_path}/003.txt, line 1: ', '0xE9'):
    _ = StoredClips(Folder(tmp_path), 'train', num_frames=4, train_on_all=True).vocabulary
  clips = StoredClips(Folder(tmp_path), 'train', num_frames=4, train_on_all=True)
  with raises(TooManyBadClips, f'{tmp_path}/003.txt', '0xE9'):  # without a vocabulary too, before training
    Substituting(clips, 0, Quarantine(str(tmp_path), 12, 0.0))


@pytest.mark.parametrize('clip_form', ['NFC', 'NFD'])
@pytest.mark.parametrize('text_form', ['NFC', 'NFD'])
def test_names_match_in_either_unicode_form(tmp_path, clip_form, text_form):
  """A clip zipped on a Mac (decomposed) and its caption typed on Linux; the split does not depend on the form."""
  root = tmp_path / unicodedata.normalize(clip_form, 'gefüllt') / unicodedata.normalize(clip_form, 'für')
  root.mkdir(parents=True)
  write_mp4(root / unicodedata.normalize(clip_form, 'café.mp4'), clip(30), fps=8)
  (root / unicodedata.normalize(text_form, 'café.txt')).write_text(unicodedata.normalize(text_form, 'un café'))
  source = Folder(tmp_path)
  assert source.names == ['gefüllt/für/café.mp4'] and source.caption(0) == 'un café' and source.remarks == ()
  assert source.frames(0, [0]).shape == (1, 16, 24, 3)
  assert pickle.loads(pickle.dumps(source)).info(0).num_frames == 12


def test_two_clips_of_one_name_are_refused(tmp_path):
  fill(tmp_path, 1)
  for form in ('NFC', 'NFD'):
    os.link(tmp_path / '000.mp4', tmp_path / unicodedata.normalize(form, 'é.mp4'))
  with raises(ValueError, 'Unicode', 'rename'):
    Folder(tmp_path)


def test_what_is_left_out_is_remarked(tmp_path):
  fill(tmp_path, 2)
  (tmp_path / '000.txt').write_text('a ball')
  assert Folder(tmp_path).remarks == ()
  (tmp_path / '0001.txt').write_text('a caption with a typing error in its name')
  (tmp_path / 'out').symlink_to(tmp_path)
  link, text = Folder(tmp_path).remarks
  assert f'{tmp_path}/out' in link and 'data.follow_links' in link
  assert ': 1,' in text and f'{tmp_path}/0001.txt' in text
  (tmp_path / 'captions.json').write_text('[]')
  (tmp_path / 'dataset_infos.json').write_text('[]')
  assert len(Folder(tmp_path).remarks) == 2  # there is a caption, so these are not captions
  (tmp_path / '000.txt').unlink()
  assert f'2, such as {tmp_path}/captions.json' in Folder(tmp_path).remarks[2]
  (tmp_path / 'metadata.csv').write_text('file_name,sentence\n000.mp4,a ball\n001.mp4,a cube\n')
  assert f'{tmp_path}/metadata.csv' in Folder(tmp_path).remarks[1]


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


def test_links_out_of_the_folder_are_followed_where_allowed(tmp_path):
  """The cache of the Hugging Face hub (links to blobs), and a curated set of links to folders."""
  blobs, curated = tmp_path / 'blobs', tmp_path / 'snapshots' / 'revision'
  blobs.mkdir()
  curated.mkdir(parents=True)
  fill(blobs, 2)
  (blobs / 'text').write_text('a ball')
  (curated / 'a.mp4').symlink_to('../../blobs/000.mp4')
  (curated / 'a.txt').symlink_to('../../blobs/text')
  (curated / 'more').symlink_to(blobs)
  with raises(ValueError, f'{curated}/a.mp4', 'data.follow_links'):
    Folder(curated)
  source = Folder(curated, follow_links=True)
  assert source.names == ['a.mp4', 'more/000.mp4', 'more/001.mp4']
  assert [source.caption(i) for i in range(3)] == ['a ball', '', '']
  np.testing.assert_array_equal(source.frames(0, [3]), source.frames(1, [3]))
  config = configuration.default().data
  config.update({'name': 'folder', 'path': str(curated), 'follow_links': True, 'num_frames': 4, 'train_on_all': True})
  assert len(catalog.build(config, 'train', seed=0)) == 3
  config.name = 'digits'
  with raises(ValueError, 'data.follow_links', "'digits'"):
    catalog.build(config, 'train', seed=0)


def test_a_loop_of_links_is_named(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
  fill(tmp_path / 'a', 1)
  (tmp_path / 'a' / 'to_b').symlink_to(tmp_path / 'b')
  (tmp_path / 'b' / 'to_a').symlink_to(tmp_path / 'a')
  with raises(ValueError, f'{tmp_path}/a/to_b/to_a', 'remove'):
    Folder(tmp_path, follow_links=True)
  (tmp_path / 'self.mp4').symlink_to(tmp_path / 'self.mp4')
  (tmp_path / 'b' / 'to_a').unlink()
  source = Folder(tmp_path, follow_links=True)
  assert source.names == ['a/000.mp4', 'self.mp4']
  with raises(OSError, 'self.mp4'):
    source.info(1)


def test_devices_and_pipes_are_never_opened(tmp_path):
  fill(tmp_path, 1)
  os.mkfifo(tmp_path / 'pipe.mp4')
  (tmp_path / 'device.npy').symlink_to('/dev/zero')
  (tmp_path / '000.txt').symlink_to('/dev/zero')
  source = Folder(tmp_path, follow_links=True)
  for number in (1, 2):
    with raises(ValueError, source.names[number], 'pipe'):
      source.info(number)
  with raises(ValueError, f'{tmp_path}/000.txt', 'device'):
    source.caption(0)
  (tmp_path / 'device.npy').unlink()
  os.mkfifo(tmp_path / 'metadata.jsonl')
  with raises(ValueError, f'{tmp_path}/metadata.jsonl', 'pipe'):
    Folder(tmp_path)


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
