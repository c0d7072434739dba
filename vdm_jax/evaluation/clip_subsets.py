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
from vdm_jax.data.sources.folder import TEST
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
    return np.stack([self.clips.window(*self._window(int(position))).video for position in positions])

  def cuts(self, positions: Any, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the same videos at several sizes, each cut from the original frames."""
    originals = [self.clips.original(*self._window(int(position))).video for position in positions]
    return [np.stack([self.clips.resize(video, *size) for video in originals]) for size in sizes]

  def _window(self, position: int) -> tuple[int, np.random.Generator | None]:
    clip = int(self.indices[position])
    rng = None if self.seed is None else np.random.default_rng((*self.seed, clip, int(self.windows[position])))
    return clip, rng

  def files(self) -> str:
    """A hash of the files of these clips, which changes if one is replaced or edited."""
    return self.clips.files_hash(self.indices)

  @property
  def record(self) -> dict[str, Any]:
    """A description for JSON that distinguishes this subset from others."""
    return {'clips': len(self.indices), 'which': zlib.crc32(self.indices.astype('<i8').tobytes()), 'seed': self.seed}


def measured_data(protocol: Protocol, data: ConfigDict) -> ConfigDict:
  """Return the section `data` with which real clips are read: at the size, the length and the rate of the protocol.

  Clips are read at `frame_skip` alone, so that clips which are long enough for that are usable; at a frame rate of the
  protocol, each frame at that rate is read.
  """
  data = data.copy_and_resolve_references()
  data.update(height=protocol.height, width=protocol.width, pad_rows=0, channels=protocol.channels)
  data.update(num_frames=protocol.num_frames, frame_skip_max=0)
  if protocol.frame_rate is not None:
    data.update(target_frame_rate=protocol.frame_rate, frame_skip=1)
  return data


def open_splits(protocol: Protocol, config: ConfigDict, real_vs_real: bool) -> dict[str, ExampleClips]:
  """Return the clips of every split that the protocol reads.

  Data with the folders `test` and `val`, which are one split in training, are measured against `test` alone.

  Raises:
    InvalidInput: the data are missing or damaged, or are not the test set that the protocol needs.
  """
  splits = dict.fromkeys((*protocol.splits, *([protocol.real_split] if real_vs_real else [])))
  data = measured_data(protocol, config.data)
  try:
    found = {split: ExampleClips(data, split, seed=config.seed) for split in splits}
  except (ValueError, OSError) as error:
    raise InvalidInput(
      f'--protocol={protocol.name} compares samples to real clips: {error} Choose other data with '
      '--config.data.path=DIR.'
    ) from error
  if 'test' in found:
    _keep_test_set(protocol, found['test'])
  return found


def _keep_test_set(protocol: Protocol, clips: ExampleClips) -> None:
  folders = {name: count for name, count in clips.folders.items() if name in TEST}
  if 'test' in folders and len(folders) > 1:
    clips.keep_folder('test')
    others = ', '.join(f'{count:,} of {name}' for name, count in folders.items() if name != 'test')
    warnings.warn(f'the reference is the {folders["test"]:,} clips of the folder test, without {others}', stacklevel=2)
  elif protocol.test_set and 'test' not in folders:
    has = f'those of the folder {next(iter(folders))}' if folders else 'clips held out from its training data'
    raise InvalidInput(
      f'--protocol={protocol.name} measures against a test set, but these data have {has}: put the clips of the test '
      'set into a folder test, and name the folder around it with --config.data.path=DIR.'
    )


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
    count = min(count, len(clips)) if protocol.fewer_references else count
    if real_vs_real and split == protocol.real_split:  # the other half takes the place of samples
      count = min(count, len(clips) // 2)
    # Of a whole split, clips that cannot be used or are slower than the protocol's frame rate are left out.
    whole = count == len(clips) and (protocol.num_references is None or protocol.frame_rate is not None)
    all_of_them = whole or protocol.fewer_references or split not in protocol.references
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
  """Return `count` clips of a split that are not among its references, to measure in place of samples.

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
