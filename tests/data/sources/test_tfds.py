"""Builders with the features of the real ones, made without TensorFlow; the real data are not downloaded."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.clip_files import make_clip, prepare_tfds
from helpers.messages import raises

from vdm_jax import data

SPLITS = {'train': [make_clip(i) for i in range(7)], 'test': [make_clip(i) for i in range(7, 10)]}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  return {name: prepare_tfds(root, name, SPLITS, bair=name[0] == 'b') for name in ('ucf101', 'bair')}


def clips(source):
  return [source.window(i, 0).video for i in range(len(source))]


def same_set(found, wanted):
  return sorted(clip.tobytes() for clip in found) == sorted(clip.tobytes() for clip in wanted)


@pytest.mark.parametrize('name', ['ucf101', 'bair'])
def test_splits_are_those_of_the_data_set_and_can_be_joined(prepared, name):
  settings = {'num_frames': 2, 'frame_rate': 25.0}
  train, test, joined = (
    data.StoredClips(data.Tfds(prepared[name]), split, train_on_all=on_all, **settings)
    for split, on_all in (('train', False), ('test', False), ('train', True))
  )
  assert same_set(clips(train), SPLITS['train'])
  assert same_set(clips(test), SPLITS['test'])
  assert same_set(clips(joined), SPLITS['train'] + SPLITS['test'])
  assert joined.total == train.total == 10
  assert train.names[-1] == 'train/000006'


def test_labels_are_those_of_the_data_set(prepared):
  source = data.StoredClips(data.Tfds(prepared['ucf101']), 'train', num_frames=2, frame_rate=25.0)
  assert source.num_classes == 3
  labels = {source.window(i, 0).video.tobytes(): source.window(i, 0).label for i in range(7)}
  assert [labels[clip.tobytes()] for clip in SPLITS['train']] == [0, 1, 2, 0, 1, 2, 0]
  assert data.StoredClips(data.Tfds(prepared['bair']), 'train', num_frames=2, frame_rate=25.0).num_classes is None


def test_tensorflow_is_not_imported(prepared):
  code = (
    'import sys, numpy as np; from vdm_jax import data; '
    f's = data.StoredClips(data.Tfds({str(prepared["ucf101"])!r}), "train", num_frames=2, frame_rate=25.0); '
    's.read(0, np.random.default_rng(0), 2); print("tensorflow" in sys.modules)'
  )
  shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
  assert shown.splitlines()[-1] == 'False'


def test_errors(tmp_path, prepared):
  with raises(FileNotFoundError, f'data.path={str(tmp_path)!r}', 'dataset_info.json', 'ucf101/ucf101_1/2.0.0'):
    data.Tfds(tmp_path)
  info = json.loads((prepared['ucf101'] / 'dataset_info.json').read_text())
  path = str(tmp_path)

  def write(**changes):
    (tmp_path / 'dataset_info.json').write_text(json.dumps(info | changes))

  write(fileFormat='tfrecord')
  with raises(ValueError, f'data.path={path!r}', 'tfrecord', "tfds.builder('ucf101', file_format='array_record')"):
    data.Tfds(tmp_path)
  write()
  with raises(ValueError, f'data.path={path!r}', 'ucf101-train.array_record-00000-of-00001'):
    data.Tfds(tmp_path)
  for file in prepared['ucf101'].glob('ucf101-*'):
    (tmp_path / file.name).write_bytes(file.read_bytes())
  write(splits=[info['splits'][0] | {'shardLengths': ['9']}, info['splits'][1]])
  with raises(ValueError, f'data.path={path!r}', '10 clips', 'dataset_info.json', '12'):
    data.Tfds(tmp_path)
  write(splits=None)
  with raises(ValueError, 'dataset_info.json'):
    data.Tfds(tmp_path)


def test_data_without_videos_is_refused(prepared, monkeypatch):
  monkeypatch.setattr('vdm_jax.data.sources.tfds.FRAMES', ('film',))
  path = str(prepared['ucf101'])
  with raises(ValueError, f'data.path={path!r}', 'ucf101', 'label, video', 'film'):
    data.Tfds(path)


def test_a_damaged_record_is_a_bad_clip(tmp_path, prepared):
  for file in prepared['ucf101'].iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  shard = tmp_path / 'ucf101-test.array_record-00000-of-00001'
  content = shard.read_bytes()
  place = content.find(b'IDAT')
  shard.write_bytes(content[:place] + b'\xa5' * 40 + content[place + 40 :])
  source = data.StoredClips(data.Tfds(tmp_path), 'test', num_frames=2, frame_rate=25.0)
  bad = 0
  for i in range(3):
    try:
      source.read(i, np.random.default_rng(0), 7)
    except ValueError:
      bad += 1
  assert bad
