"""Captioned moving digits: real handwriting (UCI digits, shipped inside scikit-learn), nothing to download.

The plain mode shows one digit crossing the middle of the picture, so that the caption explains most of the
pixels and a small model learns it on a CPU in minutes. Each flag of `Digits` makes it harder.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from vdm_jax.data.clip import Clip
from vdm_jax.data.transforms import window_start

DIRECTIONS = ('left', 'right', 'up', 'down')
COLORS = {
  'red': (255, 40, 40),
  'green': (40, 225, 40),
  'blue': (60, 80, 255),
  'yellow': (250, 230, 30),
  'magenta': (250, 40, 230),
  'cyan': (30, 230, 240),
}
SPLITS = ('train', 'test')
FRAME_RATE = 8.0
HELD_OUT_EVERY = 6  # every sixth glyph of each digit belongs to the test split
MIN_SIDE = 16  # glyphs of half of it keep the 8x8 pixels of the handwriting
MIN_BOUNCE_FRAMES = 4  # with fewer, one of the two legs of a bounce would not be seen
TRAVEL = (0.4, 0.8)  # the two random speeds: share of the free way covered in one clip
BOUNCE_TRAVEL = (1.25, 1.75)  # more than the whole way, so that the wall is always met


@functools.cache
def glyphs(split: str) -> tuple[np.ndarray, np.ndarray]:
  """The handwriting of one split: uint8 [n 8 8] images (ink is 255) and their int64 [n] digits.

  Train and test have no image in common: every sixth image of each digit is held out, whatever the seed.
  """
  from sklearn.datasets import load_digits  # imported here: it takes seconds

  data = load_digits()
  rank = np.zeros(len(data.target), np.int64)  # how many earlier images show the same digit
  for digit in range(10):
    members = data.target == digit
    rank[members] = np.arange(members.sum())
  held_out = rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
  chosen = held_out if split == 'test' else ~held_out
  return np.round(data.images[chosen] * (255 / 16)).astype(np.uint8), data.target[chosen]


@functools.cache
def _by_digit(split: str, size: int) -> tuple[np.ndarray, ...]:
  """Entry d holds the glyphs of digit d, enlarged to `size` by repeating pixels."""
  images, digits = glyphs(split)
  nearest = np.arange(size) * 8 // size
  enlarged = images[:, nearest][:, :, nearest]
  return tuple(enlarged[digits == digit] for digit in range(10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
  """Endless moving digits by random access; element i is a pure function of (seed, split, i).

  Plain captions read `a 3 moving left`: one digit, half as large as the smaller side, crosses the middle at
  constant speed and never leaves the frame. `random_start` draws lane, start and one of two speeds. `bounce`
  turns round at the wall (`a bouncing 3 moving left`: left at first). `colors` tints the ink (`a red 3 moving
  left`) and needs three channels. `num_digits=2` shows two, joined by `and`; the first one named has the
  upper or left lane unless `random_start`.

  The label of a one-digit clip is digit * 4 + direction (left, right, up, down). Raises ValueError on
  arguments that cannot be shown.
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

  def __post_init__(self):
    if self.split not in SPLITS:
      raise ValueError(f"digits: split is {self.split!r}; use 'train' or 'test'.")
    if self.seed < 0:
      raise ValueError(f'digits: seed is {self.seed}, but a seed cannot be negative; use 0 or more.')
    if self.num_digits not in (1, 2):
      raise ValueError(f'digits: num_digits is {self.num_digits}; use 1 or 2.')
    if self.num_frames < 1:
      raise ValueError(f'digits: num_frames is {self.num_frames}; use 1 or more.')
    if min(self.height, self.width) < MIN_SIDE:
      raise ValueError(
        f'digits: the size is {self.height}x{self.width}, too small to read a digit; '
        f'use sides of {MIN_SIDE} or more.'
      )
    if self.channels not in (1, 3):
      raise ValueError(f'digits: channels is {self.channels}; use 1 (grey) or 3 (RGB).')
    if self.colors and self.channels != 3:
      raise ValueError(
        f'digits: colors needs 3 channels, but channels is {self.channels}; set channels=3 or colors=False.'
      )
    if self.bounce and self.num_frames < MIN_BOUNCE_FRAMES:
      raise ValueError(
        f'digits: bounce cannot be seen in {self.num_frames} frames; '
        f'use num_frames={MIN_BOUNCE_FRAMES} or more, or bounce=False.'
      )

  def __len__(self) -> int:
    return 2**20

  @property
  def num_classes(self) -> int | None:
    """Number of labels, None when two digits are shown and there is no label."""
    return 40 if self.num_digits == 1 else None

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words that captions of this mode can contain, sorted."""
    words = {'a', 'moving', *map(str, range(10)), *DIRECTIONS}
    words |= {'bouncing'} if self.bounce else set()
    words |= set(COLORS) if self.colors else set()
    words |= {'and'} if self.num_digits == 2 else set()
    return tuple(sorted(words))

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of this mode, the same in both splits, sorted."""
    colors = COLORS if self.colors else (None,)
    phrases = [self._phrase(*choice) for choice in itertools.product(range(10), DIRECTIONS, colors)]
    return tuple(sorted(' and '.join(chosen) for chosen in itertools.product(phrases, repeat=self.num_digits)))

  def __getitem__(self, index: int) -> Clip:
    if not 0 <= index < len(self):
      raise IndexError(f'digits: index {index} is outside of 0 ... {len(self) - 1}.')
    return self._render(index, 0, self.num_frames)

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """`num_frames` frames of clip `index`, each `frame_skip` after the one before, from a random start,
    or from the first frame without a generator."""
    start = window_start(self.num_frames, num_frames, frame_skip, rng)
    return self._render(index, start, num_frames, frame_skip)

  def _render(self, index: int, start: int, num_frames: int, frame_skip: int = 1) -> Clip:
    rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
    video = np.zeros((num_frames, self.height, self.width, self.channels), np.uint8)
    phrases, path = [], None
    for position in range(self.num_digits):
      digit, direction = int(rng.integers(10)), int(rng.integers(4))
      color = list(COLORS)[rng.integers(len(COLORS))] if self.colors else None
      same_digit = _by_digit(self.split, self._size)[digit]
      glyph = _tint(same_digit[rng.integers(len(same_digit))], color, self.channels)
      path = self._path(direction, position, rng, other=path)
      for frame, (y, x) in zip(video, path[start::frame_skip][:num_frames], strict=True):
        window = frame[y : y + self._size, x : x + self._size]
        np.maximum(window, glyph, out=window)
      phrases.append(self._phrase(digit, DIRECTIONS[direction], color))
    label = digit * 4 + direction if self.num_digits == 1 else None
    return Clip(video, ' and '.join(phrases), label, FRAME_RATE / frame_skip, (self.height, self.width))

  @property
  def _size(self) -> int:
    return min(self.height, self.width) // 2

  def _phrase(self, digit: int, direction: str, color: str | None) -> str:
    words = ['a', 'bouncing' if self.bounce else None, color, str(digit), 'moving', direction]
    return ' '.join(word for word in words if word)

  def _path(self, direction: int, position: int, rng, other: np.ndarray | None) -> np.ndarray:
    """Corner [t 2] (y, x) of a digit's box in each frame; a random path is redrawn while it hides `other`."""
    while True:
      path = self._draw_path(direction, position, rng)
      if other is None or not self.random_start or _overlap(path, other, self._size) <= 0.5:
        return path

  def _draw_path(self, direction: int, position: int, rng) -> np.ndarray:
    free_y, free_x = self.height - self._size, self.width - self._size
    horizontal = DIRECTIONS[direction] in ('left', 'right')
    along, across = (free_x, free_y) if horizontal else (free_y, free_x)
    if self.random_start:
      lane = int(rng.integers(across + 1))
      share = (BOUNCE_TRAVEL if self.bounce else TRAVEL)[rng.integers(2)]
      # A bounce starts in the first half of the way, so that its first leg is seen.
      start, travel = rng.uniform(0, along / 2 if self.bounce else along * (1 - share)), along * share
    else:
      lane = across // 2 if self.num_digits == 1 else position * across
      start, travel = 0.0, along * (2 if self.bounce else 1)
    # One division last: exact for whole numbers, so that floor is safe.
    moved = start + travel * (2 * np.arange(self.num_frames) + 1) / (2 * self.num_frames)
    folded = along - np.abs(along - moved % (2 * along))
    backwards = DIRECTIONS[direction] in ('left', 'up')
    offsets = np.floor(along - folded if backwards else folded).astype(np.int64)
    lanes = np.full_like(offsets, lane)
    return np.stack((lanes, offsets) if horizontal else (offsets, lanes), axis=1)


def _tint(glyph: np.ndarray, color: str | None, channels: int) -> np.ndarray:
  """uint8 [h w] -> uint8 [h w channels]; without a colour all channels are equal."""
  if color is None:
    return np.repeat(glyph[..., None], channels, axis=-1)
  return np.round(glyph[..., None] * (np.array(COLORS[color]) / 255)).astype(np.uint8)


def _overlap(path: np.ndarray, other: np.ndarray, size: int) -> float:
  """Mean share of a digit's box that the other's covers."""
  sides = np.maximum(0, size - np.abs(path - other))
  return float(sides.prod(axis=1).mean()) / size**2
