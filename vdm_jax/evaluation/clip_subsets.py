"""Random subsets of the real clips: references that samples are compared to, and clips in place of samples.

Clips that cannot be used are left out, since a substitute would be measured twice.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.data import ExampleClips, TooManyBadClips
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.protocols.contract import Protocol

SHOWN = 10  # names of clips that are left out
# Second part of the seed of a subset, after the seed of the run.
REFERENCE, GIVEN = 0, 1


class ClipSubset(NamedTuple):
  """n clips of a split, with one window of frames each."""

  clips: ExampleClips
  indices: np.ndarray  # int [n], which clips
  windows: np.ndarray  # int [n], which of the random windows of the clip: a clip chosen twice may have two
  seed: tuple[int, ...] | None  # of the random windows; None: the first frames

  def videos(self, positions: Any) -> np.ndarray:
    """Return the videos at some positions in the subset, uint8 [len(positions) t h w c]."""
    return np.stack([self._video(int(position)) for position in positions])

  def _video(self, position: int) -> np.ndarray:
    clip = int(self.indices[position])
    rng = None if self.seed is None else np.random.default_rng((*self.seed, clip, int(self.windows[position])))
    return self.clips.window(clip, rng).video

  def files(self) -> str:
    """A hash of the files of these clips, which changes if one is replaced or edited."""
    return self.clips.files_hash(self.indices)

  @property
  def record(self) -> dict[str, Any]:
    """A description for JSON that distinguishes this subset from others."""
    return {'clips': len(self.indices), 'which': zlib.crc32(self.indices.astype('<i8').tobytes()), 'seed': self.seed}


def open_splits(protocol: Protocol, config: ConfigDict, real_vs_real: bool) -> dict[str, ExampleClips]:
  """Return the clips of every split that the protocol reads.

  Raises:
    InvalidInput: the data are missing or damaged.
  """
  splits = dict.fromkeys((*protocol.splits, *(['train'] if real_vs_real else [])))
  try:
    return {
      split: ExampleClips(config.data, split, seed=config.seed, num_frames=protocol.num_frames) for split in splits
    }
  except (ValueError, OSError) as error:
    raise InvalidInput(
      f'--protocol={protocol.name} compares samples to real clips: {error} Choose other data with '
      '--config.data.path=DIR.'
    ) from error


def choose_references(
  protocol: Protocol, splits: Mapping[str, ExampleClips], *, seed: int, limit: int | None, real_vs_real: bool
) -> dict[str, ClipSubset]:
  """Return the clips of each split that are measured.

  Warns once for each split about clips that cannot be used, and are left out.

  Raises:
    InvalidInput: a split has fewer usable clips than the protocol needs.
  """
  found = {}
  for split in protocol.splits:
    clips, count = splits[split], protocol.num_references
    if split not in protocol.references:
      count = min(protocol.training_clips, len(clips))
    count = len(clips) if count is None else count
    count = min(count, limit) if limit else count
    if real_vs_real and split == 'train':  # the other half takes the place of samples
      count = min(count, len(clips) // 2)
    all_of_them = count == len(clips) and protocol.num_references is None or split not in protocol.references
    found[split] = choose_clips(protocol, clips, count, seed=(seed, REFERENCE), fewer=all_of_them)
    if left_out := clips.unusable:
      names = ', '.join([*list(left_out)[:SHOWN], *(['...'] if len(left_out) > SHOWN else [])])
      warnings.warn(
        f'{len(left_out)} clips of the {split} split cannot be used and are left out: {names}', stacklevel=2
      )
  return found


def choose_real_samples(
  protocol: Protocol, clips: ExampleClips, num_references: int, count: int, *, seed: int
) -> ClipSubset:
  """Return `count` clips of the train split that are not among its references, to measure in place of samples.

  They are the last ones of the random order of which the references are the first.
  """
  count = min(count, len(clips) - num_references)
  protocol, drawn = protocol._replace(replacement=False), (seed, REFERENCE)
  references = set(choose_clips(protocol, clips, num_references, seed=drawn).indices)
  order = np.random.default_rng(drawn).permutation(len(clips))
  indices = _usable(clips, (index for index in order[::-1] if index not in references), count)
  return _subset(protocol, clips, indices, drawn)


def choose_clips(
  protocol: Protocol, clips: ExampleClips, count: int, *, seed: tuple[int, ...], fewer: bool = False
) -> ClipSubset:
  """Return `count` random clips that can be used; with `fewer`, all of them if there are fewer.

  Raises:
    InvalidInput: there are fewer clips, and the protocol chooses without replacement; or too many cannot be used.
  """
  rng = np.random.default_rng(seed)
  if protocol.replacement:
    indices = rng.integers(len(clips), size=count)
    for position in range(count):
      while not _usable(clips, indices[position : position + 1], 1):
        indices[position] = rng.integers(len(clips))
    return _subset(protocol, clips, indices, seed)
  indices = _usable(clips, rng.permutation(len(clips)), count) if count <= len(clips) else []
  if len(indices) < count and not fewer:
    usable = len(indices) or len(clips)
    raise InvalidInput(
      f'--protocol={protocol.name} needs {count} clips, but this split of the data has {usable}: use the whole '
      f'data set with --config.data.path=DIR, or measure fewer with --limit={usable}, which is comparable only to '
      'the same limit.'
    )
  return _subset(protocol, clips, indices, seed)


def _usable(clips: ExampleClips, candidates: Iterable[int], count: int) -> list[int]:
  """Return the first `count` of the candidates that can be used, or all if there are fewer."""
  try:
    return list(itertools.islice((index for index in candidates if clips.is_usable(int(index))), count))
  except TooManyBadClips as error:
    raise InvalidInput(str(error)) from error


def _subset(protocol: Protocol, clips: ExampleClips, indices: Sequence[int], seed: tuple[int, ...]) -> ClipSubset:
  chosen = np.asarray(indices, np.int64)
  return ClipSubset(clips, chosen, np.arange(len(chosen)), None if protocol.window == 'first' else seed)
