"""Which real clips a protocol measures: its split, frame rate and cut, on data as they are published."""

from __future__ import annotations

import math

import av
import numpy as np
import pytest
from helpers.batches import configure
from helpers.clip_files import make_clip

from vdm_jax import data
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS
from vdm_jax.evaluation.clip_subsets import choose_real_samples, choose_references, measured_data, open_splits
from vdm_jax.evaluation.extraction import center_crop

SNAP = PROTOCOLS['snap-msrvtt-59800']._replace(height=18, width=32, num_references=6)
KINETICS = PROTOCOLS['vdm-kinetics600-50k']._replace(
  num_frames=4, height=16, width=16, num_references=3, training_clips=0
)


def write(path, video, rate):
  """Write a lossless file of a frame rate."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('ffv1', rate=rate)
    stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], 'bgr0'
    for frame in video:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24').reformat(format='bgr0')))
    container.mux(stream.encode())


def numbered(num_frames):
  """Frames 24x32 whose rows are 10 apart and whose first channel is the number of the frame."""
  video = np.zeros((num_frames, 24, 32, 3), np.uint8)
  video[..., 0] = np.arange(num_frames)[:, None, None]
  video[..., 1] = 10 * np.arange(24)[None, :, None]
  return video


def experiment(path, **changes):
  config = type('Config', (), {})()
  config.data, config.seed = configure(name='folder', path=str(path), **changes), 0
  return config


@pytest.fixture(scope='module')
def msrvtt(tmp_path_factory):
  """A test set alone, of clips shorter than a window at the largest frame skip of training."""
  root = tmp_path_factory.mktemp('msrvtt')
  for i in range(6):
    write(root / f'test/{i}.avi', numbered(30), (24, 25, 30)[i % 3])
  return root


def references(protocol, config, **options):
  chosen = {'seed': 0, 'limit': None, 'real_vs_real': False} | options
  splits = open_splits(protocol, config, chosen['real_vs_real'])
  return choose_references(protocol, splits, **chosen)['test'], splits


def test_a_lone_test_folder_is_the_test_set_at_the_frame_rate_of_the_samples(msrvtt):
  config = experiment(msrvtt, num_frames=16, height=40, width=64, pad_rows=2, frame_skip_max=6, channels=3)
  subset, splits = references(SNAP, config)
  assert len(splits['test']) == len(subset.indices) == 6 and splits['test'].unusable == {}
  for position, clip in enumerate(subset.indices):
    numbers = subset.clips.original(int(clip), np.random.default_rng(position)).video[:, 0, 0, 0].astype(int)
    skip = (24, 25, 30)[clip % 3] / 24
    assert list(numbers - numbers[0]) == [math.floor(i * skip + 0.5) for i in range(16)], 'nearest in time at 24 fps'


def test_slower_clips_are_left_out_with_a_warning(msrvtt, tmp_path):
  for i in range(20):
    write(tmp_path / f'test/{i:02}.avi', numbered(17), 12 if i == 7 else 24)
  with pytest.warns(UserWarning, match='1 clips of the test split .* left out: test/07.avi'):
    subset, _ = references(SNAP._replace(num_references=20), experiment(tmp_path, channels=3))
  assert sorted(subset.indices) == [i for i in range(20) if i != 7]


def test_the_square_clips_are_cut_from_the_original_frames(msrvtt):
  """240x320 footage, here 24x32: the square has all of its rows, the 16:9 cut the middle three quarters."""
  subset, _ = references(SNAP, experiment(msrvtt, channels=3))
  square, wide = subset.cuts([0], [(18, 18), (18, 32)])
  rows = 10 * (24 / 18 * (np.arange(18) + 0.5) - 0.5)  # centers of 18 rows in 24
  np.testing.assert_allclose(square[0, 0, 1:-1, 0, 1], rows[1:-1], atol=1)
  np.testing.assert_array_equal(wide[0, 0, :, 0, 1], 10 * np.arange(3, 21))
  assert (center_crop(wide, (18, 18)) != square).any()
  np.testing.assert_array_equal(subset.videos([0]), wide)


def test_real_clips_in_place_of_samples_are_the_other_half_of_a_lone_test_folder(msrvtt):
  subset, splits = references(SNAP, experiment(msrvtt, channels=3), real_vs_real=True)
  real = choose_real_samples(SNAP, splits['test'], len(subset.indices), 9, seed=0)
  assert len(subset.indices) == len(real.indices) == 3 and not set(subset.indices) & set(real.indices)


def kinetics(root, **folders):
  for folder, count in folders.items():
    for i in range(count):
      (root / folder / 'Archery').mkdir(parents=True, exist_ok=True)
      np.save(root / folder / f'Archery/{i}.npy', make_clip(i))
  return experiment(root, frame_rate=25.0, channels=3)


def test_a_test_set_is_not_merged_with_the_validation_set(tmp_path):
  config = kinetics(tmp_path, train=2, test=4, val=3)
  with pytest.warns(UserWarning, match='the reference is the 4 clips of the folder test, without 3 of val'):
    subset, splits = references(KINETICS, config)
  assert splits['test'].folders == {'test': 4}
  shown = subset.clips.original(0, None).video
  np.testing.assert_array_equal(shown, np.load(tmp_path / 'test/Archery/0.npy')[:4])
  config.data.num_frames = 4
  assert len(data.ExampleClips(config.data, 'test', seed=0)) == 7, 'training holds out both'
  assert len(data.ExampleClips(config.data, 'train', seed=0)) == 2


@pytest.mark.parametrize(
  ('folders', 'has'),
  [({'train': 2, 'val': 9}, 'those of the folder val'), ({'clips': 40}, 'clips held out from its training data')],
)
@pytest.mark.parametrize('name', ['vdm-kinetics600-50k', 'vdm-kinetics600-50k-replacement'])
def test_other_clips_cannot_take_the_place_of_a_test_set(tmp_path, folders, has, name):
  protocol = KINETICS._replace(name=name, replacement='replacement' in name)
  with pytest.raises(
    InvalidInput, match=f'--protocol={name} measures against a test set, but .* {has}: .* folder test'
  ):
    open_splits(protocol, kinetics(tmp_path, **folders), False)


def test_data_are_read_as_the_protocol_says():
  section = configure(frame_skip=4, frame_skip_max=6, num_frames=16, height=40, pad_rows=2, target_frame_rate=0.0)
  found = measured_data(PROTOCOLS['snap-internal-50k'], section)
  assert (found.height, found.pad_rows, found.frame_skip, found.frame_skip_max) == (36, 0, 1, 0)
  assert found.target_frame_rate == 24.0 and section.frame_skip == 4, 'the argument is not changed'
  assert measured_data(PROTOCOLS['vdm-t2v-64'], section).num_frames == 64
  assert measured_data(PROTOCOLS['vdm-t2v-4096'], section).frame_skip == 4, 'Table 5 varies it'
