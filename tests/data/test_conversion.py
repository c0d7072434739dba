from __future__ import annotations

import json
import os

import numpy as np
import pytest
from helpers.clip_files import make_clip
from helpers.messages import raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data import conversion
from vdm_jax.data.sources import records
from vdm_jax.video import write_gif


@pytest.fixture
def source(tmp_path):
  for i in range(7):
    write_gif(tmp_path / 'data' / f'{i}.gif', make_clip(i), fps=8)
    (tmp_path / 'data' / f'{i}.txt').write_text(f'number {i}')
  return open_source(tmp_path / 'data')


def open_source(path):
  return data.StoredClips(data.Folder(path), 'train', num_frames=1, train_on_all=True)


def convert(source, folder, **options):
  return data.convert(source, folder, **{'clips_per_shard': 2, 'log': list} | options)


def contents(folder):
  return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize('stop_after', range(5))
def test_an_interrupted_conversion_resumes_to_the_same_bytes(tmp_path, source, stop_after):
  whole = contents(convert(source, tmp_path / 'whole'))
  logged = []

  def stop(line):
    logged.append(line)
    if len(logged) > stop_after:
      raise KeyboardInterrupt

  if stop_after < 4:
    with pytest.raises(KeyboardInterrupt):
      convert(source, tmp_path / 'out', log=stop)
    with raises(FileNotFoundError, 'dataset.json'):
      data.StoredClips(data.Records(tmp_path / 'out'), 'train', num_frames=1)
  again = []
  convert(source, tmp_path / 'out', log=again.append)
  done = min(stop_after + 1, 4) if stop_after < 4 else 0
  assert again == [f'clips-{i:05d}-of-00004.array_record: {2 if i < 3 else 1} clips' for i in range(done, 4)]
  assert contents(tmp_path / 'out') == whole
  assert convert(source, tmp_path / 'out', log=pytest.fail) == tmp_path / 'out', 'nothing is left to do'


@pytest.mark.parametrize('kind', ['array', 'images'])
def test_clips_replaced_in_place_are_other_data(tmp_path, kind):
  """Neither the clips of one file nor the images of a folder have a name and a time of their own."""

  def write(seed):
    video = np.random.default_rng(seed).integers(0, 256, (3, 4, 16, 16, 3)).astype(np.uint8)
    if kind == 'array':
      np.save(tmp_path / 'data.npy', video)
      return data.StoredClips(data.Array(tmp_path / 'data.npy'), 'train', num_frames=1, train_on_all=True)
    for number, frame in enumerate(video.reshape(-1, 16, 16, 3)):
      file = tmp_path / f'data/clip{number // 4}/{number % 4}.png'
      file.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(frame).save(file)
    return open_source(tmp_path / 'data')

  convert(write(0), tmp_path / 'out')
  with raises(ValueError, 'differs in clips'):
    convert(write(1), tmp_path / 'out')


def test_a_crash_within_a_shard_leaves_no_partial_files(tmp_path, source, monkeypatch):
  encode, calls = records.encode, []

  def crash(*arguments):
    calls.append(arguments)
    if len(calls) == 4:
      raise RuntimeError('power cut')
    return encode(*arguments)

  monkeypatch.setattr(records, 'encode', crash)
  with pytest.raises(RuntimeError, match='power cut'):
    convert(source, tmp_path / 'out')
  assert sorted(contents(tmp_path / 'out')) == [
    'clips-00000-of-00004.array_record',
    'clips-00000-of-00004.jsonl',
    'convert.json',
  ]


def test_other_data_is_never_overwritten(tmp_path, source):
  (other := tmp_path / 'other').mkdir()
  (other / 'precious').write_text('x')
  with raises(ValueError, other, 'not empty'):
    convert(source, other)
  with raises(ValueError, f'{other}/precious'):
    convert(source, other / 'precious')
  assert contents(other) == {'precious': b'x'}
  before = contents(convert(source, tmp_path / 'out'))
  for options, differ in [({'size': (8, 8)}, 'size'), ({'clips_per_shard': 3}, 'num_shards')]:
    with raises(ValueError, f'{tmp_path}/out', differ):
      convert(source, tmp_path / 'out', **options)
  faster = data.StoredClips(data.Folder(tmp_path / 'data'), 'train', num_frames=1, train_on_all=True, frame_rate=9.0)
  with raises(ValueError, f'{tmp_path}/out', 'frame_rate'):
    convert(faster, tmp_path / 'out')
  plan = json.loads(before['convert.json'])
  assert plan.pop('frame_rate') is None
  (tmp_path / 'out' / 'convert.json').write_text(json.dumps(plan))  # as before plans had the frame rate
  assert convert(source, tmp_path / 'out', log=pytest.fail)
  (tmp_path / 'out' / 'convert.json').write_bytes(before['convert.json'])
  (tmp_path / 'data' / '3.txt').write_text('another caption')
  with raises(ValueError, 'clips'):
    convert(open_source(tmp_path / 'data'), tmp_path / 'out')
  assert contents(tmp_path / 'out') == before
  (tmp_path / 'out' / 'convert.json').write_text('{')
  with raises(ValueError, 'convert.json'):
    convert(source, tmp_path / 'out')


def test_unusable_clips_are_left_out_and_listed(tmp_path, source):
  os.truncate(tmp_path / 'data' / '2.gif', 100)
  (tmp_path / 'data' / '3.gif').write_text('no video')
  source = open_source(tmp_path / 'data')
  with raises(data.TooManyBadClips, '2 of 7 clips', 'data.max_bad_share=0.2'):
    convert(source, tmp_path / 'none', max_bad_share=0.2)
  logged = []
  out = convert(source, tmp_path / 'out', max_bad_share=0.3, log=logged.append)
  assert logged[1] == 'clips-00001-of-00004.array_record: 0 clips, 2 left out'
  read = data.StoredClips(data.Records(out), 'train', num_frames=1, train_on_all=True)
  assert read.names == ['0.gif', '1.gif', '4.gif', '5.gif', '6.gif']
  for i, name in enumerate(read.names):
    np.testing.assert_array_equal(read.window(i, 0).video, make_clip(int(name[0])))
  lines = [json.loads(line) for line in (out / 'quarantine.jsonl').read_text().splitlines()]
  assert [line['clip'] for line in lines] == ['2.gif', '3.gif']


def test_long_clips_are_read_in_parts(tmp_path, monkeypatch):
  clip = make_clip(0, num_frames=23)
  np.save(tmp_path / 'a.npy', clip)
  (tmp_path / 'data').mkdir()
  os.rename(tmp_path / 'a.npy', tmp_path / 'data' / 'a.npy')
  monkeypatch.setattr(conversion, 'FRAMES_AT_ONCE', 5)
  source = data.StoredClips(data.Folder(tmp_path / 'data'), 'train', num_frames=1, train_on_all=True, frame_rate=8.0)
  read = data.StoredClips(data.Records(convert(source, tmp_path / 'out')), 'train', num_frames=1, frame_rate=8.0)
  np.testing.assert_array_equal(read.window(0, 0).video, clip)


@pytest.mark.parametrize('rate', [0, 8])
def test_the_command_asks_for_a_frame_rate_that_clips_lack(tmp_path, capsys, rate):
  np.save(tmp_path / 'a.npy', np.stack([make_clip(i) for i in range(3)]))
  assert command.main(['convert', f'{tmp_path}/a.npy', f'{tmp_path}/out', f'--frame_rate={rate}']) == 0
  shown = capsys.readouterr().out
  assert f'--config.data.name=records --config.data.path={tmp_path}/out' in shown
  assert ('--config.data.frame_rate=RATE' in shown) == (rate == 0)
