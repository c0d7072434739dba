"""The scene reader on clips that match and do not match their captions, and the protocol `scenes`."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vdm_jax import configuration, data
from vdm_jax.data.sources.digits import COLORS, DIRECTIONS, MOTIONS, Phrase, parse_caption, withheld
from vdm_jax.evaluation import evaluate_scenes
from vdm_jax.evaluation.digits import scene_protocol, scene_training
from vdm_jax.evaluation.digits.scene_reader import (
  INKS,
  accuracy,
  clip_features,
  glyph_features,
  read_scenes,
  score,
  unmixed,
)
from vdm_jax.evaluation.digits.scene_training import calibrated, clips, measure, render, train
from vdm_jax.video import to_float, to_uint8


@pytest.fixture(scope='module')
def shown():
  return clips('test', 60, 16, seed=5)


def shares(videos, captions):
  return {name: right.mean() for name, right in score(read_scenes(videos), captions).items()}


def test_clips_match_their_captions(shown):
  assert min(shares(*shown).values()) > 0.9


def test_the_recorded_accuracy_is_high():
  record = accuracy()
  for side in (16, 64):
    assert record[f'digit_{side}'] > 0.97 and record[f'absent_{side}'] > 0.97
    assert min(record[f'{name}_{side}'] for name in ('color', 'direction', 'motion')) > 0.99


@pytest.mark.parametrize(
  ('change', 'wrong'),
  [
    (lambda p: p._replace(digit=(p.digit + 1) % 10), 'digit'),
    (lambda p: p._replace(direction=DIRECTIONS[DIRECTIONS.index(p.direction) - 1]), 'direction'),
    (lambda p: p._replace(motion=MOTIONS[MOTIONS.index(p.motion) - 1]), 'motion'),
  ],
  ids=['digit', 'direction', 'motion'],
)
def test_only_the_wrong_part_of_a_caption_is_wrong(shown, change, wrong):
  videos, captions = shown
  found = shares(videos, [tuple(map(change, phrases)) for phrases in captions])
  assert found[wrong] < 0.05 and found['phrase'] < 0.05 and found['clip'] == 0
  others = {'color', 'digit', 'direction', 'motion'} - {wrong}
  assert min(found[name] for name in others) > 0.9


def test_an_absent_color_makes_the_phrase_wrong(shown):
  videos, captions = shown
  absent = [
    tuple(p._replace(color=next(c for c in COLORS if c not in {q.color for q in phrases})) for p in phrases)
    for phrases in captions
  ]
  found = shares(videos, absent)
  assert found['color'] < 0.1 and max(found.values()) < 0.1


def test_swapped_colors_are_read_as_swapped_digits(shown):
  videos, captions = shown
  swapped = [(a._replace(color=b.color), b._replace(color=a.color)) for a, b in captions]
  different = np.array([a.digit != b.digit for a, b in captions])
  assert shares(videos[different], [c for c, keep in zip(swapped, different, strict=True) if keep])['digit'] < 0.05


def test_large_pictures_are_read_like_small_ones():
  videos, captions = clips('test', 12, 64, seed=6)
  small = videos.reshape(12, 16, 16, 4, 16, 4, 3).mean((3, 5))
  for large, little in zip(read_scenes(videos)[-2:], read_scenes(small)[-2:], strict=True):
    np.testing.assert_allclose(large, little, atol=2e-4)


def test_frozen_and_reversed_clips_do_not_move_as_captioned(shown):
  videos, captions = shown
  frozen = np.repeat(videos[:, :1], 16, axis=1)
  reading = read_scenes(frozen)
  there = reading.present > 0.5
  assert (reading.direction[there] == -1).mean() > 0.95
  assert ((reading.motion == -1) == (reading.direction == -1)).all()
  straight = np.array([all(p.motion != 'bouncing' for p in phrases) for phrases in captions])
  kept = [phrases for phrases, keep in zip(captions, straight, strict=True) if keep]
  assert shares(videos[straight, ::-1], kept)['direction'] < 0.05


def test_an_ink_explains_its_own_pixels_only():
  for name, ink in INKS.items():
    amount, rest = unmixed(0.7 * ink, ink)
    np.testing.assert_allclose([amount, rest], [0.7, 0], atol=1e-6)
    for other, its_ink in INKS.items():
      if other != name:
        assert unmixed(its_ink, ink)[1] > 0.15, (name, other)


def test_training_pictures_have_the_queried_glyph_at_its_center():
  """In the clean half, a queried color that is present has all of its ink in its box."""
  ink = np.ones((64, 2, 8, 8), np.float32)
  frames, queried, center = map(np.asarray, jax.jit(render)(jax.random.key(0), ink))
  assert set(queried) == {0, 1, 2} and np.abs(frames).max() <= 1
  for frame, which, middle in zip(frames[:32], queried[:32], center[:32], strict=True):
    amount = (frame[..., 0] + 1) / 2
    if which == 2:
      assert not ((amount > 0.9) & (frame[..., 1] < -0.9)).any()
      continue
    y, x = np.ceil(middle[which] - 3.5).astype(int)
    assert amount[y : y + 7, x : x + 7].min() > 0.99


def test_training_the_reader_is_deterministic_and_learns(monkeypatch):
  monkeypatch.setattr(scene_training, 'BATCH_SIZE', 64)
  monkeypatch.setattr(scene_training, 'NUM_CLIPS', 100)
  one, two = train(30, seed=3), train(30, seed=3)
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert measure(calibrated(one), 40)['color_16'] > 0.7


def test_bad_clips_and_captions_are_refused(shown):
  videos, captions = shown
  with pytest.raises(ValueError, match=r'^scene reader: videos have shape \(60, 16, 16, 16, 1\)'):
    read_scenes(videos[..., :1])
  with pytest.raises(ValueError, match='^scene reader: videos are uint8'):
    read_scenes(to_uint8(videos))
  with pytest.raises(ValueError, match='^scene reader: a caption has no color'):
    score(read_scenes(videos[:1]), [[Phrase(3, 'left')]])


@pytest.fixture(scope='module')
def section():
  config = configuration.default().data
  config.update(name='digits', num_frames=16, height=16, width=16, channels=3)
  config.digits.update(num_digits=2, colors=True, motions=True, withhold=True)
  return config


@pytest.fixture
def small(monkeypatch):
  monkeypatch.setattr(scene_protocol, 'CAPTIONS', 12)
  monkeypatch.setattr(scene_protocol, 'TRAINING_CLIPS', 200)


def test_half_of_the_prompts_have_a_withheld_phrase(section, small):
  prompts = []

  def generate(requested):
    prompts.extend(requested)
    return np.zeros((len(requested), 16, 16, 16, 3), np.float32)

  record = evaluate_scenes(generate, section, num_trained=200)
  assert len(prompts) == record['num_videos'] == 48 and prompts[:24] == prompts[24:] and len(set(prompts)) == 24
  unseen = [any(map(withheld, parse_caption(prompt))) for prompt in prompts[:24]]
  assert unseen == [False] * 12 + [True] * 12
  model = record['rows']['model']
  assert model['seen']['clip']['value'] == 0 and model['motion']['dynamic_images']
  assert record['metrics']['clip']['unseen'] == model['unseen']['clip']


def test_real_clips_are_correct_and_new_and_the_null_model_is_neither(section, small):
  """The null model copies training clips, few of which match its prompts."""
  source = data.Digits(split='test', seed=9, num_frames=16, channels=3, num_digits=2, colors=True, motions=True)
  clips = to_float(np.stack([source[i].video for i in range(48)]))
  record = evaluate_scenes(lambda prompts: clips, section, seed=4, num_trained=300)
  rows = record['rows']
  for kind in ('seen', 'unseen'):
    assert rows['real'][kind]['clip']['value'] > 0.8
    assert 0.1 < rows['null'][kind]['digit']['value'] < 0.9 and rows['null'][kind]['clip']['value'] < 0.3
    assert rows['null'][kind]['color']['value'] > 0.5  # chance: 0.33
    assert rows['model'][kind]['digit']['value'] < 0.4  # clips of other captions
  assert record['null_clips'] == 300 and rows['null']['memorisation']['clips']['share_near'] == 1
  assert rows['null']['memorisation']['clips']['samples'] < 1e-3
  assert rows['real']['memorisation']['clips']['share_near'] < 0.3
  assert 0.8 < rows['real']['motion']['ratio'] < 1.2
  assert rows['real']['frechet'] < rows['null']['frechet'] * 2


def test_the_best_match_has_most_phrases_then_most_parts_in_any_order():
  wanted = parse_caption('a red 3 moving left slowly and a blue 7 bouncing up')
  others = [
    parse_caption(caption)
    for caption in (
      'a red 3 moving left quickly and a green 7 bouncing up',  # color, digit, direction
      'a blue 7 bouncing up and a green 1 moving down slowly',  # a phrase, named the other way round
      'a red 7 bouncing up and a blue 3 moving left slowly',  # the colors are exchanged
      'a blue 7 bouncing up and a red 4 moving left slowly',  # a phrase, and all but the digit of the other
    )
  ]
  assert scene_protocol.best_matches([wanted], others).tolist() == [[3, 1]]


def test_standard_errors_are_over_captions_not_over_videos(section, small):
  """If one of two videos of every caption is correct, there is no spread."""

  def generate(prompts):
    source = data.Digits(split='test', seed=2, num_frames=16, channels=3, num_digits=2, colors=True, motions=True)
    videos = [source.showing(parse_caption(prompt), i).video for i, prompt in enumerate(prompts)]
    return np.concatenate([to_float(np.stack(videos[:24])), np.full((24, 16, 16, 16, 3), -1, np.float32)])

  found = evaluate_scenes(generate, section, num_trained=100)['metrics']['color']
  assert found['seen'] == {'value': 0.5, 'spread': 0.0} == found['unseen']


def test_models_of_other_clips_are_refused(section):
  with pytest.raises(ValueError, match="^the protocol 'scenes' .*data.digits.num_digits=2"):
    evaluate_scenes(None, configuration.default().data)
  changed = section.copy_and_resolve_references()
  changed.digits.random_start = True
  with pytest.raises(ValueError, match="^the protocol 'scenes' .*data.digits.random_start=False"):
    evaluate_scenes(None, changed)


def test_clips_of_different_glyphs_have_different_features(shown):
  reading = read_scenes(shown[0])
  features = clip_features(reading)
  assert features.shape == (60, 2 * (3 + 48 + 6)) and len(np.unique(features, axis=0)) == 60
  there = (reading.present > 0.5).sum()
  assert 115 < there < 125 and glyph_features(reading).shape == (there, 48)


def test_an_empty_clip_has_no_digit_but_has_features():
  reading = read_scenes(-np.ones((3, 8, 16, 16, 3), np.float32))
  assert reading.present.max() < 0.5
  assert not clip_features(reading).any() and len(glyph_features(reading)) >= 3
