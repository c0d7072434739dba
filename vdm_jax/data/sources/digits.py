"""Captioned moving digits: real handwriting (UCI's optical digits, in `uci_digits.npz`), nothing to download.

The plain mode shows one digit that crosses the middle of the frame, so that the caption explains most of the pixels
and a small model learns it on a CPU in minutes. Each flag of `Digits` makes it harder.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.data.sources.contract import SPLITS, Clip
from vdm_jax.video.transforms import window_start

DIRECTIONS = ('left', 'right', 'up', 'down')
COLORS = {
  'red': (255, 40, 40),
  'green': (40, 225, 40),
  'blue': (60, 80, 255),
  'yellow': (250, 230, 30),
  'magenta': (250, 40, 230),
  'cyan': (30, 230, 240),
}
FRAME_RATE = 8.0
HELD_OUT_EVERY = 6  # every sixth glyph of each digit belongs to the test split
# 1,797 images of 8x8 pixels by 43 writers: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
# Learning Repository, 1998, test set; CC BY 4.0.
HANDWRITING = Path(__file__).with_name('uci_digits.npz')
MIN_SIDE = 16  # pixels; glyphs of half that size keep the 8x8 pixels of the handwriting
MIN_BOUNCE_FRAMES = 4  # with fewer, one of the two directions of a bounce might not be visible
TRAVEL = (0.4, 0.8)  # the two random speeds: fraction of the free distance covered in one clip
BOUNCE_TRAVEL = (1.25, 1.75)  # more than the free distance, so that the digit always reaches the wall
MOTIONS = ('slowly', 'quickly', 'bouncing')  # as in captions; the first two are the speeds of TRAVEL
WITHHELD = 5  # one in this many combinations is withheld from training


class Phrase(NamedTuple):
  """The caption of one digit of a clip; None for properties that captions leave out."""

  digit: int
  direction: str
  color: str | None = None
  motion: str | None = None


_PHRASE = re.compile(
  rf'a (?:bouncing )?(?:(?P<color>{"|".join(COLORS)}) )?(?P<digit>[0-9]) '
  rf'(?P<verb>moving|bouncing) (?P<direction>{"|".join(DIRECTIONS)})(?: (?P<how>slowly|quickly))?'
)


def parse_caption(caption: str) -> tuple[Phrase, ...]:
  """Return the phrases of a caption of `Digits`, in its order.

  Raises:
    ValueError: the text is not such a caption.

  >>> parse_caption('a 3 moving left')
  (Phrase(digit=3, direction='left', color=None, motion=None),)
  """
  phrases = []
  for part in caption.split(' and '):
    if (found := _PHRASE.fullmatch(part)) is None:
      raise ValueError(
        f'digits: {part!r} in the caption {caption!r} is not a valid phrase; write a caption such as '
        "'a red 3 moving left slowly and a blue 7 bouncing up'."
      )
    motion = 'bouncing' if found['verb'] == 'bouncing' else found['how']
    phrases.append(Phrase(int(found['digit']), found['direction'], found['color'], motion))
  return tuple(phrases)


def withheld(phrase: Phrase) -> bool:
  """Return whether a combination is one of the fifth that `Digits(withhold=True)` withholds from training.

  With colors or motions, every pair of properties still occurs in training, such as each digit in every direction.
  """
  color = list(COLORS).index(phrase.color) if phrase.color else 0
  motion = MOTIONS.index(phrase.motion) if phrase.motion else 0
  return (phrase.digit + DIRECTIONS.index(phrase.direction) + color + motion) % WITHHELD == 0


def _distinct(phrases: Sequence[Phrase]) -> bool:
  """Return whether the digits have different colors, if they have colors."""
  colors = [phrase.color for phrase in phrases if phrase.color]
  return len(set(colors)) == len(colors)


@functools.cache
def glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Return the handwriting of one split: uint8 `[n 8 8]` images (ink is 255) and their int64 `[n]` digits.

  The splits have no image in common: every sixth image of each digit is held out, independently of any seed.
  """
  with np.load(HANDWRITING) as data:
    images, digits = data['images'], data['digits'].astype(np.int64)  # ink from 0 to 16
  rank = np.zeros(len(digits), np.int64)  # number of earlier images of the same digit
  for digit in range(10):
    members = digits == digit
    rank[members] = np.arange(members.sum())
  held_out = rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
  chosen = held_out if split == 'test' else ~held_out
  return np.round(images[chosen] * (255 / 16)).astype(np.uint8), digits[chosen]


@functools.cache
def _by_digit(split: str, size: int) -> tuple[np.ndarray, ...]:
  """Return the glyphs of each digit, enlarged to `size` pixels per side by repeating pixels."""
  images, digits = glyphs(split)
  nearest = np.arange(size) * 8 // size
  enlarged = images[:, nearest][:, :, nearest]
  return tuple(enlarged[digits == digit] for digit in range(10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
  """Endless moving digits by random access; element i is a pure function of (seed, split, i). See `contract.Clips`.

  Plain captions read `a 3 moving left`: one digit, half as large as the smaller side, crosses the middle at constant
  speed and never leaves the frame. The label of a one-digit clip is digit * 4 + direction (left, right, up, down).

  Args:
    split: 'train' or 'test'; the splits share no handwriting.
    seed: 0 or more.
    num_frames: frames of a clip.
    height: pixels, 16 or more.
    width: pixels, 16 or more.
    channels: 1 or 3.
    num_digits: 1 or 2. Captions of two are joined by `and`. They never have the same color; the first one named has
      the upper or left lane unless `random_start`.
    random_start: draw lane, start and one of two speeds.
    bounce: turn around at the wall (`a bouncing 3 moving left`: first left).
    colors: tint the ink (`a red 3 moving left`); needs 3 channels.
    motions: each digit moves in one of three ways, and captions say which: `a 3 moving left slowly`,
      `a 3 moving left quickly`, `a 3 bouncing left`.
    withhold: keep the combinations that `withheld` names, a fifth, out of the train split.

  Raises:
    ValueError: the arguments cannot be rendered.
  """

  split: str
  seed: int
  num_frames: int = 8
  height: int = 16
  width: int = 16
  channels: int = 1
  num_digits: int = 1
  random_start: bool = False
  bounce: bool = False
  colors: bool = False
  motions: bool = False
  withhold: bool = False

  def __post_init__(self):
    if self.split not in SPLITS:
      raise ValueError(f"digits: split={self.split!r} is not a valid split; use 'train' or 'test'.")
    if self.seed < 0:
      raise ValueError(f'digits: seed={self.seed} is negative; use 0 or more.')
    if self.num_digits not in (1, 2):
      raise ValueError(f'digits: num_digits={self.num_digits} is not supported; use 1 or 2.')
    if self.num_frames < 1:
      raise ValueError(f'digits: num_frames={self.num_frames} must be positive; use 1 or more.')
    if min(self.height, self.width) < MIN_SIDE:
      raise ValueError(
        f'digits: {self.height}x{self.width} pixels are too small for legible digits; use sides of {MIN_SIDE} or more.'
      )
    if self.channels not in (1, 3):
      raise ValueError(f'digits: channels={self.channels} is not supported; use 1 (gray) or 3 (RGB).')
    if self.colors and self.channels != 3:
      raise ValueError(
        f'digits: colors=True needs 3 channels, but channels={self.channels}; set channels=3 or colors=False.'
      )
    if self.bounce and self.motions:
      raise ValueError('digits: bounce and motions are both set, but bouncing is one of the motions; unset bounce.')
    if (self.bounce or self.motions) and self.num_frames < MIN_BOUNCE_FRAMES:
      raise ValueError(
        f'digits: num_frames={self.num_frames} is too short to show a bounce; '
        f'use {MIN_BOUNCE_FRAMES} or more, or bounce=False and motions=False.'
      )

  def __len__(self) -> int:
    return 2**20

  @property
  def num_classes(self) -> int | None:
    """Number of labels; None for two digits, which have no label."""
    return 40 if self.num_digits == 1 else None

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words that captions with these settings can contain, sorted."""
    words = {'a', 'moving', *map(str, range(10)), *DIRECTIONS}
    words |= {'bouncing'} if self.bounce else set()
    words |= set(MOTIONS) if self.motions else set()
    words |= set(COLORS) if self.colors else set()
    words |= {'and'} if self.num_digits == 2 else set()
    return tuple(sorted(words))

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions with these settings, the same in both splits, sorted."""
    motions, colors = MOTIONS if self.motions else (None,), COLORS if self.colors else (None,)
    choices = [Phrase(*choice) for choice in itertools.product(range(10), DIRECTIONS, colors, motions)]
    chosen = itertools.product(choices, repeat=self.num_digits)
    return tuple(sorted(' and '.join(map(self._caption, phrases)) for phrases in chosen if _distinct(phrases)))

  def __getitem__(self, index: int) -> Clip:
    if not 0 <= index < len(self):
      raise IndexError(f'digits: index {index} is out of range; use 0 to {len(self) - 1}.')
    return self._render(index, 0, self.num_frames)

  def showing(self, phrases: Sequence[Phrase], index: int) -> Clip:
    """Return a clip of these phrases, withheld or not; `index` chooses the handwriting of this split.

    Raises ValueError if the number of phrases is not that of the digits in a clip.
    """
    if len(phrases) != self.num_digits:
      raise ValueError(f'digits: {len(phrases)} phrases, but num_digits={self.num_digits}; pass one for each digit.')
    return self._render(index, 0, self.num_frames, phrases=phrases)

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """Return `num_frames` frames of a clip, each `frame_skip` after the previous one.

    They begin at a random frame, or at the first one if `rng` is None.
    """
    start = window_start(self.num_frames, num_frames, frame_skip, rng)
    return self._render(index, start, num_frames, frame_skip)

  def _render(
    self, index: int, start: int, num_frames: int, frame_skip: int = 1, phrases: Sequence[Phrase] = ()
  ) -> Clip:
    rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
    video = np.zeros((num_frames, self.height, self.width, self.channels), np.uint8)
    phrases, path = list(phrases), None
    for position in range(self.num_digits):
      if position == len(phrases):
        phrases.append(self._draw_phrase(phrases, rng))
      same_digit = _by_digit(self.split, self._size)[phrases[position].digit]
      glyph = _tint(same_digit[rng.integers(len(same_digit))], phrases[position].color, self.channels)
      path = self._path(phrases[position], position, rng, other=path)
      for frame, (y, x) in zip(video, path[start::frame_skip][:num_frames], strict=True):
        window = frame[y : y + self._size, x : x + self._size]
        np.maximum(window, glyph, out=window)
    caption = ' and '.join(map(self._caption, phrases))
    label = phrases[0].digit * 4 + DIRECTIONS.index(phrases[0].direction) if self.num_digits == 1 else None
    return Clip(video, caption, label, FRAME_RATE / frame_skip, (self.height, self.width))

  @property
  def _size(self) -> int:
    return min(self.height, self.width) // 2

  def path(self, phrase: Phrase, position: int = 0) -> np.ndarray:
    """Return the corner (y, x) of a digit's box in each frame, int64 `[t 2]`. Raises ValueError with `random_start`."""
    if self.random_start:
      raise ValueError('digits: random_start=True gives a phrase many paths; use random_start=False.')
    return self._draw_path(phrase, position, None)

  def _draw_phrase(self, others: Sequence[Phrase], rng) -> Phrase:
    """Draw a phrase that this split may show together with the others."""
    while True:
      digit, direction = int(rng.integers(10)), DIRECTIONS[rng.integers(4)]
      color = list(COLORS)[rng.integers(len(COLORS))] if self.colors else None
      motion = MOTIONS[rng.integers(len(MOTIONS))] if self.motions else None
      phrase = Phrase(digit, direction, color, motion)
      if _distinct([*others, phrase]) and not (self.withhold and self.split == 'train' and withheld(phrase)):
        return phrase

  def _caption(self, phrase: Phrase) -> str:
    verb, how = ('bouncing', None) if phrase.motion == 'bouncing' else ('moving', phrase.motion)
    words = ['a', 'bouncing' if self.bounce else None, phrase.color, str(phrase.digit), verb, phrase.direction, how]
    return ' '.join(word for word in words if word)

  def _path(self, phrase: Phrase, position: int, rng, other: np.ndarray | None) -> np.ndarray:
    """Return the corner (y, x) of a digit's box in each frame `[t 2]`; redraw a random path while it hides `other`."""
    while True:
      path = self._draw_path(phrase, position, rng)
      if other is None or not self.random_start or _overlap(path, other, self._size) <= 0.5:
        return path

  def _draw_path(self, phrase: Phrase, position: int, rng) -> np.ndarray:
    free_y, free_x = self.height - self._size, self.width - self._size
    horizontal = phrase.direction in ('left', 'right')
    bounces = self.bounce or phrase.motion == 'bouncing'
    along, across = (free_x, free_y) if horizontal else (free_y, free_x)
    if self.random_start:
      lane = int(rng.integers(across + 1))
      drawn = rng.integers(2)
      share = BOUNCE_TRAVEL[drawn] if bounces else TRAVEL[MOTIONS.index(phrase.motion) if self.motions else drawn]
      # A bounce starts in the first half of the distance, so that its first direction is visible.
      start, travel = rng.uniform(0, along / 2 if bounces else along * (1 - share)), along * share
    else:
      lane = across // 2 if self.num_digits == 1 else position * across
      share = 2 if bounces else TRAVEL[MOTIONS.index(phrase.motion)] if self.motions else 1
      start, travel = 0.0, along * share
    # A single division at the end: exact for integers, so that floor is safe.
    moved = start + travel * (2 * np.arange(self.num_frames) + 1) / (2 * self.num_frames)
    folded = along - np.abs(along - moved % (2 * along))
    backwards = phrase.direction in ('left', 'up')
    offsets = np.floor(along - folded if backwards else folded).astype(np.int64)
    lanes = np.full_like(offsets, lane)
    return np.stack((lanes, offsets) if horizontal else (offsets, lanes), axis=1)


def _tint(glyph: np.ndarray, color: str | None, channels: int) -> np.ndarray:
  """Color a glyph: uint8 [h w] -> uint8 [h w channels]; all channels are equal if `color` is None."""
  if color is None:
    return np.repeat(glyph[..., None], channels, axis=-1)
  return np.round(glyph[..., None] * (np.array(COLORS[color]) / 255)).astype(np.uint8)


def _overlap(path: np.ndarray, other: np.ndarray, size: int) -> float:
  """Return the mean fraction of a digit's box that the other one's covers."""
  sides = np.maximum(0, size - np.abs(path - other))
  return float(sides.prod(axis=1).mean()) / size**2
