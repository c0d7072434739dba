"""Random subsets of the real clips: references that samples are compared to, and clips in place of samples."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.data import ExampleClips
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.protocols.contract import Protocol

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

  Raises:
    InvalidInput: a split has fewer clips than the protocol needs.
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
    found[split] = choose_clips(protocol, clips, count, seed=(seed, REFERENCE))
  return found


def choose_real_samples(
  protocol: Protocol, clips: ExampleClips, num_references: int, count: int, *, seed: int
) -> ClipSubset:
  """Return `count` clips of the train split that are not among its references, to measure in place of samples."""
  count = min(count, len(clips) - num_references)
  return choose_clips(protocol._replace(replacement=False), clips, count, seed=(seed, REFERENCE), from_end=True)


def choose_clips(
  protocol: Protocol, clips: ExampleClips, count: int, *, seed: tuple[int, ...], from_end: bool = False
) -> ClipSubset:
  """Return `count` random clips; with `from_end`, the last ones of the random order instead of the first.

  Raises:
    InvalidInput: there are fewer clips, and the protocol chooses without replacement.
  """
  rng = np.random.default_rng(seed)
  if protocol.replacement:
    indices = rng.integers(len(clips), size=count)
  elif len(clips) < count:
    raise InvalidInput(
      f'--protocol={protocol.name} needs {count} clips, but this split of the data has {len(clips)}: use the whole '
      f'data set with --config.data.path=DIR, or measure fewer with --limit={len(clips)}, which is comparable only to '
      'the same limit.'
    )
  else:
    order = rng.permutation(len(clips))
    indices = order[::-1][:count] if from_end else order[:count]
  return ClipSubset(clips, indices, np.arange(count), None if protocol.window == 'first' else seed)
