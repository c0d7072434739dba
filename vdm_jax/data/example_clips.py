"""Single clips of a split, prepared as a model of the configuration sees them, for measurements and previews."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vdm_jax.data.mixture import Mixture
from vdm_jax.data.quarantine import Substituting
from vdm_jax.data.sources import catalog
from vdm_jax.data.sources.contract import Clip, Clips
from vdm_jax.names import choose
from vdm_jax.video import transforms


class ExampleClips:
  """The clips of a split by random access, at `data.frame_skip` and at the configured size without its padding.

  A clip that cannot be used, which `is_usable` finds without decoding it, is replaced by another one, with a warning.

  Args:
    config: section `data` of a configuration.
    split: 'train' or 'test'.
    seed: of the windows.
    num_frames: frames of a clip; by default `data.num_frames`.

  Raises as `catalog.build` does.
  """

  def __init__(self, config: Any, split: str, *, seed: int, num_frames: int | None = None):
    self._source, self._seed, self._config = catalog.build(config, split, seed), seed, config
    self._num_frames = num_frames or config.num_frames
    self._parts = self._source.parts if isinstance(self._source, Mixture) else (self._source,)
    self._numbers: Sequence[int] = range(len(self._source))  # of the clips in the source

  def __len__(self) -> int:
    return len(self._numbers)

  @property
  def folders(self) -> dict[str, int]:
    """How many clips the folders of the data have, such as `test` and `val`, by the first part of the clips' names."""
    located = (self._locate(number) for number in self._numbers)
    names = [part.names[number] for part, number in located if isinstance(part, Substituting)]
    return dict(collections.Counter(name.partition('/')[0] for name in names if '/' in name))

  def keep_folder(self, folder: str) -> None:
    """Leave out the clips outside one of `folders`."""
    self._numbers = [
      index for index in self._numbers for part, number in [self._locate(index)] if _is_in(part, number, folder)
    ]

  @property
  def class_names(self) -> tuple[str, ...] | None:
    """Names of the labels 0, 1, ...; None if the data do not name them."""
    return getattr(self._source, 'class_names', None)

  def first(self, count: int) -> Sequence[int]:
    """Return the numbers of the first `count` usable clips, or of all if fewer; of a mixture by its weights."""
    return list(itertools.islice(filter(self.is_usable, self._in_order(count)), count))

  @property
  def unusable(self) -> dict[str, str]:
    """Why clips that were found so far cannot be used, by their names."""
    found = [part.reasons for part in self._parts if isinstance(part, Substituting)]
    return {name: reason for reasons in found for name, reason in reasons.items()}

  def files_hash(self, indices: Iterable[int]) -> str:
    """Return a hash of the names and files of some clips, which changes if one is replaced or edited.

    Clips that are rendered have no files; their hash is that of nothing.
    """
    digest = hashlib.sha256()
    for index in dict.fromkeys(int(index) for index in indices):
      part, number = self._locate(self._numbers[index])
      if isinstance(part, Substituting):
        line = json.dumps([part.path, part.names[number], part.file_hash(number)])
        digest.update(line.encode())
    return digest.hexdigest()

  def is_usable(self, index: int) -> bool:
    """Return whether a clip can be used, without decoding it. Raises TooManyBadClips if it is one bad clip too many."""
    part, number = self._locate(self._numbers[index])
    return part.is_usable(number) if isinstance(part, Substituting) else True

  def __getitem__(self, index: int) -> Clip:
    """Return clip `index` at the window that the seed and the index determine."""
    return self.window(index, np.random.default_rng((self._seed, index)))

  def window(self, index: int, rng: np.random.Generator | None) -> Clip:
    """Return clip `index` at a random window, or at its first frames if `rng` is None."""
    config, clip = self._config, self.original(index, rng)
    return clip._replace(video=self.resize(clip.video, config.height - 2 * config.pad_rows, config.width))

  def original(self, index: int, rng: np.random.Generator | None) -> Clip:
    """Return the same as `window`, at the size and with the channels of the file."""
    known = set(self.unusable)
    clip = self._source.read(self._numbers[index], rng, self._num_frames, self._config.frame_skip)
    for name, reason in self.unusable.items():
      if name not in known:
        warnings.warn(f'Another clip takes the place of {name}: {reason}', stacklevel=2)
    return clip

  def resize(self, video: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an original video at another size, as `window` makes it, with the configured channels."""
    resize = choose('data.resize', self._config.resize, transforms.RESIZES)
    return transforms.to_channels(resize(video, height, width), self._config.channels)

  def _locate(self, index: int) -> tuple[Clips, int]:
    """The part that a clip belongs to, and its number there."""
    if not isinstance(self._source, Mixture):
      return self._source, index
    which, numbers = self._source.part_of(index)
    return self._parts[which], index - numbers.start

  def _in_order(self, count: int) -> Iterator[int]:
    """Yield the numbers of all clips, first those that are the first `count` if all can be used."""
    if not isinstance(self._source, Mixture) or len(self) < len(self._source):
      yield from range(len(self))
      return
    yield from (first := self._source.first(count))
    if count < len(self):
      yield from (number for number in self._source.first(len(self)) if number not in set(first))

  def describe(self, index: int) -> tuple[str, int | None]:
    """Return the caption and the label of a clip; those of stored clips are read without their frames."""
    if hasattr(self._source, 'caption'):
      number = self._numbers[index]
      return self._source.caption(number), self._source.label(number)
    clip = self[index]
    return clip.caption, clip.label


def _is_in(part: Clips, number: int, folder: str) -> bool:
  return isinstance(part, Substituting) and part.names[number].startswith(f'{folder}/')


def examples(config: Any, split: str, *, seed: int, count: int, num_frames: int | None = None) -> list[Clip]:
  """Return the first `count` clips of a split, or all if there are fewer; see `ExampleClips`."""
  clips = ExampleClips(config, split, seed=seed, num_frames=num_frames)
  return [clips[index] for index in clips.first(count)]
