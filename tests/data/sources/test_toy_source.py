"""A source of thirty lines, written from docs/extending/data_source.md alone, gets everything that data sets get."""

from __future__ import annotations

import io
import json
import pathlib
import zipfile

import numpy as np
import pytest
from helpers.batches import assert_equal, build, configure, leaves, read_back, take
from helpers.messages import raises
from PIL import Image

from vdm_jax import data
from vdm_jax.data import Source, captioning
from vdm_jax.data import __main__ as command
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources import catalog
from vdm_jax.video import VideoInfo


class Zips(Source):
  """A folder of zip files of PNG frames; the name of a file is its caption, and the word before '-' its class."""

  def __init__(self, path):
    self.path = str(path)
    self.names = sorted(file.name for file in pathlib.Path(path).glob('*.zip'))
    if not self.names:
      raise ValueError(f'data.path={self.path!r} has no .zip files; check the path.')
    self.class_names = tuple(sorted({name.split('-')[0] for name in self.names}))
    self.num_classes, self.without_frame_rate = len(self.class_names), self.names[0]

  @classmethod
  def recognizes(cls, path):
    return any(path.glob('*.zip'))

  def info(self, clip):
    pngs = self._pngs(clip)
    return VideoInfo(len(pngs), 0.0, self._decode(pngs[0]).shape[:2])

  def frames(self, clip, numbers):
    pngs = self._pngs(clip)
    return np.stack([self._decode(pngs[number]) for number in numbers])

  def caption(self, clip):
    return self.names[clip].removesuffix('.zip').replace('-', ' ')

  def label(self, clip):
    return self.class_names.index(self.names[clip].split('-')[0])

  def _pngs(self, clip):
    file = pathlib.Path(self.path) / self.names[clip]
    try:
      with zipfile.ZipFile(file) as archive:
        return [archive.read(name) for name in sorted(archive.namelist())]
    except zipfile.BadZipFile as error:
      raise ValueError(f'{file}: is not a valid zip file ({error}); remove it.') from error

  def _decode(self, png):
    return np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))


COUNT, FRAMES = 12, 6


@pytest.fixture
def zips(tmp_path, monkeypatch):
  """Clip i has the gray level 10 i in its first frame, and one level more in each later one."""
  monkeypatch.setitem(catalog.KINDS, 'zips', catalog.stored(Zips))
  (root := tmp_path / 'zips').mkdir()
  for i in range(COUNT):
    with zipfile.ZipFile(root / f'{"cat" if i % 2 else "dog"}-{i:02}.zip', 'w') as archive:
      for frame in range(FRAMES):
        Image.fromarray(np.full((16, 16, 3), 10 * i + frame, np.uint8)).save(png := io.BytesIO(), 'PNG')
        archive.writestr(f'{frame}.png', png.getvalue())
  return root


def settings(root, **changes):
  shape = {'num_frames': 3, 'height': 16, 'width': 16, 'batch_size': 4, 'num_images': 1}
  return configure(**{'name': 'zips', 'path': str(root), 'frame_rate': 8.0} | shape | changes)


def clip_numbers(batch):
  """Return the clip that the first frame of each video belongs to."""
  return np.rint((batch.x[:, 0].mean(axis=(1, 2, 3)) + 1) * 127.5).astype(int) // 10


def test_batches_have_its_frames_captions_and_labels(zips):
  for batch in take(build(settings(zips)), 4):
    for number, tokens, labels in zip(clip_numbers(batch), batch.cond.text, batch.cond.label, strict=True):
      assert read_back(tokens[0]) == f'{("dog", "cat")[number % 2]} {number:02}'
      assert labels[0] == (1 - number % 2)
    np.testing.assert_allclose(batch.cond.frame_interval, 1 / 8)
  config = settings(zips)
  assert data.num_classes(config) == 2 and {'cat', 'dog', '00'} <= set(data.vocabulary(config))
  with raises(ValueError, 'data.frame_rate=0', zips / 'cat-01.zip'):
    build(settings(zips, frame_rate=0.0))


def test_resuming_at_any_step_gives_the_same_batches(zips):
  config = settings(zips, flip=True, image_rate=0.5, frame_skip_max=2)
  whole = take(build(config), 8)
  for step, batch in enumerate(whole):
    assert_equal(next(build(config, start=step)), batch)
    for rows in ((0, 1), (2, 3)):
      for part, leaf in zip(leaves(next(build(config, start=step, rows=rows))), leaves(batch), strict=True):
        np.testing.assert_array_equal(part, leaf[list(rows)])


def test_splits_share_no_clip_and_can_be_joined(zips):
  seen = {
    (split, on_all): {
      int(n) for b in take(build(settings(zips, train_on_all=on_all), split=split), 9) for n in clip_numbers(b)
    }
    for split, on_all in (('train', False), ('test', False), ('train', True))
  }
  assert seen['train', False] and seen['test', False] and not seen['train', False] & seen['test', False]
  assert seen['train', True] == {*range(COUNT)}


def test_it_can_be_mixed_and_provide_images(zips, tmp_path):
  np.save(tmp_path / 'a.npy', np.full((4, 3, 16, 16, 3), 255, np.uint8))
  specs = (f'zips:{zips}=1', f'array:{tmp_path}/a.npy=1')
  config = settings('', name='mixture', mixture=specs, labels=False, images=(f'zips:{zips}',), train_on_all=True)
  numbers = np.concatenate([clip_numbers(batch) for batch in take(build(config), 4)])
  assert (numbers < COUNT).mean() == 0.5


def test_inspection_recognizes_it(zips, capsys):
  found, sheet = inspect(str(zips), num_frames=4, frame_rate=8.0)
  assert (found.name, found.problem, found.usable) == ('zips', None, [*range(COUNT)])
  assert found.labels == {0: 6, 1: 6} and sum(found.windows.values()) == COUNT * 3 and sheet is not None
  assert command.main(['inspect', str(zips), '--num_frames=4', '--frame_rate=8', '--sheet=']) == 0
  assert capsys.readouterr().out.startswith(f'data.name=zips data.path={zips}\n')
  assert catalog.open_stored(f'zips:{zips}', 'train', num_frames=1)[0] == 'zips'


def test_conversion_to_records_and_back(zips, tmp_path):
  assert command.main(['convert', str(zips), str(tmp_path / 'out'), '--frame_rate=8', '--clips_per_shard=5']) == 0
  for split in ('train', 'test'):
    streams = [
      take(build(settings(path, name=name), split=split), 5)
      for name, path in (('zips', zips), ('records', tmp_path / 'out'))
    ]
    for left, right in zip(*streams, strict=True):
      assert_equal(left, right)


def test_unusable_clips_are_quarantined(zips, tmp_path):
  bad = ['cat-03.zip', 'dog-08.zip']
  for name in bad:
    (zips / name).write_bytes(b'not a zip file')
  config = settings(zips, train_on_all=True, max_bad_share=0.2)
  batches = take(build(config, quarantine=tmp_path), 6)
  assert not {3, 8} & {int(number) for batch in batches for number in clip_numbers(batch)}
  listed = [json.loads(line) for line in (tmp_path / 'quarantine.jsonl').read_text().splitlines()]
  assert [line['clip'] for line in listed] == bad
  assert all(line['reason'].startswith(f'{zips}/{line["clip"]}: ') for line in listed)
  with raises(data.TooManyBadClips, f"data.path='{zips}'", '2 of 12 clips'):
    build(settings(zips, train_on_all=True, max_bad_share=0.1))


def test_it_has_no_place_for_captions(zips):
  _, clips = catalog.open_stored(str(zips), 'train', num_frames=1)
  with raises(ValueError, zips):
    captioning.caption(clips, str, 'nobody')


def test_a_window_above_the_limit_of_memory_is_never_read(zips, monkeypatch):
  monkeypatch.setattr(Zips, 'info', lambda self, clip: VideoInfo(2**20, 8.0, (4096, 4096)))
  clips = data.StoredClips(Zips(zips), 'train', num_frames=64, frame_rate=8.0)
  with raises(ValueError, f'{zips}/cat-01.zip', '64 frames of 4096x4096', 'data.num_frames'):
    clips.read(clips.names.index('cat-01.zip'), None, 64)


def test_an_incomplete_source_cannot_be_opened():
  class WithoutFrames(Source):
    def info(self, clip):
      return VideoInfo(1, 0.0)

  with pytest.raises(TypeError, match='frames'):
    WithoutFrames()
