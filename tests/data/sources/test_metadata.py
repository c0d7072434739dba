from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data.sources.metadata import class_numbers
from vdm_jax.inputs.text_files import UnreadableText


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


@pytest.mark.parametrize('content', [b'{"text": "bad \xff utf-8"}\n', '{"file_name": "a.npy"}'.encode('utf-16-le')])
def test_another_encoding_is_named(tmp_path, content):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_bytes(b'\n' + content)
  with raises(UnreadableText, f'{tmp_path}/metadata.jsonl, line 2: ', 'UTF-8'):
    folder(tmp_path)


def test_half_a_character_is_named(tmp_path):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.jsonl').write_text('{"file_name": "a.npy", "text": "cut \\ud83d"}')
  with raises(ValueError, f'{tmp_path}/metadata.jsonl, line 1: ', 'surrogate'):
    folder(tmp_path)


# As a Hugging Face VideoFolder has it, as Excel saves it (mark, CRLF; semicolons in many countries), and from pandas.
TABLES = {
  'plain': ('file_name,text\na.npy,"a ball, red"\nb/c.npy,"two\nlines ""quoted"""\n', 'utf-8'),
  'excel': ('file_name;text\r\na.npy;a ball, red\r\nb/c.npy;"two\r\nlines ""quoted"""\r\n', 'utf-8-sig'),
  'unicode text': ('file_name\ttext\r\na.npy\ta ball, red\r\n\r\nb/c.npy\t"two lines ""quoted"""\r\n', 'utf-16'),
  'windows': ('file_name,text\r\n.\\a.npy,"a ball, red"\r\nb\\c.npy,"two lines ""quoted"""\r\n', 'utf-8'),
  'spaces': ('file_name, text\na.npy," a ball, red "\nb/c.npy,"two lines ""quoted"""\n', 'utf-8'),
  'pandas': (',file_name,width,text\n0,a.npy,64,"a ball, red"\n1,b/c.npy,64,"two lines ""quoted"""\n', 'utf-8'),
}


@pytest.mark.parametrize('kind', TABLES)
def test_metadata_in_a_table(tmp_path, kind):
  fill(tmp_path, 'a.npy', 'b/c.npy')
  text, encoding = TABLES[kind]
  (tmp_path / 'metadata.csv').write_text(text, encoding=encoding, newline='')
  source = folder(tmp_path)
  assert source.names == ['a.npy', 'b/c.npy']
  assert [source.caption(i) for i in range(2)] == ['a ball, red', 'two lines "quoted"']
  assert source.num_classes is None


def test_labels_of_a_table_are_numbers_if_all_are(tmp_path):
  fill(tmp_path, 'a.npy', 'b.npy')
  table = tmp_path / 'metadata.csv'
  for labels, expected, classes in ((('2', '0'), [2, 0], 3), (('2', 'x'), [0, 1], 2), (('', ''), [None, None], None)):
    table.write_text('file_name,label\n' + ''.join(f'{n}.npy,{label}\n' for n, label in zip('ab', labels, strict=True)))
    source = folder(tmp_path)
    assert ([source.label(i) for i in range(2)], source.num_classes) == (expected, classes)


@pytest.mark.parametrize(
  ('text', 'found'),
  [
    ('name,text\na.npy,x\n', ('name, text', 'file_name')),
    ('', ('file_name',)),
    ('file_name,text,text\na.npy,x,y\n', ('once',)),
    ('file_name,text\na.npy,a ball, red\n', ('line 2', 'quote')),
    ('file_name,text\na.npy\n', ('line 2', '2 columns')),
    ('file_name,text\na.npy,"x\n', ('line 2', 'CSV')),
    ('file_name,text\n,x\n', ('line 2', 'file_name')),
    ('file_name,caption\na.npy,x\n', ("'text'", "'caption'")),
  ],
)
def test_an_invalid_table_is_named(tmp_path, text, found):
  fill(tmp_path, 'a.npy')
  (tmp_path / 'metadata.csv').write_text(text)
  with raises(ValueError, tmp_path / 'metadata.csv', *found):
    folder(tmp_path)


def test_two_kinds_of_metadata_in_a_folder_are_refused(tmp_path):
  fill(tmp_path, 'a.npy')
  describe(tmp_path, {'file_name': 'a.npy'})
  (tmp_path / 'metadata.csv').write_text('file_name\na.npy\n')
  with raises(ValueError, tmp_path, 'metadata.jsonl and metadata.csv'):
    folder(tmp_path)


def test_metadata_in_parquet(tmp_path):
  arrow = pytest.importorskip('pyarrow')
  fill(tmp_path, 'a.npy', 'b.npy')
  columns = {'file_name': ['a.npy', 'b.npy'], 'text': ['a ball', None], 'label': [3, 0]}
  parquet = pytest.importorskip('pyarrow.parquet')
  parquet.write_table(arrow.table(columns), tmp_path / 'metadata.parquet')
  source = folder(tmp_path)
  assert [(source.caption(i), source.label(i)) for i in range(2)] == [('a ball', 3), ('', 0)]
  (tmp_path / 'metadata.parquet').write_bytes(b'PAR1')
  with raises(ValueError, tmp_path / 'metadata.parquet', 'Parquet'):
    folder(tmp_path)


def test_names_in_metadata_match_in_either_unicode_form(tmp_path):
  fill(tmp_path, 'cafe\u0301.npy')
  describe(tmp_path, {'file_name': 'caf\u00e9.npy', 'text': 'un cafe\u0301'})
  source = folder(tmp_path)
  assert (source.names, source.caption(0)) == (['caf\u00e9.npy'], 'un caf\u00e9')
  assert source.read(0, None, 1).video.shape == (1, 4, 6, 3)


@pytest.mark.parametrize('written', ['clip.npy', 'Clip.npy ', 'CLIP.NPY'])
def test_a_name_that_is_spelled_almost_so_is_pointed_out(tmp_path, written):
  fill(tmp_path, 'Clip.npy')
  describe(tmp_path, {'file_name': written})
  with raises(ValueError, f'{tmp_path}/Clip.npy', repr(written)):
    folder(tmp_path)
