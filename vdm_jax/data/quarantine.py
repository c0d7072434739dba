"""Unusable clips: substitutes for them, the list of them, and the end of training when there are too many."""

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
from vdm_jax.data.sources.stored_clips import StoredClips

FILE = 'quarantine.jsonl'
CHECKED_AT_START = 256  # clips, so that a large folder does not delay the start; others are checked when they are read
SHOWN = 10  # unusable clips listed in the message that ends training
_THREADS = threading.Lock()  # not an attribute, because clips are pickled into workers


class TooManyBadClips(ValueError):
  """More clips than `data.max_bad_share` allows are unusable."""


class Quarantine:
  """The list of unusable clips, each once with its reason.

  Args:
    path: the data set, `data.path`.
    total: its number of clips.
    max_bad_share: fraction of unusable clips above which `add` raises TooManyBadClips, 0 to 1.
    folder: of `quarantine.jsonl`, the list that processes share and later runs extend; None: no file.
  """

  def __init__(self, path: str, total: int, max_bad_share: float, folder: str | os.PathLike | None = None):
    if not 0 <= max_bad_share <= 1:
      raise ValueError(f'data.max_bad_share={max_bad_share} is not a valid fraction; use 0 to 1.')
    self._path, self._total, self._max_bad_share = path, total, max_bad_share
    self._file = None if folder is None else pathlib.Path(folder) / FILE
    self.reasons: dict[str, str] = {}  # by the name of the clip

  def add(self, name: str, error: Exception) -> None:
    """List a clip, unless it is listed already. Raises TooManyBadClips if it is one too many."""
    with _THREADS:
      if name not in self.reasons:
        self._add(name, ' '.join(str(error).split()))
    if len(self.reasons) > self._max_bad_share * self._total:
      raise TooManyBadClips(self._message())

  def check_sample(self, checked: int) -> None:
    """Raise TooManyBadClips if too many of `checked` sampled clips are bad, by three standard deviations."""
    if len(self.reasons) - 3 * math.sqrt(len(self.reasons)) > self._max_bad_share * checked:
      raise TooManyBadClips(self._message(checked))

  def _add(self, name: str, reason: str) -> None:
    if self._file is None:
      self.reasons[name] = reason
      return
    with open(self._file, 'a+', encoding='utf-8', errors='surrogateescape') as file:
      with contextlib.suppress(OSError):  # not every file system supports locks
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
    of = f'{self._total}' if checked is None else f'the first {checked} checked of {self._total}'
    return '\n'.join(
      [
        f'data.path={self._path!r}: {len(self.reasons)} of {of} clips cannot be used, more than '
        f'data.max_bad_share={self._max_bad_share:g} allows:',
        *listed,
        f'Repair or remove them{where}, or raise data.max_bad_share.',
      ]
    )


class Substituting:
  """Stored clips of which unusable ones are replaced by others and listed in the quarantine. See `contract.Clips`.

  The n-th substitute of clip i is a function of (seed, i, n) alone, and reaches every clip of the split. So a stream of
  clips is the same on any number of hosts and after a resume, as long as the files are the same.
  """

  def __init__(self, clips: StoredClips, seed: int, quarantine: Quarantine):
    self._clips, self._seed, self._quarantine = clips, seed, quarantine
    self._check_some()

  def __len__(self) -> int:
    return len(self._clips)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('_'):
      raise AttributeError(name)  # while it is unpickled in a worker, there are no clips yet
    return getattr(self._clips, name)

  def read(self, index: int, rng: np.random.Generator | None, num_frames: int, frame_skip: int = 1) -> Clip:
    """Read a clip or its substitute, which gets the same random draws."""
    before = rng and rng.bit_generator.state
    for attempt in range(len(self)):
      chosen = substitute(self._seed, index, attempt, len(self))
      try:
        return self._clips.read(chosen, rng, num_frames, frame_skip)
      except (ValueError, OSError, MemoryError) as error:
        self._quarantine.add(self._clips.names[chosen], error)
      if rng:
        rng.bit_generator.state = before
    raise self._none_left()

  @property
  def reasons(self) -> dict[str, str]:
    """Why clips that were found so far are unusable, by their names."""
    return self._quarantine.reasons

  def is_usable(self, index: int) -> bool:
    """Return whether a clip can be used, without decoding it; if not, it is listed in the quarantine."""
    name = self._clips.names[index]
    if name not in self._quarantine.reasons:
      try:
        self._clips.check(index)
      except (ValueError, OSError) as error:
        self._quarantine.add(name, error)
    return name not in self._quarantine.reasons

  def _check_some(self) -> None:
    """Check clips spread evenly over the split, or all of a few, without decoding them."""
    chosen = np.linspace(0, len(self) - 1, min(len(self), CHECKED_AT_START)).astype(int)
    bad = 0
    for index in chosen:
      try:
        self._clips.check(index)
      except (ValueError, OSError) as error:
        bad += 1
        self._quarantine.add(self._clips.names[index], error)
    if bad == len(self):
      raise self._none_left()
    self._quarantine.check_sample(len(chosen))

  def _none_left(self) -> TooManyBadClips:
    reasons = [self._quarantine.reasons[name] for name in self._clips.names[:SHOWN]]
    return TooManyBadClips('\n'.join([f'No clip of data.path={self._clips.path!r} can be used:', *reasons]))


def substitute(seed: int, index: int, attempt: int, count: int) -> int:
  """Return the clip, of `count`, that is read in place of clip `index`.

  Attempt 0 is the clip itself. Attempts 0 to `count` - 1 are all clips, each once.

  >>> sorted(substitute(0, 2, attempt, 5) for attempt in range(5))
  [0, 1, 2, 3, 4]
  """
  if not attempt:
    return index
  rng = np.random.default_rng((seed, index))
  while math.gcd(stride := int(rng.integers(1, count)), count) > 1:
    pass
  return (index + attempt * stride) % count


def count(folder: str | os.PathLike) -> int:
  """Return the number of clips that `quarantine.jsonl` of a folder lists, 0 if there is none."""
  file = pathlib.Path(folder) / FILE
  return len(file.read_text(encoding='utf-8', errors='surrogateescape').splitlines()) if file.exists() else 0


def _listed(text: str, path: str) -> dict[str, str]:
  """Return the clips of `path` in the text of a list; a line that a crash cut off is skipped."""
  found = {}
  for line in text.splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError):
      entry = json.loads(line)
      if entry['path'] == path:
        found[entry['clip']] = entry['reason']
  return found
