"""The digit classifier: properties that hold for any weights, and the accuracy of the shipped ones."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.data.sources.digits import DIRECTIONS, Digits
from vdm_jax.evaluation import accuracy, parse_caption, read_clips, score
from vdm_jax.evaluation.digits.digit_classifier import CHUNK, STILL, WEIGHTS_PATH, Weights, load_weights, save_weights
from vdm_jax.evaluation.digits.digit_training import clips, measure

LEFT, RIGHT, UP, DOWN = range(4)
OPPOSITE = np.array([RIGHT, LEFT, DOWN, UP])


@functools.cache
def held_out(n: int = 40, **mode) -> tuple[np.ndarray, list[str]]:
  source = Digits(split='test', seed=5, **mode)
  shown = [source[i] for i in range(n)]
  videos = np.stack([clip.video for clip in shown]).astype(np.float32) / 127.5 - 1
  videos.setflags(write=False)
  return videos, [clip.caption for clip in shown]


def test_the_recorded_accuracy_is_reproduced():
  record, fresh = accuracy(), measure(load_weights(WEIGHTS_PATH), 300, seed=11)
  assert record['clips'] == 1000
  for name in ('digit', 'frame_digit', 'direction', 'frame_consistency'):
    assert fresh[name] == pytest.approx(record[name], abs=0.02), name


def test_the_recorded_accuracy_is_high():
  record = accuracy()
  assert record['digit'] >= 0.98
  assert record['frame_digit'] >= 0.93
  assert record['direction'] >= 0.999


def test_the_accuracy_is_measured_on_held_out_glyphs():
  train, test = (clips(split, 200, seed=0)[0] for split in ('train', 'test'))
  inks = [{frame[frame > -1].tobytes() for frame in videos.reshape(-1, 16, 16)} for videos in (train, test)]
  assert len(inks[0]) > 50 and len(inks[1]) > 50
  assert not inks[0] & inks[1]


@pytest.mark.parametrize(
  'mode',
  [
    {'num_frames': 2},
    {'num_frames': 40, 'random_start': True},
    {'height': 32, 'width': 32, 'random_start': True},
    {'height': 64, 'width': 64},
    {'channels': 3, 'colors': True},
  ],
  ids=str,
)
def test_reads_all_lengths_sizes_and_colors(mode):
  result = score(*held_out(**mode))
  assert result['digit'] >= 0.9  # 40 clips: three standard errors below .98
  assert result['direction'] == 1


@pytest.mark.parametrize('damage', ['noise', 'soft', 'faded'])
def test_is_robust_to_artifacts_of_samples(damage):
  videos, captions = held_out()
  if damage == 'noise':
    videos = videos + 0.2 * np.random.default_rng(0).standard_normal(videos.shape).astype(np.float32)
  elif damage == 'soft':
    videos = (2 * videos + np.roll(videos, 1, axis=2) + np.roll(videos, 1, axis=3)) / 4
  else:
    videos = 0.6 * (videos + 1) - 1
  result = score(videos, captions)
  assert result['digit'] >= 0.9
  assert result['direction'] == 1


def test_captions_of_other_clips_are_matched_by_chance_only():
  videos, captions = held_out(200)
  few = videos[:20]
  expected = [score(few, [f'a {d} moving {way}'] * len(few)) for d in range(10) for way in DIRECTIONS]
  # Each clip has one digit and one direction, so over all captions the shares are exactly 1/10 and 1/4.
  assert np.mean([row['digit'] for row in expected]) == pytest.approx(0.1)
  assert np.mean([row['direction'] for row in expected]) == pytest.approx(0.25)
  shuffled = score(videos, captions[1:] + captions[:1])
  assert shuffled['digit'] == pytest.approx(0.1, abs=0.07)  # three standard errors


def test_noise_scores_at_chance_and_flickers():
  _, captions = held_out(200)
  noise = np.random.default_rng(1).uniform(-1, 1, (200, 8, 16, 16, 1)).astype(np.float32)
  result = score(noise, captions)
  assert result['digit'] == pytest.approx(0.1, abs=0.07)
  assert result['direction'] <= 0.4
  assert result['frame_consistency'] < 0.9


def test_a_clip_played_backwards_moves_the_opposite_way():
  videos, captions = held_out(random_start=True)
  there, back = read_clips(videos), read_clips(videos[:, ::-1])
  np.testing.assert_allclose(back.direction_logits, there.direction_logits[:, OPPOSITE], atol=1e-4)
  np.testing.assert_array_equal(back.direction, OPPOSITE[there.direction])
  np.testing.assert_array_equal(back.digit, there.digit)
  assert score(videos[:, ::-1], captions)['direction'] == 0


def test_a_frozen_clip_moves_nowhere():
  videos, captions = held_out()
  frozen = np.repeat(videos[:, 3:4], 8, axis=1)
  assert (read_clips(frozen).direction == STILL).all()
  result = score(frozen, captions)
  assert result['direction'] == 0
  assert result['frame_consistency'] == 1


def test_travel_is_measured_in_pixels():
  """Plain clips cross the free 8 pixels: corner floor(8 (2k+1)/16), so k in 0..7, a line of 7 pixels' travel."""
  videos, captions = held_out()
  travel = read_clips(videos).direction_logits
  wanted = np.array([parse_caption(caption)[1] for caption in captions])
  rows = np.arange(len(wanted))
  np.testing.assert_allclose(travel[rows, wanted], 7, atol=0.6)
  np.testing.assert_allclose(travel[rows, OPPOSITE[wanted]], -travel[rows, wanted], atol=1e-5)


def test_spliced_digits_halve_the_frame_consistency():
  videos, _ = held_out(100)
  read = read_clips(videos)
  sure = np.flatnonzero((read.frame_digits == read.digit[:, None]).all(1))
  pairs = [(a, b) for a, b in zip(sure, sure[1:], strict=False) if read.digit[a] != read.digit[b]]
  assert len(pairs) > 50
  spliced = np.stack([np.concatenate((videos[a, :4], videos[b, 4:])) for a, b in pairs])
  captions = [f'a {read.digit[a]} moving left' for a, _ in pairs]
  # Each frame is read alone, so it keeps its digit, and whichever of the two wins the vote has half of the frames.
  assert score(spliced, captions)['frame_consistency'] == 0.5


def test_gray_in_three_channels_and_repeated_pixels_change_nothing():
  videos, _ = held_out(random_start=True)
  plain = read_clips(videos)
  for same in (
    np.repeat(videos, 3, axis=-1),
    np.repeat(np.repeat(videos, 2, axis=2), 2, axis=3),
    np.repeat(np.repeat(videos, 4, axis=2), 4, axis=3),
    videos.astype(np.float64),
    1e3 * (videos + 0.5) * (np.abs(videos) == 1) + videos * (np.abs(videos) < 1),  # beyond the range: clipped
  ):
    for found, expected in zip(read_clips(same), plain, strict=True):
      np.testing.assert_array_equal(found, expected)


def test_clips_are_read_independently():
  """The result for a clip depends neither on other clips nor on the boundaries of chunks."""
  videos, _ = held_out()
  assert videos.shape[0] * videos.shape[1] > CHUNK
  together = read_clips(videos)
  for index in (0, 31, 32, 39):
    for found, expected in zip(read_clips(videos[index : index + 1]), together, strict=True):
      np.testing.assert_allclose(found[0], expected[index], atol=1e-4)


def test_the_vote_is_the_mean_of_the_log_probabilities():
  read = read_clips(held_out()[0])
  np.testing.assert_allclose(np.exp(read.frame_log_probs).sum(-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(read.digit, read.frame_log_probs.sum(1).argmax(-1))
  np.testing.assert_array_equal(read.frame_digits, read.frame_log_probs.argmax(-1))


def test_the_frechet_distance_increases_for_damaged_clips():
  reference = read_clips(clips('train', 200, seed=2)[0]).features
  videos, captions = clips('test', 200, seed=3)
  noisy = videos + 0.4 * np.random.default_rng(2).standard_normal(videos.shape).astype(np.float32)
  one_digit = videos[np.arange(200) % 5]
  flicker = np.concatenate((videos[:, ::2], np.roll(videos, 1, axis=0)[:, 1::2]), axis=1)
  good = score(videos, captions, reference=reference)['frechet']
  for bad in (noisy, one_digit, flicker, videos[:, :1].repeat(8, axis=1)):
    assert score(bad, captions, reference=reference)['frechet'] > 1.5 * good
  assert 'frechet' not in score(videos, captions)


def test_features_are_few_and_of_unit_scale():
  features = read_clips(clips('train', 1000, seed=1)[0]).features
  assert features.shape[1] <= 160
  np.testing.assert_allclose(features.mean(0), 0, atol=1e-3)
  np.testing.assert_allclose(features.std(0), 1, atol=1e-3)


@pytest.mark.parametrize(
  ('caption', 'read'),
  [
    ('a 3 moving left', (3, LEFT)),
    ('a 0 moving right', (0, RIGHT)),
    ('a red 7 moving up', (7, UP)),
    ('a cyan 9 moving down', (9, DOWN)),
  ],
)
def test_captions_of_one_digit_are_read(caption, read):
  assert parse_caption(caption) == read


@pytest.mark.parametrize('mode', [{}, {'channels': 3, 'colors': True}], ids=str)
def test_all_captions_of_the_data_set_agree_with_its_labels(mode):
  source = Digits(split='test', seed=0, **mode)
  for index in range(100):
    digit, direction = parse_caption(source[index].caption)
    assert digit * 4 + direction == source[index].label


@pytest.mark.parametrize(
  'caption',
  [
    'a 3 moving left and a 4 moving up',
    'a bouncing 3 moving left',
    'a pink 3 moving left',
    'a 12 moving left',
    'A 3 moving left',
    'a 3 moving left ',
    '',
  ],
)
def test_other_captions_are_refused(caption):
  with pytest.raises(ValueError, match=f'digit classifier: {caption!r} is not a valid caption'):
    score(held_out()[0], ['a 3 moving left'] * 39 + [caption])


def test_there_must_be_one_caption_per_video():
  with pytest.raises(ValueError, match='digit classifier: 40 videos but 1 captions'):
    score(held_out()[0], ['a 3 moving left'])


@pytest.mark.parametrize(
  'shape', [(8, 16, 16, 1), (1, 1, 16, 16, 1), (1, 8, 16, 32, 1), (1, 8, 24, 24, 1), (1, 8, 16, 16, 2)], ids=str
)
def test_videos_of_other_shapes_are_refused(shape):
  with pytest.raises(ValueError, match=re.escape(f'digit classifier: videos have shape {shape}')):
    read_clips(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
  ('videos', 'message'),
  [
    (np.zeros((1, 8, 16, 16, 1), np.uint8), 'videos are uint8'),
    (np.full((1, 8, 16, 16, 1), np.nan, np.float32), 'videos contain NaN or infinity'),
    (np.zeros((0, 8, 16, 16, 1), np.float32), 'there are no videos'),
  ],
  ids=['uint8', 'nan', 'none'],
)
def test_bad_videos_are_refused(videos, message):
  with pytest.raises(ValueError, match=f'digit classifier: {message}'):
    read_clips(videos)


def test_missing_weights_are_named(tmp_path: Path):
  path = tmp_path / 'none.safetensors'
  with pytest.raises(FileNotFoundError, match=f'no weights at {path}; .*vdm_jax.evaluation.digits.digit_training'):
    load_weights(path)


def test_saved_weights_are_loaded_bit_for_bit(tmp_path: Path):
  shipped = load_weights(WEIGHTS_PATH)
  assert isinstance(shipped, Weights)
  save_weights(tmp_path / 'copy.safetensors', shipped, accuracy())
  assert (tmp_path / 'copy.safetensors').read_bytes() == WEIGHTS_PATH.read_bytes()
  assert WEIGHTS_PATH.stat().st_size < 300_000
