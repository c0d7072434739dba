"""Clips that cannot be used: substitutes for them, a list of them, and an end of training when there are too many."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pathlib
import threading
from typing import Any

import numpy as np

from vdm_jax.data.sources.contract import Clip
from vdm_jax.data.sources.stored_clips import Stored

FILE = 'quarantine.jsonl'
CHECKED_AT_START = 256  # so that a large folder does not delay the start; other clips are checked when read
SHOWN = 10  # bad clips named by the message that ends training
_THREADS = threading.Lock()  # not a field, for sources travel to workers


class TooManyBadClips(ValueError):
  """More clips than `data.max_bad_share` allows cannot be used."""


class Quarantine:
  """The clips that cannot be used, each once with its reason.

  With a `folder` they are lines of `quarantine.jsonl` there, which processes share and later runs add to. `add` raises
  TooManyBadClips once there are more than `max_bad_share` times `total`.
  """

  def __init__(self, path: str, total: int, max_bad_share: float, folder: str | os.PathLike | None = None):
    if not 0 <= max_bad_share <= 1:
      raise ValueError(f'data.max_bad_share={max_bad_share}, but it must be a share, 0 to 1.')
    self._path, self._total, self._max_bad_share = path, total, max_bad_share
    self._file = None if folder is None else pathlib.Path(folder) / FILE
    self.reasons: dict[str, str] = {}  # by name of the clip

  def add(self, name: str, error: Exception) -> None:
    """Lists a clip that is not listed yet."""
    with _THREADS:
      if name not in self.reasons:
        self._add(name, ' '.join(str(error).split()))
    if len(self.reasons) > self._max_bad_share * self._total:
      raise TooManyBadClips(self._message())

  def refuse(self, checked: int) -> None:
    """Raises TooManyBadClips if so many bad ones of `checked` clips mean, with near certainty, too many of all."""
    if len(self.reasons) - 3 * math.sqrt(len(self.reasons)) > self._max_bad_share * checked:
      raise TooManyBadClips(self._message(checked))

  def _add(self, name: str, reason: str) -> None:
    if self._file is None:
      self.reasons[name] = reason
      return
    with open(self._file, 'a+', encoding='utf-8', errors='surrogateescape') as file:
      with contextlib.suppress(OSError):  # not every file system can lock
        fcntl.flock(file, fcntl.LOCK_EX)
      file.seek(0)
      text = file.read()
      self.reasons |= _listed(text, self._path)
      if name not in self.reasons:
        entry = {'path': self._path, 'clip': name, 'reason': reason}
        file.write(('' if text.endswith('\n') or not text else '\n') + json.dumps(entry) + '\n')
        self.reasons[name] = reason

  def _message(self, checked: int | None = None) -> str:
    listed = [f'  {reason}' for reason in sorted(self.reasons.values())[:SHOWN]]
    if len(self.reasons) > SHOWN:
      listed.append(f'  and {len(self.reasons) - SHOWN} more')
    where = '' if self._file is None else f' and delete {self._file}, which lists them all'
    of = f'{self._total}' if checked is None else f'the first {checked} looked at of {self._total}'
    return '\n'.join(
      [
        f'data.path={self._path!r}: {len(self.reasons)} of {of} clips cannot be used, more than '
        f'data.max_bad_share={self._max_bad_share:g} allows:',
        *listed,
        f'Repair or remove them{where}, or raise data.max_bad_share.',
      ]
    )


class Substituting:
  """A source whose unusable clips are replaced by others; each is listed in the quarantine.

  What replaces clip i at the n-th attempt is a function of (seed, i, n) alone, and every clip of the split has its
  turn. So a stream of clips is the same on any number of hosts and after a resume, as long as the files are.
  """

  def __init__(self, source: Stored, seed: int, quarantine: Quarantine):
    self._source, self._seed, self._quarantine = source, seed, quarantine
    self._check_some()

  def __len__(self) -> int:
    return len(self._source)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('_'):
      raise AttributeError(name)  # while it is copied to a worker, there is no source yet
    return getattr(self._source, name)

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """As the source does; a substitute is read with the draws that its original would have had."""
    before = rng and rng.bit_generator.state
    for attempt in range(len(self)):
      chosen = substitute(self._seed, index, attempt, len(self))
      try:
        return self._source.read(chosen, rng, num_frames, frame_skip)
      except (ValueError, OSError, MemoryError) as error:
        self._quarantine.add(self._source.names[chosen], error)
      if rng:
        rng.bit_generator.state = before
    raise self._none_left()

  def _check_some(self) -> None:
    """Looks at clips spread evenly over the split, at all where they are few."""
    chosen = np.linspace(0, len(self) - 1, min(len(self), CHECKED_AT_START)).astype(int)
    bad = 0
    for index in chosen:
      try:
        self._source.check(index)
      except (ValueError, OSError) as error:
        bad += 1
        self._quarantine.add(self._source.names[index], error)
    if bad == len(self):
      raise self._none_left()
    self._quarantine.refuse(len(chosen))

  def _none_left(self) -> TooManyBadClips:
    reasons = [self._quarantine.reasons[name] for name in self._source.names[:SHOWN]]
    return TooManyBadClips('\n'.join([f'No clip of data.path={self._source.path!r} can be used:', *reasons]))


def substitute(seed: int, index: int, attempt: int, count: int) -> int:
  """The clip, of `count`, that stands for clip `index` at an attempt, the first of which is 0 and is the clip itself.

  Attempts 0 to count - 1 are all clips, once each.
  """
  if not attempt:
    return index
  rng = np.random.default_rng((seed, index))
  while math.gcd(stride := int(rng.integers(1, count)), count) > 1:
    pass
  return (index + attempt * stride) % count


def _listed(text: str, path: str) -> dict[str, str]:
  """The clips of `path` in the text of a list; a line that was cut off by a crash is skipped."""
  found = {}
  for line in text.splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError):
      entry = json.loads(line)
      if entry['path'] == path:
        found[entry['clip']] = entry['reason']
  return found
