from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from helpers.clip_files import make_clip
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data.sources import records
from vdm_jax.data.sources.contract import Clip
from vdm_jax.video import write_gif


def record_of(video, **changes):
  clip = Clip(video, 'a "red" ball\n\U0001f600', 3, 23.976, (480, 640))._replace(**changes)
  return records.encode([clip], 'deep/er.mp4', 'test')


def frames(record, numbers=(0, 2, 4), max_bytes=2**20):
  return records.decode_frames(record, 'here', numbers, max_bytes=max_bytes)


@pytest.mark.parametrize('channels', [1, 3])
def test_a_record_keeps_everything(channels):
  video = np.random.default_rng(0).integers(0, 256, (9, 6, 10, channels)).astype(np.uint8)
  record = record_of(video)
  header, _ = records.decode_header(record)
  assert header[:7] == ('deep/er.mp4', 'test', 'a "red" ball\n\U0001f600', 3, 23.976, (480, 640), (6, 10))
  for start, num_frames, frame_skip in [(0, 9, 1), (2, 3, 2), (8, 1, 7)]:
    window = frames(record, range(start, start + num_frames * frame_skip, frame_skip))
    np.testing.assert_array_equal(window, video[start::frame_skip][:num_frames])
  assert records.encode([*_halves(video)], 'deep/er.mp4', 'test') == record_of(video, caption='', label=None)


def _halves(video):
  for part in (video[:4], video[4:]):
    yield Clip(part, '', None, 23.976, (480, 640))


def test_the_header_of_a_record_is_plain_json():
  record = record_of(make_clip(0))
  length = int.from_bytes(record[8:12], 'little')
  header = json.loads(record[12 : 12 + length])
  assert record[:8] == b'VDMCLIP1'
  assert record[12 + length :][:8] == b'\x89PNG\r\n\x1a\n'
  assert 12 + length + sum(header['frame_bytes']) == len(record)


def test_truncated_and_changed_records_raise_or_decode_to_other_pixels():
  video = make_clip(0, num_frames=2, height=4, width=4)
  record = record_of(video)
  for length in range(0, len(record), 7):
    with pytest.raises(ValueError):
      frames(record[:length], [0])
  rng = np.random.default_rng(0)
  for place in rng.integers(len(record), size=300):
    changed = record[:place] + bytes([record[place] ^ int(rng.integers(1, 256))]) + record[place + 1 :]
    with contextlib.suppress(ValueError):
      assert frames(changed, [0]).dtype == np.uint8


def test_errors_of_records():
  record = record_of(make_clip(0))
  with raises(ValueError, 'python -m vdm_jax.data convert'):
    records.decode_header(b'\x80\x04' + record)
  with raises(ValueError, 'length', 'header'):
    records.decode_header(record + b'x')
  with raises(ValueError, 'here', '3 frames of 16x24', 'data.num_frames'):
    frames(record, max_bytes=3 * 16 * 24 * 3 - 1)
  start = record.find(b'IDAT')
  with raises(ValueError, 'here: frame 0', 'UnidentifiedImageError'):
    frames(record[:start] + b'XXXX' + record[start + 4 :])
  with raises(ValueError, 'header'):
    records.decode_header(record[:12] + b'[' + record[13:])


@pytest.fixture
def converted(tmp_path):
  for i in range(6):
    write_gif(tmp_path / 'data' / f'{i}.gif', make_clip(i), fps=8)
  source = data.StoredClips(data.Folder(tmp_path / 'data'), 'train', num_frames=1, train_on_all=True)
  return data.convert(source, tmp_path / 'out', clips_per_shard=4, log=list)


def test_errors_of_folders(tmp_path, converted):
  with raises(FileNotFoundError, f'data.path={str(tmp_path)!r}', 'dataset.json', 'python -m vdm_jax.data convert'):
    data.Records(tmp_path)
  second = converted / 'clips-00001-of-00002.array_record'
  content, path = second.read_bytes(), str(converted)
  second.unlink()
  with raises(ValueError, f'data.path={path!r}', 'clips-00001-of-00002.array_record', 'vdm_jax.data convert'):
    data.Records(path)
  second.write_bytes(content)
  index = converted / 'clips-00001-of-00002.jsonl'
  index.write_text(index.read_text().splitlines()[0] + '\n')
  with raises(ValueError, f'data.path={path!r}', '6 records', '5', 'python -m vdm_jax.data convert'):
    data.Records(path)


def test_a_damaged_shard_is_a_bad_clip(tmp_path, converted):
  shard = converted / 'clips-00000-of-00002.array_record'
  content = bytearray(shard.read_bytes())
  place = content.find(b'VDMCLIP1') + 400
  content[place : place + 30] = b'\xa5' * 30
  shard.write_bytes(content)
  source = data.StoredClips(data.Records(converted), 'train', num_frames=4, train_on_all=True)
  bad = []
  for i, name in enumerate(source.names):
    try:
      source.read(i, np.random.default_rng(0), 7)
    except (ValueError, OSError) as error:
      bad.append(name)
      assert str(error).startswith(f'{converted}/{name}')
  assert len(bad) == 1
