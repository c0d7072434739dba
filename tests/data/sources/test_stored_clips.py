"""The same clips give the same tensors in every storage format."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers import clip_files
from helpers.messages import raises
from ml_collections import ConfigDict

from vdm_jax import data
from vdm_jax.data.sources import catalog

COUNT = 5
CLIPS = [clip_files.make_clip(i) for i in range(COUNT)]


def folder_of(suffix, root):
  root.mkdir()
  for i, clip in enumerate(CLIPS):
    clip_files.WRITERS[suffix](root / f'{i}{suffix}', clip)
    (root / f'{i}.txt').write_text(f'number {i}')
  return root


def configure(**changes):
  return ConfigDict(
    {
      'name': 'folder',
      'path': '',
      'mixture': (),
      'images': (),
      'target_frame_rate': 0.0,
      'num_frames': 3,
      'height': 16,
      'width': 24,
      'channels': 3,
      'normalization': 'pixels',
      'normalization_values': (),
      'missing_values': False,
      'shown_channels': (),
      'resize': 'cover',
      'frame_skip': 2,
      'frame_skip_max': 0,
      'frame_rate': 8.0,
      'train_on_all': True,
      'max_bad_share': 0.0,
      'pad_rows': 0,
      'flip': False,
    }
    | changes
  )


def store(kind, root):
  """Store the clips in a format; return the name and the path of the data."""
  if kind in clip_files.WRITERS:
    return {'name': 'folder', 'path': str(folder_of(kind, root))}
  if kind == 'array':
    np.save(root.with_suffix('.npy'), np.stack(CLIPS))
    return {'name': 'array', 'path': str(root.with_suffix('.npy'))}
  if kind == 'records':
    source = data.StoredClips(data.Folder(folder_of('.gif', root)), 'train', num_frames=1, train_on_all=True)
    return {'name': 'records', 'path': str(data.convert(source, root / 'out', clips_per_shard=2, log=list))}
  path = clip_files.prepare_tfds(root, kind, {'train': CLIPS[:4], 'test': CLIPS[4:]}, bair=kind.startswith('bair'))
  return {'name': 'tfds', 'path': str(path)}


TFDS = ('ucf101', 'bair_robot_pushing_small')


@pytest.mark.parametrize('kind', [*clip_files.WRITERS, 'array', 'records', *TFDS])
def test_all_formats_give_the_same_pixels(tmp_path, kind):
  config = configure(**store(kind, tmp_path / 'data'))
  source = pickle.loads(pickle.dumps(catalog.build(config, 'train', 0)))
  assert len(source) == COUNT
  seen = set()
  for index in range(COUNT):
    for seed in range(4):
      clip = source.read(index, np.random.default_rng(seed), 3, 2)
      start = int(np.random.default_rng(seed).integers(7 - 4))
      same = [i for i, whole in enumerate(CLIPS) if (whole[start : start + 5 : 2] == clip.video).all()]
      assert len(same) == 1, 'the frames of one of the clips'
      assert clip.video.dtype == np.uint8
      assert clip.frame_rate == pytest.approx(4, rel=0.05 if kind == '.gif' else 1e-6)
      assert clip.resolution == (16, 24)
      assert clip.caption == ('' if kind in ('array', *TFDS) else f'number {same[0]}')
    seen.add(same[0])
    if kind not in TFDS:  # which shuffle
      assert same == [index]
  assert seen == set(range(COUNT))


def test_records_give_the_batches_of_the_folder_they_were_converted_from(tmp_path):
  root = folder_of('.mp4', tmp_path / 'data')
  source = data.StoredClips(data.Folder(root), 'train', num_frames=1, train_on_all=True)
  exact = data.convert(source, tmp_path / 'exact', clips_per_shard=2, log=list)
  small = data.convert(source, tmp_path / 'small', size=(8, 16), log=list)
  more = {'batch_size': 2, 'num_images': 1, 'text': 'words', 'labels': False, 'image_rate': 0.0, 'num_workers': 0}
  for path, size in [(exact, (16, 24)), (exact, (8, 16)), (small, (8, 16))]:
    for split in ('train', 'test'):
      pairs = []
      for name, where in (('folder', root), ('records', path)):
        config = configure(
          name=name, path=str(where), height=size[0], width=size[1], train_on_all=False, frame_rate=0.0, **more
        )
        stream = data.build(config, letters, seed=3, split=split)
        pairs.append([next(stream) for _ in range(6)])
      for left, right in zip(*pairs, strict=True):
        for a, b in zip([left.x, *left.cond], [right.x, *right.cond], strict=True):
          np.testing.assert_array_equal(a, b)


def letters(captions):
  tokens = np.array([[ord(letter) for letter in caption] for caption in captions], np.int32)
  return tokens, tokens > 0


def test_gray_arrays_are_gray_videos(tmp_path):
  gray = CLIPS[0][..., :1]
  np.save(tmp_path / 'a.npy', gray)
  (whole,) = data.examples(configure(path=str(tmp_path), num_frames=7, frame_skip=1), 'train', seed=0, count=1)
  np.testing.assert_array_equal(whole.video, gray.repeat(3, axis=-1))


@pytest.mark.parametrize('kind', ['.npy', '', 'array', 'ucf101'])
def test_clips_without_a_frame_rate_need_one_in_the_configuration(tmp_path, kind):
  config = configure(**store(kind, tmp_path / 'data'), frame_rate=0.0)
  first = {'.npy': '0.npy', '': '0', 'array': '00000000', 'ucf101': 'train/000000'}[kind]
  with raises(ValueError, 'data.frame_rate=0', f'{config.path}/{first}'):
    catalog.build(config, 'train', 0)
  config.num_frames = 1
  assert catalog.build(config, 'train', 0).read(0, np.random.default_rng(0), 1).frame_rate == 0
  with raises(ValueError, 'data.frame_rate=-1.0'):
    catalog.build(configure(frame_rate=-1.0), 'train', 0)
