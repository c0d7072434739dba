"""Several data sets as one, each with its share of the stream."""

from __future__ import annotations

import fractions
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data.sources.contract import Clip

_SPEC = re.compile(r'(?P<name>\w+):(?P<path>.+?)(@(?P<frame_rate>[^@=/]*))?(=(?P<weight>[^=/]*(/\d+)?))?')
FORM = "'folder:PATH=WEIGHT', or 'array:PATH@FRAMERATE=WEIGHT' where clips do not tell their frame rate"


class Part(NamedTuple):
  """One data set of a mixture."""

  name: str  # as data.name
  path: str
  frame_rate: float | None  # of clips that do not tell theirs; None: that of the configuration
  weight: fractions.Fraction


def parse(key: str, specs: Sequence[str], names: Sequence[str]) -> list[Part]:
  """The data sets that `specs` list, each as `FORM` says; without a weight it is 1.

  `key` is the setting, for messages, and `names` are the kinds of data that can be mixed. Raises ValueError naming the
  entry that is none, has a weight that is not positive, or names a data set twice.
  """
  parts: list[Part] = []
  for spec in specs:
    match = _SPEC.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
      raise ValueError(f'{key}: {spec!r} is not {FORM}.')
    if match['name'] == 'mixture':
      raise ValueError(f'{key}: {spec!r} is a mixture in a mixture; list its data sets one by one.')
    if match['name'] not in names:
      raise ValueError(f'{key}: {spec!r} is of none of the kinds that can be mixed, {", ".join(names)}.')
    rate = None if match['frame_rate'] is None else _positive(match['frame_rate'], f'{key}: {spec!r}: the frame rate')
    weight = _positive(match['weight'] if match['weight'] is not None else '1', f'{key}: {spec!r}: the weight')
    if any((part.name, part.path) == (match['name'], match['path']) for part in parts):
      twice = f'{match["name"]}:{match["path"]}'
      raise ValueError(f'{key}: {twice} is listed twice; list it once, with both weights added.')
    parts.append(Part(match['name'], match['path'], None if rate is None else float(rate), weight))
  return parts


class Mixture:
  """Sources one after another as one, with the weights by which a stream takes from them.

  `parts` are sources, `weights` numbers of which the ratios count. Clip i of a part stands after all clips of the parts
  before.
  """

  def __init__(self, parts: Sequence[Any], weights: Sequence[fractions.Fraction]):
    self.parts, self.weights = tuple(parts), whole(weights)
    self._ends = list(itertools.accumulate(len(part) for part in self.parts))

  def __len__(self) -> int:
    return self._ends[-1]

  @property
  def num_classes(self) -> int | None:
    """That of all parts. Raises ValueError where their labels do not mean the same."""
    return agreed_classes(self.parts)

  @property
  def vocabulary(self) -> tuple[str, ...]:
    """All words of the captions of all parts, sorted."""
    return union(part.vocabulary for part in self.parts)

  @property
  def captions(self) -> tuple[str, ...]:
    """All captions of all parts, each once, sorted."""
    return union(part.captions for part in self.parts)

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """As the part does whose clip it is."""
    which, clips = self.part_of(index)
    return self.parts[which].read(index - clips.start, rng, num_frames, frame_skip)

  def part_of(self, index: int) -> tuple[int, range]:
    """The part that a clip belongs to, and the clips of that part."""
    which = int(np.searchsorted(self._ends, index, side='right'))
    return which, range(self._ends[which] - len(self.parts[which]), self._ends[which])

  def clip(self, which: int, place: int) -> int:
    """The number here of clip `place` of a part."""
    return self._ends[which] - len(self.parts[which]) + place

  def draw(self, rng: np.random.Generator) -> int:
    """A random clip: the part by its weight, and any clip of it alike."""
    edges = np.cumsum(np.array(self.weights, float))
    which = int(np.searchsorted(edges / edges[-1], rng.random(), side='right'))
    return self.clip(which, int(rng.integers(len(self.parts[which]))))

  def first(self, count: int) -> list[int]:
    """So many different clips, or all there are, of each part its share as far as it has them."""
    taken = dict.fromkeys(
      self.clip(which, number)
      for which, number in (choose(position, self.weights) for position in range(count))
      if number < len(self.parts[which])
    )
    return [*taken, *(index for index in range(len(self)) if index not in taken)][:count]


def choose(position: int, weights: Sequence[int]) -> tuple[int, int]:
  """Which part an element of the stream is taken from, and how many were taken from this part before.

  Of every sum(weights) elements from the start a part has its weight exactly, and of any n elements n times its share,
  give or take 2 for each other part. Where the pattern begins moves from one such
  period to the next, so that micro-batches, which take every k-th element, see all parts whatever k is.
  """
  length = sum(weights)
  period, place = divmod(position, length)
  begin = beginning(period, length)
  which, before = _choose((place + begin) % length, weights)
  skipped = _count(begin, which, weights)
  earlier = before - skipped if place + begin < length else before + weights[which] - skipped
  return which, period * weights[which] + earlier


def beginning(period: int, length: int) -> int:
  """Where the pattern of a period of `length` elements begins: it moves from period to period by the golden ratio."""
  return period * 0x9E3779B9 % 2**32 * length >> 32


def whole(weights: Sequence[fractions.Fraction]) -> tuple[int, ...]:
  """The smallest whole numbers of the same ratios."""
  common = math.lcm(*(weight.denominator for weight in weights))
  numbers = [int(weight * common) for weight in weights]
  return tuple(number // math.gcd(*numbers) for number in numbers)


def union(several: Any) -> tuple[str, ...]:
  """All words of several lists, each once, sorted."""
  return tuple(sorted(set().union(*several)))


def agreed_classes(sources: Sequence[Any]) -> int | None:
  """The number of classes of all sources, None if they have no labels.

  Raises ValueError if their numbers differ, or the names of their classes where these are known.
  """
  first, *others = sources
  for other in others:
    names = [getattr(source, 'class_names', None) for source in (first, other)]
    if first.num_classes != other.num_classes or (None not in names and names[0] != names[1]):
      raise ValueError(
        f'data.labels=True, but {_classes(first)} and {_classes(other)}; a label must mean the same in all data that '
        'are mixed: give all the same classes, or set data.labels=False.'
      )
  return first.num_classes


def _classes(source: Any) -> str:
  names = getattr(source, 'class_names', None)
  listed = f' ({", ".join(names[:3])}, ...)' if names else ''
  return f'{getattr(source, "path", "digits")} has {source.num_classes or "no"} classes{listed}'


def _positive(text: str, what: str) -> fractions.Fraction:
  try:
    value = fractions.Fraction(text)
  except (ValueError, ZeroDivisionError):
    value = fractions.Fraction(0)
  if value <= 0:
    raise ValueError(f'{what} is {text!r}, but it must be a positive number, such as 0.5.')
  return value


def _count(length: int, which: int, weights: Sequence[int]) -> int:
  """How many of the first `length` elements are of a part, before the pattern is moved."""
  rest, left = sum(weights), length
  for number, weight in enumerate(weights):
    after = left * (rest - weight) // rest if rest else 0
    if number == which:
      return left - after
    left, rest = after, rest - weight
  raise IndexError(which)


def _choose(place: int, weights: Sequence[int]) -> tuple[int, int]:
  """The part of one element before the pattern is moved, and how many of this part are before it."""
  for which in range(len(weights)):
    before = _count(place, which, weights)
    if _count(place + 1, which, weights) > before:
      return which, before
  raise IndexError(place)
