"""Parquet and Arrow tables: the same clips as in a folder, and tables without clips are refused by name."""

from __future__ import annotations

import json
import pathlib
import pickle

import numpy as np
import pytest
from helpers.clip_files import make_clip, write_mp4
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources import catalog

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

CLIPS = [make_clip(number) for number in range(5)]
CAPTIONS = ['a 0', None, ' a  2', 'a 3', 'a 4']


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> list[pathlib.Path]:
  folder = tmp_path_factory.mktemp('clips')
  for number, clip in enumerate(CLIPS):
    write_mp4(folder / f'{number}.mp4', clip)
  return sorted(folder.iterdir())


def check(source):
  assert [source.caption(clip) for clip in range(5)] == ['a 0', '', 'a 2', 'a 3', 'a 4']
  again = pickle.loads(pickle.dumps(source))
  for clip in (4, 0, 1, 3, 2):
    assert source.info(clip) == (7, 8.0, (16, 24))
    np.testing.assert_array_equal(again.frames(clip, [0, 3, 6]), CLIPS[clip][[0, 3, 6]])


def test_bytes_in_row_groups(tmp_path, files):
  contents = [file.read_bytes() for file in files]
  table = pa.table({'video': contents, 'text': CAPTIONS, 'label': [0, 1, 2, 0, 1]})
  pq.write_table(table, tmp_path / 'a.parquet', row_group_size=2)
  source = data.Parquet(tmp_path)
  check(source)
  assert source.names[3] == 'a.parquet/000003' and source.num_classes == 3 and source.label(2) == 2
  assert catalog.locate(str(tmp_path)) == ('parquet', str(tmp_path))
  found, _ = inspect(str(tmp_path), num_frames=4)
  assert found.problem is None and len(found.infos) == 5


def test_paths_below_the_folder(tmp_path, files):
  (tmp_path / 'videos').mkdir()
  for file in files:
    (tmp_path / 'videos' / file.name).write_bytes(file.read_bytes())
  names = [f'videos/{file.name}' for file in files]
  pq.write_table(pa.table({'video': names, 'caption': CAPTIONS}), tmp_path / 'a.parquet')
  check(data.Parquet(tmp_path))
  for wrong in ('../x.mp4', '/etc/passwd', 'a.parquet', 'gone.mp4'):
    pq.write_table(pa.table({'video': [wrong, names[0]]}), tmp_path / 'a.parquet')
    with pytest.raises((ValueError, OSError), match=wrong.rpartition('/')[2]):
      data.Parquet(tmp_path).info(0)
  (tmp_path / 'videos' / 'link.mp4').symlink_to(files[0])
  pq.write_table(pa.table({'video': ['videos/link.mp4', names[0]]}), tmp_path / 'a.parquet')
  with raises(ValueError, 'a.parquet/000000', 'videos/link.mp4', tmp_path):
    data.Parquet(tmp_path).info(0)


def test_a_data_set_that_datasets_saved(tmp_path, files):
  """Arrow streams in folders of splits, records of bytes and path, and names of the labels in the schema."""
  features = {'info': {'features': {'label': {'names': ['cat', 'dog'], '_type': 'ClassLabel'}}}}
  for split, chosen in (('train', range(4)), ('test', range(4, 5))):
    (tmp_path / split).mkdir()
    rows = [{'bytes': files[i].read_bytes(), 'path': files[i].name} for i in chosen]
    columns = {'video': rows, 'text': [CAPTIONS[i] for i in chosen], 'label': [i % 2 for i in chosen]}
    table = pa.table(columns).replace_schema_metadata({'huggingface': json.dumps(features)})
    file = str(tmp_path / split / 'data-00000-of-00001.arrow')
    with pa.OSFile(file, 'w') as sink, pa.ipc.new_stream(sink, table.schema) as writer:
      writer.write_table(table, max_chunksize=2)
    (tmp_path / split / 'state.json').write_text('{}')
  source = data.Parquet(tmp_path)
  assert source.held_out() == {'test/data-00000-of-00001.arrow/000000'}
  assert (source.class_names, source.num_classes, source.label(2)) == (('cat', 'dog'), 2, 1)
  np.testing.assert_array_equal(source.frames(0, range(7)), CLIPS[4])
  np.testing.assert_array_equal(source.frames(4, range(7)), CLIPS[3])


def test_invalid_tables_are_refused_by_name(tmp_path, files):
  path = tmp_path / 'a.parquet'
  with raises(FileNotFoundError, tmp_path, '.parquet'):
    data.Parquet(tmp_path)
  for table, parts in (
    (pa.table({'text': ['a']}), ['the columns text', 'video']),
    (pa.table({'video': [1.0]}), ['column video', 'double']),
    (pa.table({'video': [b'x'], 'label': [-1]}), ['label=-1']),
    (pa.table({'video': [b'x'], 'text': [3]}), ['column text']),
    (pa.table({'video': pa.array([], pa.binary())}), ['no rows']),
  ):
    pq.write_table(table, path)
    with raises(ValueError, tmp_path, *parts):
      data.Parquet(tmp_path)
  pq.write_table(pa.table({'video': [b'', files[0].read_bytes()[:200]]}), path)
  source = data.Parquet(tmp_path)
  for clip, problem in enumerate(('empty', 're-encode')):
    with raises(ValueError, f'{path}/00000{clip}', problem):
      source.info(clip)
  path.write_bytes(path.read_bytes()[:-50])
  with raises(ValueError, path, 'not a complete table'):
    data.Parquet(tmp_path)


def test_links_of_the_hub_cache_are_followed_where_allowed(tmp_path):
  """The cache links every file of a snapshot to a blob outside of it."""
  blobs, snapshot = tmp_path / 'blobs', tmp_path / 'snapshots'
  blobs.mkdir()
  snapshot.mkdir()
  np.save(blobs / 'clip', np.zeros((4, 16, 16, 3), np.uint8))
  (snapshot / 'a.npy').symlink_to(blobs / 'clip.npy')
  pq.write_table(pa.table({'video': ['a.npy'], 'text': ['un cafe\u0301']}), blobs / 'table')
  (snapshot / 'a.parquet').symlink_to(blobs / 'table')
  with raises(ValueError, f'{snapshot}/a.parquet', 'data.follow_links'):
    data.Parquet(snapshot)
  source = data.Parquet(snapshot, follow_links=True)
  assert source.caption(0) == 'un caf\u00e9' and source.frames(0, [1]).shape == (1, 16, 16, 3)
