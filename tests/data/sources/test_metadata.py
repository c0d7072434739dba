from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data.sources.metadata import class_numbers, read_metadata


def fill(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(root / name, np.full((2, 4, 6, 3), len(name), np.uint8))


def describe(root, *lines):
  (root / 'metadata.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def folder(root, split='train', **settings):
  return data.StoredClips(data.Folder(root), split, num_frames=1, **({'train_on_all': True} | settings))


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


def test_file_names_are_relative_to_the_folder_of_their_metadata(tmp_path):
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
  with raises(ValueError, 'x', 'names, none, numbers'):
    class_numbers([None, 1, 'a'], 'x')


OUTSIDE = ('/etc/passwd', '../x.mp4', 'a/../../x.mp4', 'http://169.254.169.254/a.mp4', 'file:///etc/passwd')


@pytest.mark.parametrize(
  ('line', 'found'),
  [
    ('x', 'Expecting value: line 1 column 1 (char 0)'),
    ('["a.npy"]', 'file_name'),
    ('{"text": "x"}', 'file_name'),
    ('{"file_name": 3}', 'file_name'),
    ('{"file_name": "a.npy", "text": 3}', 'text=3'),
    ('{"file_name": "a.npy", "label": -1}', 'label=-1'),
    ('{"file_name": "a.npy", "label": []}', 'label=[]'),
    *(
      (json.dumps({'file_name': name}), f'file_name={name!r}') for name in (*OUTSIDE, 'a\0.mp4', '\\\\host\\a.mp4', '.')
    ),
  ],
)
def test_an_invalid_line_is_named(tmp_path, line, found):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_text('\n' + line + '\n')
  with raises(ValueError, f'{tmp_path}/metadata.jsonl, line 2: ', found):
    folder(tmp_path)


def test_other_errors(tmp_path):
  fill(tmp_path, 'a.npy', 'b.npy', 'c.npy')
  file = tmp_path / 'metadata.jsonl'
  describe(tmp_path, {'file_name': 'a.npy'})
  with raises(ValueError, f'{tmp_path}/b.npy', file, '1 other'):
    folder(tmp_path)
  describe(tmp_path, {'file_name': 'a.npy'}, {'file_name': './a.npy'})
  with raises(ValueError, f'{file}, line 2: a.npy', f'{file}, line 1'):
    folder(tmp_path)
  describe(tmp_path, *({'file_name': f'{n}.npy', 'caption': 'x'} for n in 'abc'))
  with raises(ValueError, file, "'text'", "'caption'"):
    folder(tmp_path)
  describe(tmp_path, *({'file_name': f'{n}.npy', 'text': 'x'} for n in 'abcd'))
  source = folder(tmp_path)  # one that is listed but missing is a bad clip, like one that vanished later
  with raises(FileNotFoundError, f'{tmp_path}/d.npy'):
    source.check(3)


def test_metadata_cannot_lead_out_of_the_folder(tmp_path):
  outside, root = tmp_path / 'outside', tmp_path / 'data'
  fill(outside, 'x.npy')
  fill(root, 'a.npy')
  (root / 'way').symlink_to(outside)
  describe(root, {'file_name': 'a.npy'}, {'file_name': 'way/x.npy'})
  with raises(ValueError, f'{root}/way', 'link', 'data.path'):
    folder(root)
  describe(outside)
  (root / 'metadata.jsonl').unlink()
  (root / 'metadata.jsonl').symlink_to(outside / 'metadata.jsonl')
  with raises(ValueError, f'{root}/metadata.jsonl', 'link', 'data.path'):
    folder(root)


def test_bad_utf8_is_replaced(tmp_path):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_bytes(b'{"file_name": "a.npy", "text": "bad \xff utf-8"}\n')
  assert read_metadata(tmp_path, [tmp_path / 'metadata.jsonl'])['a.npy'].text == 'bad � utf-8'
