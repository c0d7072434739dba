"""Conditions of samples: prompts, labels, or the first frames of real clips."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.clip_subsets import GIVEN, ClipSubset, choose_clips
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.protocols import prompts as prompt_sets
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.video_folder import VideoFolder
from vdm_jax.text.prompts import read_prompts


class Conditions(NamedTuple):
  """Conditions of `count` samples. None: not conditioned on this."""

  count: int
  prompts: list[str] | None = None
  labels: list[int] | None = None
  given: ClipSubset | None = None  # clips whose first frames are continued
  group: np.ndarray | None = None  # int [count], equal for samples with equal conditions


def conditions_of_clips(subset: ClipSubset) -> Conditions:
  """Return the captions of real clips that take the place of samples."""
  count = len(subset.indices)
  captions = [subset.clips.describe(int(clip))[0] for clip in subset.indices]
  return Conditions(count, prompts=captions, group=np.arange(count))


def conditions_of_videos(protocol: Protocol, videos: VideoFolder, count: int) -> Conditions:
  """Return the prompts of the first `count` existing videos.

  Raises:
    InvalidInput: there are fewer, or prompts are missing that the protocol needs.
  """
  if protocol.fewer_references:
    count = min(count, len(videos))
  if len(videos) < count:
    raise InvalidInput(
      f'--protocol={protocol.name} measures {count} videos, but --videos={videos.path} has {len(videos)}: add videos, '
      f'or measure fewer with --limit={len(videos)}, which is comparable only to the same limit.'
    )
  prompts = videos.prompts[:count]
  needs_text = any(METRICS[metric.kind].needs_text for metric in protocol.metrics)
  if needs_text and (missing := prompts.count('')):
    raise InvalidInput(
      f'--protocol={protocol.name} needs the prompt of every video, but {missing} of --videos={videos.path} have none: '
      'add videos.jsonl with file_name and text, or name the videos after their prompts.'
    )
  return Conditions(count, prompts=prompts, group=_numbered(prompts))


def make_conditions(
  protocol: Protocol, config: ConfigDict, reference: ClipSubset, count: int, *, seed: int, prompt_file: str | None
) -> Conditions:
  """Return the conditions of `count` samples.

  Raises:
    InvalidInput: the model, the data or the prompt file do not fit the protocol.
  """
  subset = choose_clips(protocol, reference.clips, count, seed=(seed, GIVEN)) if protocol.replacement else reference
  number = np.arange(count) % len(subset.indices)
  subset = subset._replace(indices=subset.indices[number], windows=number)
  takes_text, takes_labels = config.data.text != 'none', config.data.labels
  if prompt_file is not None and not protocol.prompt_file:
    raise InvalidInput(
      f'--prompt_file has no effect with --protocol={protocol.name}, which has its own prompts: omit it.'
    )
  if protocol.task == 'classes':
    return _classes(protocol, subset, count, takes_text, takes_labels)
  if protocol.task == 'captions' and not takes_text:
    raise InvalidInput(f"--protocol={protocol.name} measures text-to-video models, but this run has data.text='none'.")
  prompts = labels = None
  if protocol.prompt_file:
    prompts = _file_prompts(protocol, prompt_file, count)
  elif takes_labels or (takes_text and protocol.task != 'unconditional'):
    described = [subset.clips.describe(int(clip)) for clip in subset.indices]
    prompts = [caption for caption, _ in described] if takes_text and protocol.task != 'unconditional' else None
    labels = [label for _, label in described] if takes_labels else None
  if protocol.task == 'captions' and not any(prompts):
    raise InvalidInput(f'--protocol={protocol.name} uses the captions of the data, which have none: add captions.')
  given = subset if protocol.task == 'prediction' else None
  same = labels if labels is not None else prompts
  group = number if given is not None else np.arange(count) if same is None else _numbered(same)
  return Conditions(count, prompts, labels, given, group)


def _classes(protocol: Protocol, subset: ClipSubset, count: int, takes_text: bool, takes_labels: bool) -> Conditions:
  """Classes with their frequencies in the data, as labels or as the prompt of each class."""
  described = [subset.clips.describe(int(clip)) for clip in subset.indices]
  labels, names = [label for _, label in described], subset.clips.class_names
  if None in labels:
    raise InvalidInput(f'--protocol={protocol.name} needs the class of every clip, but these data have no classes.')
  if takes_labels:
    return Conditions(count, labels=labels, group=_numbered(labels))
  if not takes_text:
    raise InvalidInput(
      f'--protocol={protocol.name} needs a model conditioned on classes or text, but this model is unconditional.'
    )
  if names is None:
    raise InvalidInput(
      f'--protocol={protocol.name} has a prompt for each class name, but these data have class numbers only: use a '
      'folder of classes, or the TFDS data set.'
    )
  known = prompt_sets.groups(protocol.prompts)
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
      f'--protocol={protocol.name} uses {protocol.num_samples} prompts that are not shipped: give them with '
      '--prompt_file=FILE, one per line.'
    )
  prompts = read_prompts(path)
  if len(prompts) < count:
    raise InvalidInput(
      f'--prompt_file={path} has {len(prompts)} prompts, but --protocol={protocol.name} needs {count}.'
    )
  return prompts[:count]


def _numbered(values: list[Any]) -> np.ndarray:
  return np.unique(np.array(values), return_inverse=True)[1]
