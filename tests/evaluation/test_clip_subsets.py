"""Clips that cannot be used are left out of the subsets that are measured."""

from __future__ import annotations

import os

import pytest
from helpers.batches import configure
from helpers.clip_files import make_clip

from vdm_jax import data
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import PROTOCOLS, clip_subsets
from vdm_jax.video import write_gif

COUNT, BAD = 30, (3, 11, 12, 20)
PROTOCOL = PROTOCOLS['vdm-t2v-4096']._replace(
  num_frames=4, height=16, width=24, num_references=None, training_clips=0, references=('train',)
)


@pytest.fixture
def clips(tmp_path):
  """Clips of one split, of which four cannot be opened."""
  for i in range(COUNT):
    write_gif(tmp_path / f'{i:02}.gif', make_clip(i), fps=8)
    if i in BAD:
      (tmp_path / f'{i:02}.gif').write_text('no video')
  return tmp_path


def opened(path, **changes):
  settings = {'num_frames': 4, 'height': 16, 'width': 24, 'channels': 3, 'train_on_all': True, 'max_bad_share': 0.2}
  config = configure(name='folder', path=str(path), **settings | changes)
  return data.ExampleClips(config, 'train', seed=0, num_frames=4)


def references(clips, protocol=PROTOCOL, **options):
  chosen = {'seed': 0, 'limit': None, 'real_vs_real': False} | options
  with pytest.warns(UserWarning, match='4 clips of the train split .* left out: .*03.gif'):
    return clip_subsets.choose_references(protocol, {'train': clips}, **chosen)['train']


def test_unusable_clips_are_left_out(clips):
  source = opened(clips)
  assert sorted(source.unusable) == [f'{i:02}.gif' for i in BAD]
  assert sorted(references(source).indices) == [i for i in range(COUNT) if i not in BAD]
  few = references(source, PROTOCOL._replace(num_references=20)).indices
  assert len(set(few)) == 20 and not set(few) & set(BAD)
  assert references(source, limit=7).record['clips'] == 7
  with pytest.raises(InvalidInput, match='needs 27 clips, .* has 26.*--limit=26'):
    clip_subsets.choose_clips(PROTOCOL, source, 27, seed=(0, 0))
  drawn = clip_subsets.choose_clips(PROTOCOL._replace(replacement=True), source, 99, seed=(0, 0)).indices
  assert len(drawn) == 99 and not set(drawn) & set(BAD)


def test_real_clips_in_place_of_samples_are_usable_and_not_among_the_references(clips):
  source = opened(clips)
  reference = references(source, real_vs_real=True)
  real = clip_subsets.choose_real_samples(PROTOCOL, source, len(reference.indices), 99, seed=0)
  both = [*reference.indices, *real.indices]
  assert len(both) == len(set(both)) == COUNT - len(BAD)


def test_without_unusable_clips_the_subsets_are_the_random_order_itself(clips):
  for i in BAD:
    os.remove(clips / f'{i:02}.gif')
  source = opened(clips)
  order = clip_subsets.np.random.default_rng((0, 0)).permutation(len(source))
  assert list(clip_subsets.choose_clips(PROTOCOL, source, 9, seed=(0, 0)).indices) == list(order[:9])
  assert list(clip_subsets.choose_real_samples(PROTOCOL, source, 9, 5, seed=0).indices) == list(order[::-1][:5])


def test_too_many_unusable_clips_are_an_invalid_input(clips, monkeypatch):
  monkeypatch.setattr('vdm_jax.data.quarantine.CHECKED_AT_START', 2)
  with pytest.raises(InvalidInput, match='data.max_bad_share=0.1'):
    clip_subsets.choose_clips(PROTOCOL, opened(clips, max_bad_share=0.1), COUNT, seed=(0, 0))


def test_a_clip_that_is_found_bad_when_it_is_decoded_is_replaced_with_a_warning(clips, monkeypatch):
  source, frames = opened(clips), data.Folder.frames

  def damaged(self, clip, numbers):
    if clip == 5:
      raise ValueError('damaged')
    return frames(self, clip, numbers)

  monkeypatch.setattr(data.Folder, 'frames', damaged)
  with pytest.warns(UserWarning, match='place of 05.gif: damaged'):
    assert source[5].video.shape == (4, 16, 24, 3)
  assert source.first(5) == [0, 1, 2, 4, 6]
