"""Which clips a protocol measures against, and what its samples are made from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.data import ExampleClips
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.protocols import prompts as prompt_files
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.text.prompts import read_prompts

CLIPS, ALONE = 0, 1  # what a draw is for: reference clips, or samples' own with replacement


class ClipSubset(NamedTuple):
  """Clips of a split, each at one window."""

  clips: ExampleClips
  which: np.ndarray  # int [n], numbers of clips
  windows: np.ndarray  # int [n], numbers of their windows: a clip that is drawn twice may have two
  seed: tuple[int, ...] | None  # of the windows; None: the first frames

  def videos(self, positions: Any) -> np.ndarray:
    """uint8 [len(positions) t h w c]."""
    return np.stack([self._video(int(position)) for position in positions])

  def _video(self, position: int) -> np.ndarray:
    clip = int(self.which[position])
    rng = None if self.seed is None else np.random.default_rng((*self.seed, clip, int(self.windows[position])))
    return self.clips.window(clip, rng).video

  @property
  def record(self) -> dict[str, Any]:
    """What tells this draw from others, ready for JSON."""
    return {'clips': len(self.which), 'which': zlib.crc32(self.which.astype('<i8').tobytes()), 'seed': self.seed}


class Conditions(NamedTuple):
  """What n samples are made from; None where there is nothing of a kind."""

  count: int
  prompts: list[str] | None = None
  labels: list[int] | None = None
  given: ClipSubset | None = None  # the clips whose first frames are continued; n of them
  group: np.ndarray | None = None  # int [n], equal where samples are made from the same


def open_splits(protocol: Protocol, config: ConfigDict, real_vs_real: bool) -> dict[str, ExampleClips]:
  """The clips of every split that is looked at. Raises InvalidInput that says what is wrong with the data."""
  splits = dict.fromkeys((*protocol.splits, *(['train'] if real_vs_real else [])))
  try:
    some = {'seed': config.seed, 'num_frames': protocol.num_frames}
    return {split: ExampleClips(config.data, split, **some) for split in splits}
  except (ValueError, OSError) as error:
    raise InvalidInput(
      f'--protocol={protocol.name} measures against real clips: {error} Name other data with --config.data.path=DIR.'
    ) from error


def references(
  protocol: Protocol, splits: Mapping[str, ExampleClips], *, seed: int, limit: int | None, real_vs_real: bool
) -> dict[str, ClipSubset]:
  """The clips of each split that are looked at. Raises InvalidInput where there are fewer than the protocol has."""
  found = {}
  for split in protocol.splits:
    clips, wanted = splits[split], protocol.num_references
    if split not in protocol.references:
      wanted = min(protocol.training_clips, len(clips))
    wanted = len(clips) if wanted is None else wanted
    wanted = min(wanted, limit) if limit else wanted
    if real_vs_real and split == 'train':  # the other half stands in for samples
      wanted = min(wanted, len(clips) // 2)
    found[split] = draw(protocol, clips, wanted, seed=(seed, CLIPS))
  return found


def draw(
  protocol: Protocol, clips: ExampleClips, count: int, *, seed: tuple[int, ...], from_end: bool = False
) -> ClipSubset:
  """`count` random clips; `from_end` draws those that come last otherwise."""
  rng = np.random.default_rng(seed)
  if protocol.replacement:
    which = rng.integers(len(clips), size=count)
  elif len(clips) < count:
    raise InvalidInput(
      f'--protocol={protocol.name} needs {count} clips, but the data have {len(clips)} in this split: name the whole '
      f'data set with --config.data.path=DIR, or measure less with --limit={len(clips)}, comparable to its like only.'
    )
  else:
    order = rng.permutation(len(clips))
    which = order[::-1][:count] if from_end else order[:count]
  return ClipSubset(clips, which, np.arange(count), None if protocol.window == 'first' else seed)


def real_samples(
  protocol: Protocol, clips: ExampleClips, taken: int, count: int, seed: int
) -> tuple[ClipSubset, Conditions]:
  """Real clips of the train split in the place of samples, none of the `taken` ones of its reference."""
  count = min(count, len(clips) - taken)
  chosen = draw(protocol._replace(replacement=False), clips, count, seed=(seed, CLIPS), from_end=True)
  captions = [clips.describe(int(clip))[0] for clip in chosen.which]
  return chosen, Conditions(count, prompts=captions, group=np.arange(count))


def conditions(
  protocol: Protocol, config: ConfigDict, reference: ClipSubset, count: int, *, seed: int, prompt_file: str | None
) -> Conditions:
  """Return what samples are made from. Raises InvalidInput if model, data or file do not fit the protocol."""
  chosen = draw(protocol, reference.clips, count, seed=(seed, ALONE)) if protocol.replacement else reference
  number = np.arange(count) % len(chosen.which)
  chosen = chosen._replace(which=chosen.which[number], windows=number)
  takes_text, takes_labels = config.data.text != 'none', config.data.labels
  if prompt_file is not None and not protocol.prompt_file:
    raise InvalidInput(
      f'--prompt_file is not read by --protocol={protocol.name}, which has prompts of its own: omit it.'
    )
  if protocol.task == 'classes':
    return _classes(protocol, chosen, count, takes_text, takes_labels)
  if protocol.task == 'captions' and not takes_text:
    raise InvalidInput(f"--protocol={protocol.name} measures text to video, but this run has data.text='none'.")
  prompts = labels = None
  if protocol.prompt_file:
    prompts = _file_prompts(protocol, prompt_file, count)
  elif takes_labels or (takes_text and protocol.task != 'unconditional'):
    described = [chosen.clips.describe(int(clip)) for clip in chosen.which]
    prompts = [caption for caption, _ in described] if takes_text and protocol.task != 'unconditional' else None
    labels = [label for _, label in described] if takes_labels else None
  if protocol.task == 'captions' and not any(prompts):
    raise InvalidInput(f'--protocol={protocol.name} samples the captions of the data, which have none: add captions.')
  given = chosen if protocol.task == 'prediction' else None
  same = labels if labels is not None else prompts
  group = number if given is not None else np.arange(count) if same is None else _numbered(same)
  return Conditions(count, prompts, labels, given, group)


def _classes(protocol: Protocol, chosen: ClipSubset, count: int, takes_text: bool, takes_labels: bool) -> Conditions:
  """Classes as often as they are in the data, by a prompt for each, or by their labels."""
  described = [chosen.clips.describe(int(clip)) for clip in chosen.which]
  labels, names = [label for _, label in described], chosen.clips.class_names
  if None in labels:
    raise InvalidInput(f'--protocol={protocol.name} needs the class of every clip, which these data do not tell.')
  if takes_labels:
    return Conditions(count, labels=labels, group=_numbered(labels))
  if not takes_text:
    raise InvalidInput(
      f'--protocol={protocol.name} needs a model that is told classes or text: this one is told neither.'
    )
  if names is None:
    raise InvalidInput(
      f'--protocol={protocol.name} has a prompt for each class name, but these data have numbers alone: use a folder '
      'of classes, or the data set of TFDS.'
    )
  known = prompt_files.groups(protocol.prompts)
  if unknown := sorted(set(names) - set(known)):
    raise InvalidInput(
      f'--protocol={protocol.name} has no prompt for the class {unknown[0]!r} of the data, nor for {len(unknown) - 1} '
      f'others: its classes are {", ".join(list(known)[:3])}, ...'
    )
  prompts = [known[names[label]][0] for label in labels]
  return Conditions(count, prompts=prompts, group=_numbered(labels))


def _file_prompts(protocol: Protocol, path: str | None, count: int) -> list[str]:
  if path is None:
    raise InvalidInput(
      f'--protocol={protocol.name} samples {protocol.num_samples} prompts that are not shipped: give them with '
      '--prompt_file=FILE, one a line.'
    )
  prompts = read_prompts(path)
  if len(prompts) < count:
    raise InvalidInput(
      f'--prompt_file={path} has {len(prompts)} prompts, but --protocol={protocol.name} takes {count}.'
    )
  return prompts[:count]


def _numbered(values: list[Any]) -> np.ndarray:
  return np.unique(np.array(values), return_inverse=True)[1]
