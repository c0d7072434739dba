from __future__ import annotations

import hashlib
import itertools
import pickle
import re

import numpy as np
import pytest
from helpers.messages import raises

from vdm_jax.data import Digits
from vdm_jax.data.sources.digits import (
  COLORS,
  DIRECTIONS,
  HANDWRITING,
  MOTIONS,
  TRAVEL,
  Phrase,
  glyphs,
  parse_caption,
  withheld,
)

FLAGS = ('random_start', 'bounce', 'colors')
MODES = [
  dict(zip(FLAGS, flags, strict=True)) | {'num_digits': num_digits}
  for num_digits in (1, 2)
  for flags in itertools.product((False, True), repeat=3)
]
PHRASE = re.compile(rf'a (bouncing )?(?:({"|".join(COLORS)}) )?(\d) moving ({"|".join(DIRECTIONS)})')


def digits(split='train', seed=0, **mode):
  channels = 3 if mode.get('colors') else 1
  return Digits(**{'split': split, 'seed': seed, 'channels': channels} | mode)


def ink(split, digit, color, size, channels):
  """Return all glyphs of a digit as they should be rendered: uint8 [n size size channels]."""
  images, labels = glyphs(split)
  nearest = np.arange(size) * 8 // size
  enlarged = images[labels == digit][:, nearest][:, :, nearest][..., None]
  shade = np.array(COLORS[color]) if color else np.full(channels, 255)
  return np.rint(enlarged * (shade / 255)).astype(np.uint8)


def explanations(video, stacks):
  """Yield every way to compose the video exactly of one glyph per stack: corners [digit frame 2] of boxes."""
  size = stacks[0].shape[1]
  fits = []  # per digit: [frame glyph y x], True where the glyph can be beneath the frame
  for stack in stacks:
    windows = np.lib.stride_tricks.sliding_window_view(video, (size, size), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # [t y x size size c]
    fits.append(np.stack([(frame[None] >= stack[:, None, None]).all(axis=(3, 4, 5)) for frame in windows]))
  candidates = [np.flatnonzero(fit.any(axis=(2, 3)).all(axis=0)) for fit in fits]
  for chosen in itertools.product(*candidates):
    options = []
    for t, frame in enumerate(video):
      places = [np.argwhere(fit[t, glyph]) for fit, glyph in zip(fits, chosen, strict=True)]
      options.append(
        [place for place in itertools.product(*places) if (draw(frame, stacks, chosen, place) == frame).all()]
      )
    if all(options):
      for frames in itertools.islice(itertools.product(*options), 1000):
        yield np.array(frames).swapaxes(0, 1)  # [digit frame 2]


def draw(frame, stacks, chosen, places):
  drawn = np.zeros_like(frame)
  for stack, glyph, (y, x) in zip(stacks, chosen, places, strict=True):
    size = stack.shape[1]
    window = drawn[y : y + size, x : x + size]
    np.maximum(window, stack[glyph], out=window)
  return drawn


def moves_as_described(path, direction, bouncing):
  axis = 1 if direction in ('left', 'right') else 0
  sign = 1 if direction in ('right', 'down') else -1
  if np.ptp(path[:, 1 - axis]):
    return False
  steps = np.diff(path[:, axis]) * sign
  if not bouncing:
    return steps.min() >= 0 and steps.sum() > 0 and np.ptp(steps) <= 1  # constant speed, in whole pixels
  moving = steps[steps != 0]
  return len(moving) > 0 and moving[0] > 0 and moving.min() < 0


@pytest.mark.parametrize('mode', MODES, ids=lambda mode: '-'.join(f'{k}={v:d}' for k, v in mode.items()))
@pytest.mark.parametrize('split', ['train', 'test'])
def test_captions_describe_their_clips(mode, split):
  """Pixel by pixel, the clip consists of the digits, colors and paths that its caption names, none hidden."""
  source = digits(split, **mode)
  for i in range(4):
    clip = source[i]
    phrases = [PHRASE.fullmatch(phrase).groups() for phrase in clip.caption.split(' and ')]
    assert len(phrases) == mode['num_digits']
    assert all(bool(bouncing) == mode['bounce'] for bouncing, *_ in phrases)
    assert all((color in COLORS) == mode['colors'] for _, color, *_ in phrases)
    stacks = [ink(split, int(digit), color, 8, source.channels) for _, color, digit, _ in phrases]
    true = [
      paths
      for paths in explanations(clip.video, stacks)
      if all(
        moves_as_described(path, direction, mode['bounce'])
        for path, (*_, direction) in zip(paths, phrases, strict=True)
      )
    ]
    assert true, clip.caption
    if mode['num_digits'] == 2:
      shared = np.maximum(0, 8 - np.abs(true[0][0] - true[0][1])).prod(axis=-1) / 64
      assert shared.mean() <= 0.5


def box_path(clip):
  """Return the path of the single gray digit of 16x16 frames."""
  stack = ink('train', int(PHRASE.fullmatch(clip.caption)[3]), None, 8, 1)
  (path,) = next(explanations(clip.video, [stack]))
  return path


@pytest.mark.parametrize('num_frames', [2, 5, 8, 16])
def test_the_plain_path_is_the_formula(num_frames):
  seen = set()
  source = digits(num_frames=num_frames)
  for i in range(30):
    clip = source[i]
    direction = clip.caption.split()[-1]
    offsets = [(8 * (2 * f + 1)) // (2 * num_frames) for f in range(num_frames)]  # floor(8 / T (f + 1/2))
    if direction in ('left', 'up'):
      offsets = offsets[::-1]
    centre = [4] * num_frames
    expected = (
      zip(centre, offsets, strict=True) if direction in ('left', 'right') else zip(offsets, centre, strict=True)
    )
    assert box_path(clip).tolist() == [list(corner) for corner in expected]
    seen.add(direction)
  assert seen == set(DIRECTIONS)


def test_captions_and_labels_agree_and_are_uniform():
  source = digits()
  labels = []
  for i in range(4000):
    clip = source[i]
    digit, direction = divmod(clip.label, 4)
    assert clip.caption == f'a {digit} moving {DIRECTIONS[direction]}'
    labels.append(clip.label)
  counts = np.bincount(labels, minlength=source.num_classes)
  assert len(counts) == 40
  assert np.abs(counts - 100).max() < 45  # 4.5 standard deviations


def test_two_digits_have_no_label():
  source = digits(num_digits=2)
  assert source.num_classes is None
  assert source[0].label is None


@pytest.mark.parametrize('mode', [MODES[0], MODES[7], MODES[-1]], ids=['plain', 'hard', 'two-hard'])
def test_a_clip_is_a_function_of_seed_split_and_index(mode):
  source = digits(seed=3, **mode)
  copy = pickle.loads(pickle.dumps(digits(seed=3, **mode)))
  for i in (7, 0, 2**20 - 1, 7):
    np.testing.assert_array_equal(source[i].video, copy[np.int64(i)].video)
    assert source[i].caption == copy[i].caption
  videos = [digits(split, seed, **mode)[i].video for split in ('train', 'test') for seed in (3, 4) for i in (0, 1)]
  assert len({video.tobytes() for video in videos}) == len(videos)


def test_the_embedded_handwriting_is_the_published_set():
  """Counts of digits and a checksum of what scikit-learn's `load_digits` returns, computed with its version 1.9."""
  with np.load(HANDWRITING) as data:
    images, digits = data['images'], data['digits']
  assert np.bincount(digits).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
  assert images.shape == (1797, 8, 8) and images.max() == 16
  checksum = hashlib.sha256(images.tobytes() + digits.tobytes()).hexdigest()
  assert checksum == '87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826'


def test_train_and_test_share_no_glyph():
  (train, train_digits), (test, test_digits) = glyphs('train'), glyphs('test')
  assert (len(train), len(test)) == (1501, 296)
  train_set, test_set = ({image.tobytes() for image in images} for images in (train, test))
  assert (len(train_set), len(test_set)) == (1501, 296)
  assert not train_set & test_set
  for labels in (train_digits, test_digits):
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 0.95 * counts.mean()


@pytest.mark.parametrize('mode', MODES, ids=lambda mode: '-'.join(f'{k}={v:d}' for k, v in mode.items()))
def test_the_vocabulary_is_exactly_the_words_of_captions(mode):
  source = digits(**mode)
  words = {word for i in range(400) for word in source[i].caption.split()}
  assert source.vocabulary == tuple(sorted(words))


@pytest.mark.parametrize('mode', MODES, ids=lambda mode: '-'.join(f'{k}={v:d}' for k, v in mode.items()))
def test_every_caption_is_listed_once(mode):
  """There are as many as combinations, so no other caption is listed."""
  source = digits(**mode)
  listed = source.captions
  assert list(listed) == sorted(set(listed)) and {source[i].caption for i in range(400)} <= set(listed)
  plain, colors = 10 * 4, 6 if mode['colors'] else 1
  pairs = colors * (colors - 1) if colors > 1 else 1
  assert len(listed) == (plain * colors if mode['num_digits'] == 1 else plain**2 * pairs)
  assert {word for caption in listed for word in caption.split()} == set(source.vocabulary)


SCENES = {'num_digits': 2, 'colors': True, 'motions': True, 'withhold': True}


def test_every_clip_moves_as_its_caption_describes():
  """One digit, from its wall: two fifths of the distance, four fifths of it, or there and back."""
  source = digits(num_frames=40, motions=True, height=96, width=96)
  way, seen = 48, set()
  for i in range(60):
    clip = source[i]
    (phrase,) = parse_caption(clip.caption)
    axis = 2 if phrase.direction in ('left', 'right') else 1
    rows = clip.video.astype(float).sum(axis=(3, 3 - axis))
    centre = rows @ np.arange(96) / rows.sum(axis=1)
    moved = (centre - centre[0]) * (-1 if phrase.direction in ('left', 'up') else 1)
    seen.add((phrase.direction, phrase.motion))
    if phrase.motion == 'bouncing':
      assert moved.max() == pytest.approx(way, abs=4) and moved[-1] == pytest.approx(0, abs=2)
      assert np.argmax(moved) in range(17, 23)
    else:
      assert moved[-1] == pytest.approx(TRAVEL[MOTIONS.index(phrase.motion)] * way * 39 / 40, abs=1.5)
      assert (np.diff(moved) >= 0).all()
  assert len(seen) == 12


def test_captions_are_parsed():
  said = {
    'a 3 moving left': [Phrase(3, 'left')],
    'a bouncing red 3 moving up': [Phrase(3, 'up', 'red')],
    'a 3 bouncing right': [Phrase(3, 'right', None, 'bouncing')],
    'a cyan 9 moving down slowly and a blue 0 bouncing up': [
      Phrase(9, 'down', 'cyan', 'slowly'),
      Phrase(0, 'up', 'blue', 'bouncing'),
    ],
  }
  assert {caption: list(parse_caption(caption)) for caption in said} == said
  with raises(ValueError, "'a fish'", "'a 3 moving up and a fish'"):
    parse_caption('a 3 moving up and a fish')


def test_a_fifth_of_the_combinations_is_withheld_from_training():
  """Every pair of properties still occurs in training, so that withheld combinations can be composed of seen ones."""
  every = [Phrase(*parts) for parts in itertools.product(range(10), DIRECTIONS, COLORS, MOTIONS)]
  kept = [phrase for phrase in every if not withheld(phrase)]
  assert (len(every), len(kept)) == (720, 576)
  for a, b in itertools.combinations(range(4), 2):
    assert {(p[a], p[b]) for p in kept} == {(p[a], p[b]) for p in every}
  trained = {phrase for i in range(4000) for phrase in parse_caption(digits(**SCENES)[i].caption)}
  assert trained == set(kept)
  tested = {phrase for i in range(4000) for phrase in parse_caption(digits('test', **SCENES)[i].caption)}
  assert len(tested - trained) > 130


def test_two_digits_have_different_colors():
  for i in range(300):
    first, second = parse_caption(digits(**SCENES)[i].caption)
    assert first.color != second.color


def test_captions_of_scenes_are_many_and_can_be_parsed():
  source = digits(**SCENES)
  assert len(source.captions) == 720 * 600
  assert source.vocabulary == tuple(sorted({word for caption in source.captions[::997] for word in caption.split()}))
  assert parse_caption(source.captions[12345])


def test_gray_in_three_channels_equals_gray_in_one():
  gray, rgb = digits(), digits(channels=3)
  for i in range(5):
    np.testing.assert_array_equal(rgb[i].video, gray[i].video.repeat(3, axis=-1))


def test_large_frames_enlarge_the_same_handwriting():
  small, large = digits(), digits(height=32, width=32)
  for i in range(5):
    counts = [np.bincount(source[i].video[4].ravel(), minlength=256)[1:] for source in (small, large)]
    np.testing.assert_array_equal(4 * counts[0], counts[1])  # every pixel of ink became four


@pytest.mark.parametrize(('height', 'width'), [(16, 40), (40, 16), (33, 64)])
def test_frames_need_not_be_square(height, width):
  source = digits(height=height, width=width, num_frames=16)
  for i in range(20):
    clip = source[i]
    assert clip.video.shape == (16, height, width, 1)
    ink_per_frame = clip.video.astype(int).sum(axis=(1, 2, 3))
    assert (ink_per_frame == ink_per_frame[0]).all()  # nothing is cut off at the border


def test_read_returns_a_window_of_the_clip():
  source = digits(bounce=True, random_start=True)
  rng = np.random.default_rng(0)
  for i in range(20):
    whole = source[i]
    part = source.read(i, rng, 3)
    starts = [s for s in range(6) if (whole.video[s : s + 3] == part.video).all()]
    assert starts
    assert (part.caption, part.label) == (whole.caption, whole.label)
    np.testing.assert_array_equal(source.read(i, rng, 8).video, whole.video)


@pytest.mark.parametrize('mode', [MODES[0], MODES[-1]], ids=['plain', 'two-hard'])
@pytest.mark.parametrize('skip', [1, 2, 3])
def test_a_skip_shows_every_nth_frame(mode, skip):
  source = digits(num_frames=22, **mode)
  rng, starts = np.random.default_rng(0), set()
  for i in range(100):
    whole, part = source[i], source.read(i, rng, 8, skip)
    fits = {s for s in range(22 - 7 * skip) if (whole.video[s::skip][:8] == part.video).all()}
    assert fits
    assert (part.caption, part.label) == (whole.caption, whole.label)
    assert (whole.frame_rate, part.frame_rate) == (8.0, 8.0 / skip)
    starts |= fits
  assert starts == set(range(22 - 7 * skip))


def test_the_frame_rate_matches_the_motion():
  """Eight frames of one path have the same speed, in pixels per second, at every skip."""
  source = digits(num_frames=64, height=136, width=136)  # a way of 68 pixels, and glyphs of 68
  for i in range(6):
    for skip in (1, 2, 4, 8):
      clip = source.read(i, np.random.default_rng(0), 8, skip)
      axis = 2 if clip.caption.split()[-1] in ('left', 'right') else 1
      ink = clip.video.astype(float).sum(axis=(3, 3 - axis))  # [t position]
      centre = ink @ np.arange(136) / ink.sum(axis=1)
      moved = abs(centre[-1] - centre[0])
      seconds = 7 / clip.frame_rate
      assert moved == pytest.approx(68 / 64 * 8 * seconds, abs=1)  # whole pixels


@pytest.mark.parametrize(
  ('arguments', 'named'),
  [
    ({'split': 'valid'}, ("split='valid'", "'train'", "'test'")),
    ({'seed': -1}, ('seed=-1',)),
    ({'num_digits': 3}, ('num_digits=3',)),
    ({'num_frames': 0}, ('num_frames=0',)),
    ({'height': 8}, ('8x16', '16')),
    ({'channels': 4}, ('channels=4',)),
    ({'colors': True, 'channels': 1}, ('colors', 'channels=1')),
    ({'bounce': True, 'num_frames': 3}, ('num_frames=3', '4')),
    ({'motions': True, 'bounce': True}, ('bounce', 'motions')),
  ],
)
def test_invalid_arguments(arguments, named):
  with raises(ValueError, 'digits: ', *named):
    digits(**arguments)


def test_an_index_out_of_range():
  with raises(IndexError, '1048576', '1048575'):
    digits()[2**20]


def test_a_clip_can_be_rendered_for_a_caption():
  source = Digits(
    split='train', seed=1, num_frames=16, channels=3, num_digits=2, colors=True, motions=True, withhold=True
  )
  asked = 'a red 0 moving left slowly and a blue 7 bouncing up'
  phrases = parse_caption(asked)
  assert withheld(phrases[0]), 'withheld combinations can be rendered'
  clips = [source.showing(phrases, index) for index in range(6)]
  assert {clip.caption for clip in clips} == {asked}
  assert len({clip.video.tobytes() for clip in clips}) == 6, 'in different handwriting'
  np.testing.assert_array_equal(source.showing(phrases, 3).video, clips[3].video)
  with raises(ValueError, '1 phrases', 'num_digits=2'):
    source.showing(phrases[:1], 0)
