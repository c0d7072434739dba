"""Several data sets as one, each with its share of the stream."""

from __future__ import annotations

import fractions
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vdm_jax.data.sources.contract import Clip, Clips

_SPEC = re.compile(r'(?P<name>\w+):(?P<path>.+?)(@(?P<frame_rate>[^@=/]*))?(=(?P<weight>[^=/]*(/\d+)?))?')
FORM = "'folder:PATH=WEIGHT', or 'array:PATH@FRAMERATE=WEIGHT' for clips without a frame rate"


class Part(NamedTuple):
  """One data set of a mixture."""

  name: str  # as data.name
  path: str
  frame_rate: float | None  # frames per second of clips without a frame rate; None: that of the configuration
  weight: fractions.Fraction


def parse(key: str, specs: Sequence[str], names: Sequence[str]) -> list[Part]:
  """Parse the data sets of a mixture.

  Args:
    key: the setting, for messages, such as data.mixture.
    specs: data sets, each written as `FORM`; the default weight is 1.
    names: kinds of data that can be mixed.

  Raises:
    ValueError: an entry is not valid, has a weight that is not positive, or repeats a data set.
  """
  parts: list[Part] = []
  for spec in specs:
    match = _SPEC.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
      raise ValueError(f'{key}: {spec!r} is not a valid entry; write {FORM}.')
    if match['name'] not in names:
      raise ValueError(
        f'{key}: {spec!r} names {match["name"]!r}, which cannot be mixed; choose one of {", ".join(names)}.'
      )
    rate = None if match['frame_rate'] is None else _positive(match['frame_rate'], f'{key}: {spec!r}', 'frame rate')
    weight = _positive(match['weight'] if match['weight'] is not None else '1', f'{key}: {spec!r}', 'weight')
    if any((part.name, part.path) == (match['name'], match['path']) for part in parts):
      duplicate = f'{match["name"]}:{match["path"]}'
      raise ValueError(f'{key}: {duplicate} is listed twice; list it once, with the sum of both weights.')
    parts.append(Part(match['name'], match['path'], None if rate is None else float(rate), weight))
  return parts


class Mixture:
  """Several data sets, one after another, with the weights by which a stream takes clips from them.

  Implements `contract.Clips`. The clips of a part are numbered after all clips of the parts before it.

  Args:
    parts: the clips of each data set.
    weights: positive numbers; only their ratios matter.
  """

  def __init__(self, parts: Sequence[Clips], weights: Sequence[fractions.Fraction]):
    self.parts, self.weights = tuple(parts), integer_weights(weights)
    self._ends = list(itertools.accumulate(len(part) for part in self.parts))

  def __len__(self) -> int:
    return self._ends[-1]

  @property
  def num_classes(self) -> int | None:
    """Number of labels of all parts. Raises ValueError if their labels do not mean the same."""
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
    """Read a clip from its part."""
    which, clips = self.part_of(index)
    return self.parts[which].read(index - clips.start, rng, num_frames, frame_skip)

  def part_of(self, index: int) -> tuple[int, range]:
    """Return the number of the part that a clip belongs to, and the range of clips of that part."""
    which = int(np.searchsorted(self._ends, index, side='right'))
    return which, range(self._ends[which] - len(self.parts[which]), self._ends[which])

  def clip(self, which: int, index: int) -> int:
    """Return the number, within the mixture, of clip `index` of a part."""
    return self._ends[which] - len(self.parts[which]) + index

  def draw(self, rng: np.random.Generator) -> int:
    """Draw a part by its weight, and one of its clips uniformly."""
    edges = np.cumsum(np.array(self.weights, float))
    which = int(np.searchsorted(edges / edges[-1], rng.random(), side='right'))
    return self.clip(which, int(rng.integers(len(self.parts[which]))))

  def first(self, count: int) -> list[int]:
    """Return `count` different clips, or all if there are fewer; parts have their shares while their clips last."""
    taken = dict.fromkeys(
      self.clip(which, number)
      for which, number in (part_at(position, self.weights) for position in range(count))
      if number < len(self.parts[which])
    )
    return [*taken, *(index for index in range(len(self)) if index not in taken)][:count]


def part_at(position: int, weights: Sequence[int]) -> tuple[int, int]:
  """Return which part an element of the stream is taken from, and how many were taken from it before.

  Every `sum(weights)` elements from the start contain each part exactly by its weight; any n elements contain n times
  its share, within 2 for each other part. The pattern starts at another offset in each such period, so that
  micro-batches, which take every k-th element, see all parts for any k.

  >>> [part_at(position, (1, 1))[0] for position in range(4)]
  [0, 1, 1, 0]
  """
  length = sum(weights)
  period, place = divmod(position, length)
  offset = pattern_offset(period, length)
  which, before = _part_at((place + offset) % length, weights)
  skipped = _count(offset, which, weights)
  earlier = before - skipped if place + offset < length else before + weights[which] - skipped
  return which, period * weights[which] + earlier


def pattern_offset(period: int, length: int) -> int:
  """Return where the pattern of a period of `length` elements starts: it advances by the golden ratio."""
  return period * 0x9E3779B9 % 2**32 * length >> 32


def integer_weights(weights: Sequence[fractions.Fraction]) -> tuple[int, ...]:
  """Return the smallest integers of the same ratios."""
  common = math.lcm(*(weight.denominator for weight in weights))
  numbers = [int(weight * common) for weight in weights]
  return tuple(number // math.gcd(*numbers) for number in numbers)


def union(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
  """Return all strings of several lists, each once, sorted."""
  return tuple(sorted(set().union(*lists)))


def agreed_classes(parts: Sequence[Clips]) -> int | None:
  """Return the number of classes of all parts, None if they have no labels.

  Raises ValueError if their numbers differ, or the names of their classes if these are known.
  """
  first, *others = parts
  for other in others:
    names = [getattr(part, 'class_names', None) for part in (first, other)]
    if first.num_classes != other.num_classes or (None not in names and names[0] != names[1]):
      raise ValueError(
        f'data.labels=True, but {_classes(first)} and {_classes(other)}; labels must mean the same in all data sets of '
        'a mixture: give all the same classes, or set data.labels=False.'
      )
  return first.num_classes


def _classes(clips: Clips) -> str:
  names = getattr(clips, 'class_names', None)
  listed = f' ({", ".join(names[:3])}, ...)' if names else ''
  return f'{getattr(clips, "path", type(clips).__name__)} has {clips.num_classes or "no"} classes{listed}'


def _positive(text: str, where: str, name: str) -> fractions.Fraction:
  try:
    value = fractions.Fraction(text)
  except (ValueError, ZeroDivisionError):
    value = fractions.Fraction(0)
  if value <= 0:
    raise ValueError(f'{where}: {text!r} is not a valid {name}; use a positive number, such as 0.5.')
  return value


def _count(length: int, which: int, weights: Sequence[int]) -> int:
  """Return how many of the first `length` elements belong to a part, before the pattern is offset."""
  rest, left = sum(weights), length
  for number, weight in enumerate(weights):
    after = left * (rest - weight) // rest if rest else 0
    if number == which:
      return left - after
    left, rest = after, rest - weight
  raise IndexError(which)


def _part_at(place: int, weights: Sequence[int]) -> tuple[int, int]:
  """Return the part of one element before the pattern is offset, and how many elements of this part precede it."""
  for which in range(len(weights)):
    before = _count(place, which, weights)
    if _count(place + 1, which, weights) > before:
      return which, before
  raise IndexError(place)
