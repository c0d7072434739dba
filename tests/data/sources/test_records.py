from __future__ import annotations

import contextlib
import json
import re

import numpy as np
import pytest
from helpers.clip_files import make_clip

from vdm_jax import data
from vdm_jax.data.sources import records
from vdm_jax.data.sources.contract import Clip
from vdm_jax.video import write_gif


def raises(error, message):
  return pytest.raises(error, match=f'^{re.escape(message)}$')


def record_of(video, **changes):
  clip = Clip(video, 'a "red" ball\n\U0001f600', 3, 23.976, (480, 640))._replace(**changes)
  return records.encode([clip], 'deep/er.mp4', 'test')


def frames(record, start=0, num_frames=3, frame_skip=2, max_bytes=2**20):
  return records.decode_frames(
    record, 'here', start=start, num_frames=num_frames, frame_skip=frame_skip, max_bytes=max_bytes
  )


@pytest.mark.parametrize('channels', [1, 3])
def test_a_record_keeps_everything(channels):
  video = np.random.default_rng(0).integers(0, 256, (9, 6, 10, channels)).astype(np.uint8)
  record = record_of(video)
  header, _ = records.decode_header(record)
  assert header[:7] == ('deep/er.mp4', 'test', 'a "red" ball\n\U0001f600', 3, 23.976, (480, 640), (6, 10))
  for start, num_frames, frame_skip in [(0, 9, 1), (2, 3, 2), (8, 1, 7)]:
    window = frames(record, start, num_frames, frame_skip)
    np.testing.assert_array_equal(window, video[start::frame_skip][:num_frames])
  assert records.encode([*_halves(video)], 'deep/er.mp4', 'test') == record_of(video, caption='', label=None)


def _halves(video):
  for part in (video[:4], video[4:]):
    yield Clip(part, '', None, 23.976, (480, 640))


def test_a_record_describes_itself_in_the_open():
  record = record_of(make_clip(0))
  length = int.from_bytes(record[8:12], 'little')
  header = json.loads(record[12 : 12 + length])
  assert record[:8] == b'VDMCLIP1'
  assert record[12 + length :][:8] == b'\x89PNG\r\n\x1a\n'
  assert 12 + length + sum(header['frame_bytes']) == len(record)


def test_every_cut_and_every_changed_byte_is_an_error_or_other_pixels():
  video = make_clip(0, num_frames=2, height=4, width=4)
  record = record_of(video)
  for length in range(0, len(record), 7):
    with pytest.raises(ValueError):
      frames(record[:length], num_frames=1)
  rng = np.random.default_rng(0)
  for place in rng.integers(len(record), size=300):
    changed = record[:place] + bytes([record[place] ^ int(rng.integers(1, 256))]) + record[place + 1 :]
    with contextlib.suppress(ValueError):
      assert frames(changed, num_frames=1).dtype == np.uint8


def test_errors_of_records():
  record = record_of(make_clip(0))
  with raises(ValueError, 'is not a clip that `python -m vdm_jax.data convert` wrote'):
    records.decode_header(b'\x80\x04' + record)
  with raises(ValueError, 'is not as long as its header says'):
    records.decode_header(record + b'x')
  with raises(
    ValueError,
    'here: 3 frames of 16x24 take 0.0 GB, but at most 0.0 GB are read at once; resize the file, or lower '
    'data.num_frames.',
  ):
    frames(record, max_bytes=3 * 16 * 24 * 3 - 1)
  start = record.find(b'IDAT')
  with raises(ValueError, 'here: frame 0 cannot be decoded as a picture (UnidentifiedImageError).'):
    frames(record[:start] + b'XXXX' + record[start + 4 :])
  with pytest.raises(ValueError, match=r'^has a damaged header \('):
    records.decode_header(record[:12] + b'[' + record[13:])


@pytest.fixture
def converted(tmp_path):
  for i in range(6):
    write_gif(tmp_path / 'data' / f'{i}.gif', make_clip(i), fps=8)
  source = data.Folder(tmp_path / 'data', 'train', num_frames=1, train_on_all=True)
  return data.convert(source, tmp_path / 'out', clips_per_shard=4, say=list)


def test_errors_of_folders(tmp_path, converted):
  with raises(
    FileNotFoundError,
    f'data.path={str(tmp_path)!r} has no dataset.json; make it with `python -m vdm_jax.data convert SRC DST`.',
  ):
    data.Records(tmp_path, 'train', num_frames=4)
  second = converted / 'clips-00001-of-00002.array_record'
  content, path = second.read_bytes(), str(converted)
  second.unlink()
  with raises(
    ValueError,
    f'data.path={path!r} is not complete (clips-00001-of-00002.array_record is missing); run the same '
    '`python -m vdm_jax.data convert` again.',
  ):
    data.Records(path, 'train', num_frames=4)
  second.write_bytes(content)
  index = converted / 'clips-00001-of-00002.jsonl'
  index.write_text(index.read_text().splitlines()[0] + '\n')
  with raises(
    ValueError,
    f'data.path={path!r} is not complete (there are 6 records, but 5 in the index); run the same '
    '`python -m vdm_jax.data convert` again.',
  ):
    data.Records(path, 'train', num_frames=4)


def test_a_damaged_shard_is_a_bad_clip(tmp_path, converted):
  shard = converted / 'clips-00000-of-00002.array_record'
  content = bytearray(shard.read_bytes())
  place = content.find(b'VDMCLIP1') + 400
  content[place : place + 30] = b'\xa5' * 30
  shard.write_bytes(content)
  source = data.Records(converted, 'train', num_frames=4, train_on_all=True)
  bad = []
  for i, name in enumerate(source.names):
    try:
      source.read(i, np.random.default_rng(0), 7)
    except (ValueError, OSError) as error:
      bad.append(name)
      assert str(error).startswith(f'{converted}/{name}')
  assert len(bad) == 1
