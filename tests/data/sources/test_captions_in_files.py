"""A source whose captions are in the files of its clips: a damaged file ends neither training nor a conversion."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from helpers.batches import build, configure, take
from helpers.messages import raises

from vdm_jax import data
from vdm_jax.data import __main__ as command
from vdm_jax.data.inspection import inspect
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.contract import Source
from vdm_jax.video import VideoInfo

COUNT, BAD = 12, '03.npz'


class Npz(Source):
  def __init__(self, path):
    self.path, self.num_classes = str(path), COUNT
    self.names = sorted(file.name for file in pathlib.Path(path).glob('*.npz'))

  def info(self, clip):
    stored = self._load(clip)
    return VideoInfo(len(stored['frames']), 8.0, stored['frames'].shape[1:3])

  def frames(self, clip, numbers):
    return self._load(clip)['frames'][list(numbers)]

  def caption(self, clip):
    return str(self._load(clip)['caption'])

  def label(self, clip):
    return int(self._load(clip)['label'])

  def _load(self, clip):
    file = pathlib.Path(self.path) / self.names[clip]
    try:
      with np.load(file) as stored:
        return {key: stored[key] for key in ('frames', 'caption', 'label')}
    except Exception as error:
      raise ValueError(f'{file}: damaged file; replace or remove it.') from error


@pytest.fixture
def clips(tmp_path, monkeypatch):
  monkeypatch.setitem(catalog.KINDS, 'npz', catalog.stored(Npz))
  (root := tmp_path / 'npz').mkdir()
  for i in range(COUNT):
    frames = np.full((6, 16, 16, 3), 20 * i, np.uint8)
    np.savez(root / f'{i:02}.npz', frames=frames, caption=f'clip {i}', label=i)
  (root / BAD).write_bytes(b'damaged')
  return root


def listed(folder):
  return [json.loads(line)['clip'] for line in (folder / 'quarantine.jsonl').read_text().splitlines()]


def test_words_of_the_other_captions_are_trained_on(clips, tmp_path):
  shape = {'num_frames': 3, 'height': 16, 'width': 16, 'batch_size': 4, 'labels': True, 'train_on_all': True}
  config = configure(name='npz', path=str(clips), max_bad_share=0.1, **shape)
  assert set(data.vocabulary(config)) == {'clip', *(str(i) for i in range(COUNT) if i != 3)}
  assert '' in data.captions(config)
  labels = {int(label) for batch in take(build(config, quarantine=tmp_path), 6) for label in batch.cond.label[:, 0]}
  assert labels == {*range(COUNT)} - {3}
  assert listed(tmp_path) == [BAD]
  with raises(data.TooManyBadClips, f'{clips}/{BAD}: damaged file'):
    build(configure(name='npz', path=str(clips), max_bad_share=0.05, **shape))


def test_the_others_are_converted(clips, tmp_path, capsys):
  out = tmp_path / 'out'
  assert command.main(['convert', f'npz:{clips}', str(out), '--max_bad_share=0.1']) == 0
  assert capsys.readouterr().out.endswith(f'train with --config.data.name=records --config.data.path={out}\n')
  assert listed(out) == [BAD] and len(data.Records(out).names) == COUNT - 1


def test_inspection_lists_the_file(clips):
  found, _ = inspect(f'npz:{clips}', num_frames=3, max_bad_share=0.1)
  assert found.corrupt == [f'{clips}/{BAD}: damaged file; replace or remove it.'] and found.problem is None
