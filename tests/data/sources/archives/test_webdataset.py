"""Tar shards: the same clips as in a folder, and damaged or hostile shards are refused by name."""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from helpers.clip_files import WRITERS, make_clip, png
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data import conversion
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.archives import tar_index

CLIPS = {number: make_clip(number) for number in range(6)}


def add(archive, name, content, **fields):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  for field, value in fields.items():
    setattr(member, field, value)
  archive.addfile(member, io.BytesIO(content))


def shard(path, files):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as archive:
    for name, content in files:
      add(archive, name, content)
  return path


def content(folder, number, suffix) -> bytes:
  file = folder / f'{number}{suffix}'
  WRITERS[suffix](file, CLIPS[number])
  return file.read_bytes()


@pytest.fixture(scope='module')
def mp4s(tmp_path_factory) -> dict[int, bytes]:
  folder = tmp_path_factory.mktemp('mp4')
  return {number: content(folder, number, '.mp4') for number in CLIPS}


@pytest.fixture
def shards(tmp_path, mp4s) -> pathlib.Path:
  """Two shards of three clips, with captions in both forms and labels."""
  root = tmp_path / 'shards'
  for first in (0, 3):
    files = []
    for number in range(first, first + 3):
      key = f'{number:04d}'
      files += [(f'{key}.mp4', mp4s[number]), (f'{key}.json', json.dumps({'caption': f'a {number}', 'x': 1}).encode())]
      files += [(f'{key}.cls', str(number % 2).encode())]
      files += [(f'{key}.txt', b' a  9\n')] if number == 5 else []
    shard(root / f'{first}.tar', files)
  return root


def test_clips_captions_and_labels_are_those_of_the_files(shards):
  source = data.WebDataset(shards)
  assert source.names == [f'{first}.tar/{number:04d}' for first in (0, 3) for number in range(first, first + 3)]
  assert [source.caption(clip) for clip in range(6)] == ['a 0', 'a 1', 'a 2', 'a 3', 'a 4', 'a 9']
  assert [source.label(clip) for clip in range(6)] == [0, 1, 0, 1, 0, 1] and source.num_classes == 2
  again = pickle.loads(pickle.dumps(source))
  for clip, video in CLIPS.items():
    assert source.info(clip) == (7, 8.0, (16, 24))
    np.testing.assert_array_equal(again.frames(clip, [1, 2, 6]), video[[1, 2, 6]])


@pytest.mark.parametrize('suffix', ['.webm', '.avi', '.gif', '.npy'])
def test_every_format_is_the_same_clip(tmp_path, suffix):
  tar = shard(tmp_path / 'a.tar', [(f'k{suffix}', content(tmp_path, 1, suffix))])
  source = data.WebDataset(tar)
  np.testing.assert_array_equal(source.frames(0, range(7)), CLIPS[1])
  assert source.without_frame_rate == ('a.tar/k' if suffix == '.npy' else None)


def test_numbered_images_are_frames_in_the_order_of_their_numbers(tmp_path):
  frames = [(f'x/k.{number}.png', png(frame).read()) for number, frame in enumerate(CLIPS[2], 8)]
  source = data.WebDataset(shard(tmp_path / 'a.tar', [*frames[::-1], ('x/k.txt', b'two')]))
  assert (source.names, source.caption(0)) == (['a.tar/x/k'], 'two')
  np.testing.assert_array_equal(source.frames(0, range(7)), CLIPS[2])


def test_shards_in_folders_are_splits(tmp_path, mp4s):
  for split, number in (('train', 0), ('test', 1)):
    shard(tmp_path / 'data' / split / 'a.tar', [('k.mp4', mp4s[number])])
  assert data.WebDataset(tmp_path / 'data').held_out() == {'test/a.tar/k'}


def test_inspection_and_conversion_read_the_same_clips(shards, tmp_path):
  assert catalog.locate(str(shards)) == ('webdataset', str(shards))
  found, _ = inspect(str(shards), num_frames=4)
  assert found.problem is None and len(found.infos) == 6
  _, clips = catalog.open_stored(str(shards), 'train', num_frames=1, train_on_all=True)
  records = data.Records(conversion.convert(clips, tmp_path / 'out', log=lambda line: None))
  for clip, video in CLIPS.items():
    np.testing.assert_array_equal(records.frames(clip, range(7)), video)
    assert (records.caption(clip), records.label(clip)) == (clips.caption(clip), clips.label(clip))


def test_a_damaged_clip_is_refused_and_the_others_are_read(tmp_path, mp4s):
  tar = shard(tmp_path / 'a.tar', [('a.mp4', mp4s[0]), ('b.mp4', mp4s[1][:300]), ('c.txt', b'no video')])
  source = data.WebDataset(tar)
  with raises(ValueError, f'{tar}/b', 're-encode'):
    source.info(1)
  with raises(ValueError, f'{tar}/c', 'no video'):
    source.info(2)
  np.testing.assert_array_equal(source.frames(0, range(7)), CLIPS[0])


def truncated(path, where):
  path.write_bytes(path.read_bytes()[:where])


def special(path, kind, **fields):
  with tarfile.open(path, 'w') as archive:
    add(archive, 'a.mp4', b'', type=kind, **fields)


@pytest.mark.parametrize(
  ('write', 'parts'),
  [
    (lambda path, mp4: truncated(shard(path, [('a.mp4', mp4)]), 700), ['truncated within a.mp4']),
    (lambda path, mp4: truncated(shard(path, [('a.txt', b'x'), ('b.mp4', mp4)]), 1024), ['no end mark']),
    (lambda path, mp4: shard(path, [('a.mp4', mp4), ('./a.mp4', mp4)]), ['a.mp4', 'twice', 'unique keys']),
    (lambda path, mp4: shard(path, [('../a.mp4', mp4)]), ["'../a.mp4'", 'outside']),
    (lambda path, mp4: shard(path, [('/a.mp4', mp4)]), ["'/a.mp4'", 'outside']),
    (lambda path, mp4: special(path, tarfile.SYMTYPE, linkname='/etc/passwd'), ["'a.mp4'", 'link']),
    (lambda path, mp4: special(path, tarfile.LNKTYPE, linkname='b.mp4'), ["'a.mp4'", 'link']),
    (lambda path, mp4: special(path, tarfile.FIFOTYPE), ["'a.mp4'", 'no regular file']),
    (lambda path, mp4: path.write_bytes(b'not a tar file' * 100), ['tar file', 'copy it again']),
    (lambda path, mp4: tarfile.open(path, 'w:gz').close(), ['uncompressed']),
  ],
)
def test_invalid_shards_are_refused_by_name(tmp_path, mp4s, write, parts):
  path = tmp_path / 'a.tar'
  write(path, mp4s[0])
  with raises(ValueError, path, *parts):
    data.WebDataset(tmp_path)


def test_two_videos_of_one_key_and_bad_descriptions_are_problems_of_the_clip(tmp_path, mp4s):
  files = [('a.mp4', mp4s[0]), ('a.webm', mp4s[0]), ('b.mp4', mp4s[1]), ('b.json', b'{'), ('c.mp4', mp4s[2])]
  source = data.WebDataset(shard(tmp_path / 'a.tar', files))
  for clip, problem in enumerate(('2 videos', 'description')):
    with raises(ValueError, source.names[clip].rpartition('/')[2], problem):
      source.info(clip)
  assert source.info(2).num_frames == 7


def test_the_index_of_a_large_shard_is_kept_in_the_cache_and_not_beside_it(shards, tmp_path, monkeypatch):
  home = tmp_path / 'home'
  monkeypatch.setenv('HOME', str(home))
  monkeypatch.setattr(tar_index, 'CACHED_FROM', 3)
  before, original = sorted(shards.rglob('*')), tar_index._read_samples
  names = data.WebDataset(shards).names
  assert sorted(shards.rglob('*')) == before and len(list((home / tar_index.CACHE).iterdir())) == 2
  monkeypatch.setattr(tar_index, '_read_samples', lambda file: pytest.fail('the index was computed again'))
  source = data.WebDataset(shards)
  assert source.names == names
  np.testing.assert_array_equal(source.frames(4, [0]), CLIPS[4][:1])
  monkeypatch.setattr(tar_index, '_read_samples', original)
  with tarfile.open(shards / '0.tar', 'a') as archive:  # another size or time: the kept index is not used
    add(archive, '0009.txt', b'new')
  assert len(data.WebDataset(shards).names) == 7


def test_links_to_shards_are_followed_where_allowed_and_texts_are_decoded(tmp_path, mp4s):
  files = [('a.mp4', mp4s[0]), ('a.txt', 'un cafe\u0301'.encode('utf-16')), ('b.mp4', mp4s[1]), ('b.txt', b'caf\xe9')]
  kept = shard(tmp_path / 'blobs' / 'x.tar', files)
  (tmp_path / 'snapshot').mkdir()
  (tmp_path / 'snapshot' / 'a.tar').symlink_to(kept)
  with raises(ValueError, f'{tmp_path}/snapshot/a.tar', 'data.follow_links'):
    data.WebDataset(tmp_path / 'snapshot')
  source = data.WebDataset(tmp_path / 'snapshot', follow_links=True)
  assert source.caption(0) == 'un caf\u00e9' and source.info(0).num_frames == len(CLIPS[0])
  with raises(ValueError, 'b', '0xE9'):
    source.info(1)
