"""Matching captions are never a fault, shuffled ones are, and inconclusive cases are reported as such."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vdm_jax import configuration, data, text
from vdm_jax.data.sources.digits import Digits
from vdm_jax.tools.doctor import captions as captions_of
from vdm_jax.tools.doctor.captions import shuffled_captions
from vdm_jax.video import to_float

# Name -> the mode of the digits, and a pattern for the words that captions keep.
MODES = {
  'plain': ({}, '.+'),
  'digit somewhere': ({'random_start': True}, '[0-9]'),
  'direction somewhere': ({'random_start': True}, '[a-z]+$'),
  'digits of two': ({'random_start': True, 'num_digits': 2}, '[0-9]'),
  'speed': ({'random_start': True, 'motions': True}, 'slowly|quickly|bouncing'),
  'all of two': ({'num_digits': 2, 'motions': True, 'colors': True, 'channels': 3}, '.+'),
}


def clips_of(mode, seed=0, count=captions_of.COUNT):
  """Return clips, float32 [n 8 16 16 c] in [-1, 1], and their captions."""
  options, kept = MODES[mode]
  source = Digits(split='train', seed=seed, **options)
  clips = [source[index] for index in range(count)]
  return (
    to_float(np.stack([clip.video for clip in clips])),
    [' '.join(re.findall(kept, clip.caption)) for clip in clips],
  )


@pytest.fixture(scope='module')
def clips():
  return clips_of('plain')


def shuffled(captions, seed=0):
  return [str(caption) for caption in np.random.default_rng(seed).permutation(captions)]


@pytest.mark.parametrize('mode', MODES)
def test_matching_captions_are_recognized_and_shuffled_ones_reported(mode):
  videos, captions = clips_of(mode)
  fault, line = shuffled_captions(videos, captions)
  assert fault is None and line.endswith(', which match (p = 0.001)')
  fault, _ = shuffled_captions(videos, shuffled(captions))
  assert fault.name == 'shuffled captions' and f'512 clips with {len(set(captions))} captions' in fault.text


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(1, 9))
@pytest.mark.parametrize('mode', MODES)
def test_matching_and_shuffled_captions_with_other_seeds(mode, seed):
  videos, captions = clips_of(mode, seed)
  assert shuffled_captions(videos, captions)[1].endswith(', which match (p = 0.001)')
  assert shuffled_captions(videos, shuffled(captions, seed))[0].name == 'shuffled captions'


@pytest.mark.parametrize('seed', range(1, 5))
def test_shuffled_captions_are_reported(clips, seed):
  videos, captions = clips
  fault, _ = shuffled_captions(videos, shuffled(captions, seed))
  assert fault.name == 'shuffled captions' and '512 clips with 40 captions' in fault.text


def test_inconclusive_cases_are_not_a_fault(clips):
  """Few clips, many words or blank clips: the result is not significant, and there is no fault."""
  videos, captions = clips_of('digit somewhere', count=24)
  fault, line = shuffled_captions(videos, shuffled(captions))
  assert fault is None and re.fullmatch(r'captions: \d+ distinct in 24 clips; .* inconclusive \(p = .*\)', line)
  videos, captions = clips
  fault, line = shuffled_captions(videos[:10], shuffled(captions[:10]))
  assert fault is None and 'too few clips' in line
  own = [f'{caption} {n}' for n, caption in enumerate(shuffled(captions))]
  fault, line = shuffled_captions(videos, own)
  assert fault is None and line.startswith('captions: 512 distinct in 512 clips, too few clips')
  assert shuffled_captions(videos, ['a digit'] * 512) == (None, 'captions: 1 distinct in 512 clips')
  fault, line = shuffled_captions(np.zeros_like(videos), captions)
  assert fault is None and 'inconclusive' in line


def test_matching_half_of_the_captions_is_enough(clips):
  videos, captions = clips
  assert shuffled_captions(videos, shuffled(captions[:256]) + captions[256:])[0] is None


def test_the_share_that_words_explain_is_that_of_a_regression(clips):
  """Against least squares, with few words and a small view."""
  rng = np.random.default_rng(0)
  split = [set(caption.split()) for caption in clips[1][:100]]
  has = np.array([[float(word in words) for word in sorted(set.union(*split))] for words in split])
  view = rng.standard_normal((100, 5)) + has[:, :1]
  fitted = np.column_stack([np.ones(100), has])
  left = view - fitted @ np.linalg.lstsq(fitted, view, rcond=None)[0]
  exact = 1 - np.sum(left**2) / np.sum((view - view.mean(0)) ** 2)
  words = captions_of._words(clips[1][:100])
  found = captions_of._explained([view, -view], words, np.arange(100)[None])
  np.testing.assert_allclose(found, [[exact], [exact]], rtol=1e-9)


def test_two_of_the_views_do_not_depend_on_position():
  """Circularly shifted frames have the same amplitudes, but another view of positions."""
  video = np.random.default_rng(0).standard_normal((1, 8, 16, 16, 1)).astype(np.float32)
  moved = np.roll(video, (3, 5), (2, 3))
  place, pattern, motion, color = zip(*map(captions_of._views, (video, moved)), strict=True)
  assert np.abs(place[0] - place[1]).max() > 0.1
  for before, after in (pattern, motion, color):
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_cut_captions_and_what_the_data_leave_out_are_remarked_once(tmp_path):
  for i in range(10):
    np.save(tmp_path / f'{i}.npy', np.zeros((8, 16, 16, 1), np.uint8))
    (tmp_path / f'{i}.txt').write_text('a dog, running. ' * (3 if i < 4 else 1))
  (tmp_path / 'lone.txt').write_text('')
  config = configuration.default()
  config.data.update(
    {'name': 'folder', 'path': str(tmp_path), 'frame_rate': 8.0, 'num_frames': 8, 'train_on_all': True}
  )
  encode = text.build('words', length=4, vocabulary=('a', 'dog'))
  config.data.text_length = 4
  found = data.overview(config.data)
  assert found.frame_rate == 8
  left_out, cut = captions_of.remarks(config, encode, found)
  assert f'{tmp_path}/lone.txt' in left_out
  assert cut.startswith('4 of 10 captions (40%) are longer than data.text_length=4') and '9 words keep 95%' in cut
  assert captions_of.remarks(config, None, found) == [left_out]
  config.data.text_length = 9
  assert captions_of.remarks(config, text.build('words', length=9, vocabulary=('a',)), found) == [left_out]
  with pytest.warns(UserWarning, match='is cut to data.text_length=4') as caught:  # and without the report, once
    encode(['a dog runs left and right'] * 2)
    encode(['a cat runs left and right'])
  assert len(caught) == 1
