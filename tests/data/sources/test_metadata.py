from __future__ import annotations

import json
import re

import numpy as np
import pytest

from vdm_jax import data
from vdm_jax.data.sources.metadata import class_numbers, read_metadata


def raises(message):
  return pytest.raises(ValueError, match=f'^{re.escape(message)}$')


def fill(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / name, np.full((2, 4, 6, 3), len(name), np.uint8))


def describe(root, *lines):
  (root / 'metadata.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def folder(root, split='train', **settings):
  return data.Folder(root, split, num_frames=1, **({'train_on_all': True} | settings))


def test_captions_and_labels_come_from_the_metadata(tmp_path):
  fill(tmp_path, 'a.npy', 'b.npy', 'deep/c.npy')
  (tmp_path / 'a.txt').write_text('not this one')
  describe(
    tmp_path,
    {'file_name': 'deep/c.npy', 'text': 'a  ball\nrolls', 'label': 'ball', 'license': 'other keys are ignored'},
    {'file_name': './a.npy', 'text': None, 'label': 'apple'},
    {'file_name': 'b.npy', 'label': 'ball'},
  )
  source = folder(tmp_path)
  assert source.names == ['a.npy', 'b.npy', 'deep/c.npy']
  assert [source.caption(i) for i in range(3)] == ['', '', 'a ball rolls']
  assert [source.label(i) for i in range(3)] == [0, 1, 1]
  assert source.num_classes == 2
  assert source.vocabulary == ('a', 'ball', 'rolls')


def test_files_of_several_folders_are_relative_to_theirs(tmp_path):
  fill(tmp_path, 'train/a.npy', 'train/b.npy', 'test/a.npy')
  describe(tmp_path / 'train', *({'file_name': f'{n}.npy', 'text': f'train {n}'} for n in 'ab'))
  describe(tmp_path / 'test', {'file_name': 'a.npy', 'text': 'test a'})
  train, test = (folder(tmp_path, split, train_on_all=False) for split in ('train', 'test'))
  assert [train.caption(i) for i in range(2)] == ['train a', 'train b']
  assert (test.names, test.caption(0)) == (['test/a.npy'], 'test a')


@pytest.mark.parametrize('test_split', ['test', 'val', 'valid', 'validation', 'validate'])
def test_folders_of_splits_and_of_classes(tmp_path, test_split):
  """As Kinetics is laid out."""
  names = [
    f'{split}/{label}/{i}.npy'
    for split, many in (('train', 12), (test_split, 3))
    for label in ('bee keeping', 'abseiling')
    for i in range(many)
  ]
  fill(tmp_path, *names)
  train, test = (folder(tmp_path, split, train_on_all=False) for split in ('train', 'test'))
  assert train.names == sorted(name for name in names if name.startswith('train/'))
  assert test.names == sorted(name for name in names if not name.startswith('train/'))
  assert train.num_classes == test.num_classes == 2
  for source in (train, test):
    for i, name in enumerate(source.names):
      assert source.label(i) == ('bee keeping' in name)
      assert source.read(i, np.random.default_rng(0), 1).label == source.label(i)


def test_a_folder_that_only_looks_like_splits_is_split_by_hash(tmp_path):
  fill(tmp_path, *(f'train/{i}.npy' for i in range(30)), 'other/a.npy')
  assert 1 <= len(folder(tmp_path, 'test').names) < 10


def test_classes_need_two_folders_and_every_clip_in_one(tmp_path):
  fill(tmp_path, 'cats/1.npy', 'cats/2.npy')
  assert folder(tmp_path).num_classes is None
  fill(tmp_path, 'dogs/1.npy')
  assert folder(tmp_path).num_classes == 2
  fill(tmp_path, 'a.npy')
  assert folder(tmp_path).num_classes is None


def test_class_numbers():
  assert class_numbers([None, None], 'x') == ([None, None], None)
  assert class_numbers([2, 0, 2], 'x') == ([2, 0, 2], 3)
  assert class_numbers(['b', 'a', 'b'], 'x') == ([1, 0, 1], 2)
  with raises('x: the labels of the clips are of several kinds (names, none, numbers); give every clip one of a kind.'):
    class_numbers([None, 1, 'a'], 'x')


OUTSIDE = ('/etc/passwd', '../x.mp4', 'a/../../x.mp4', 'http://169.254.169.254/a.mp4', 'file:///etc/passwd')
EXAMPLE = '{"file_name": "a.mp4", "text": "a red ball rolls"}'


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('x', 'is not JSON (Expecting value: line 1 column 1 (char 0)); write one object per line.'),
    ('["a.npy"]', f'an object with the key file_name is needed, such as {EXAMPLE}.'),
    ('{"text": "x"}', f'an object with the key file_name is needed, such as {EXAMPLE}.'),
    ('{"file_name": 3}', f'an object with the key file_name is needed, such as {EXAMPLE}.'),
    ('{"file_name": "a.npy", "text": 3}', 'text=3 is not a string.'),
    ('{"file_name": "a.npy", "label": -1}', 'label=-1 is neither a class number, 0 or more, nor the name of a class.'),
    ('{"file_name": "a.npy", "label": []}', 'label=[] is neither a class number, 0 or more, nor the name of a class.'),
    *(
      (
        json.dumps({'file_name': name}),
        f'file_name={name!r} is not a path below the folder of this file; copy the clip there.',
      )
      for name in (*OUTSIDE, 'a\0.mp4', '\\\\host\\a.mp4', '.')
    ),
  ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_text('\n' + line + '\n')
  with raises(f'{tmp_path}/metadata.jsonl, line 2: {message}'):
    folder(tmp_path)


def test_other_errors(tmp_path):
  fill(tmp_path, 'a.npy', 'b.npy', 'c.npy')
  file = tmp_path / 'metadata.jsonl'
  describe(tmp_path, {'file_name': 'a.npy'})
  with raises(f'{tmp_path}/b.npy is not listed by {file}, nor are 1 other clips; add a line for each, or remove them.'):
    folder(tmp_path)
  describe(tmp_path, {'file_name': 'a.npy'}, {'file_name': './a.npy'})
  with raises(f'{file}, line 2: a.npy is listed twice, first by {file}, line 1; remove one of them.'):
    folder(tmp_path)
  describe(tmp_path, *({'file_name': f'{n}.npy', 'caption': 'x'} for n in 'abc'))
  with raises(f"{file}: captions have the key 'text', not 'caption'; rename it."):
    folder(tmp_path)
  describe(tmp_path, *({'file_name': f'{n}.npy', 'text': 'x'} for n in 'abcd'))
  source = folder(tmp_path)  # one that is listed but not there is a bad clip, as one that vanished later
  with pytest.raises(FileNotFoundError, match=f'^{tmp_path}/d.npy: there is no such video file; check the path.$'):
    source.check(3)


def test_metadata_lead_nowhere_else(tmp_path):
  outside, root = tmp_path / 'outside', tmp_path / 'data'
  fill(outside, 'x.npy')
  fill(root, 'a.npy')
  (root / 'way').symlink_to(outside)
  describe(root, {'file_name': 'a.npy'}, {'file_name': 'way/x.npy'})
  with raises(f'{root}/way is a link to a place outside of data.path; copy the file instead.'):
    folder(root)
  describe(outside)
  (root / 'metadata.jsonl').unlink()
  (root / 'metadata.jsonl').symlink_to(outside / 'metadata.jsonl')
  with raises(f'{root}/metadata.jsonl is a link to a place outside of data.path; copy the file instead.'):
    folder(root)


def test_bad_utf8_is_replaced(tmp_path):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_bytes(b'{"file_name": "a.npy", "text": "bad \xff utf-8"}\n')
  assert read_metadata(tmp_path, [tmp_path / 'metadata.jsonl'])['a.npy'].text == 'bad � utf-8'
