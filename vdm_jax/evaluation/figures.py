"""From stored features to the figures of a protocol, in passes that hold a few batches at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vdm_jax.evaluation.metrics import frechet, neighbors
from vdm_jax.evaluation.metrics.clipsim import similarity
from vdm_jax.evaluation.metrics.inception_score import inception_score
from vdm_jax.evaluation.metrics.moments import Moments, gathered, streamed
from vdm_jax.evaluation.metrics.motion import compare_motion
from vdm_jax.evaluation.protocols.contract import Metric, Protocol
from vdm_jax.types import Array

Read = Callable[[str], Iterator[np.ndarray]]  # name of features -> their batches [b ...], in order; may be called again

MOTION, TEXT, PROMPT = 'motion', 'text', 'prompt'  # what is stored of each clip beside features
SPLITS = (1, 10)  # of samples, for the Inception Score
MOST = 10_000  # clips that single distances are taken of


def extract(metrics: tuple[Metric, ...], networks: Mapping[str, Any], videos: np.ndarray) -> dict[str, np.ndarray]:
  """The features of uint8 `[n t h w 3]` that the metrics need, by `Metric.features`; each network sees a size once.

  `networks` are Extractors of `vdm_jax.evaluation.features` by name.
  """
  found: dict[str, np.ndarray] = {}
  seen: dict[tuple, Any] = {}
  for metric in metrics:
    if metric.features in found:
      continue
    if (key := (metric.network, metric.size)) not in seen:
      seen[key] = networks[metric.network].apply(centre(videos, metric.size))
    rows = np.asarray(getattr(seen[key], metric.output))
    found[metric.features] = {'mean': lambda rows: rows.mean(1), 'first': lambda rows: rows[:, 0]}.get(
      metric.frames, lambda rows: rows
    )(rows)
  return found


def centre(videos: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
  """The middle `size` (height, width) of `[n t h w c]`. Raises ValueError where videos are smaller."""
  if size is None:
    return videos
  height, width = videos.shape[2:4]
  top, left = (height - size[0]) // 2, (width - size[1]) // 2
  if top < 0 or left < 0:
    raise ValueError(f'videos of {height}x{width} have no centre of {size[0]}x{size[1]}; they are never enlarged.')
  return videos[:, :, top : top + size[0], left : left + size[1]]


def check_clips(videos: Array, shape: tuple[int, int, int, int], what: str) -> None:
  """Raises ValueError unless `what` are uint8 `[n t h w c]` with n >= 1 and (t, h, w, c) = `shape`.

  Nothing is cast, scaled or resized: figures of videos that were differ by factors.
  """
  videos = np.asarray(videos)
  if videos.dtype != np.uint8:
    raise ValueError(f'{what} are {videos.dtype}; a protocol measures uint8, 0 ... 255.')
  if videos.ndim != 5 or not len(videos):
    raise ValueError(f'{what} have shape {videos.shape}; a protocol measures [n t h w c], one or more.')
  named = zip(('frames', 'rows', 'columns', 'channels'), videos.shape[1:], shape, strict=True)
  if differ := [f'{has} {name}, not {wanted}' for name, has, wanted in named if has != wanted]:
    raise ValueError(f'{what} have {", ".join(differ)}; they are measured as they are, and never resized.')


def check_range(videos: Array) -> None:
  """Raises ValueError unless samples are floats that fill no more than [-1, 1], up to rounding."""
  videos = np.asarray(videos)
  if not np.issubdtype(videos.dtype, np.floating):
    raise ValueError(f'samples are {videos.dtype}; pass floats in [-1, 1].')
  low, high = float(videos.min()), float(videos.max())
  if not (low >= -1.001 and high <= 1.001):
    raise ValueError(
      f'samples reach from {low:.4g} to {high:.4g}, but a protocol measures [-1, 1] and clips nothing: sample with '
      "sampling.threshold='clip' or 'dynamic'."
    )


def figures(
  protocol: Protocol, samples: Read, references: Mapping[str, Read], count: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
  """The metrics of a record: `{metric: {variant: {value, spread, ...}}}`, one line said for each.

  Variants are the splits that a distance is to, `splits_1` and `splits_10` of an Inception Score, and `mean` of
  CLIPSIM. Warns where the samples are too few for a covariance.
  """
  found: dict[str, dict[str, Any]] = {}
  for metric in protocol.metrics:
    if metric.kind == 'frechet':
      groups = grouped(samples(metric.features))
      whole = {split: streamed(map(rows_of, references[split](metric.features))) for split in protocol.references}
      for split, reference in whole.items():
        frechet.check_rank(reference, f'{metric.name}, {split} split')
      frechet.check_rank(frechet.merge_all(groups), f'{metric.name}, samples')
      found[metric.name] = {split: _distance(groups, reference) for split, reference in whole.items()}
    elif metric.kind == 'inception':
      found[metric.name] = {
        f'splits_{splits}': _score(samples(metric.features), count, splits) for splits in SPLITS if splits <= count
      }
    else:
      pairs = zip(samples(metric.features), samples(TEXT), strict=True)
      cosines = np.concatenate([similarity(frames, text) for frames, text in pairs])
      spread = float(cosines.std(ddof=1) / math.sqrt(len(cosines))) if len(cosines) > 1 else None
      found[metric.name] = {'mean': {'value': float(cosines.mean()), 'spread': spread}}
    for variant, figure in found[metric.name].items():
      say(f'{metric.name} ({variant}): {_line(figure)}{_published(protocol, metric.name, variant)}')
  return found


def grouped(batches: Iterator[np.ndarray], groups: int = frechet.GROUPS) -> list[Moments]:
  """The moments of `groups` disjoint groups: clip i belongs to group i mod `groups`, with all of its frames.

  Each block of clips is read once and none is kept.
  """
  parts: list[list[Moments]] = [[] for _ in range(groups)]
  seen = 0
  for block in gathered(batches):
    for group in range(groups):
      rows = rows_of(block[(group - seen) % groups :: groups])
      if len(rows):
        parts[group] = [frechet.merge_all([*parts[group], streamed([rows])])]
    seen += len(block)
  return [part[0] for part in parts if part]


def rows_of(features: np.ndarray) -> np.ndarray:
  """`[n d]`, or `[n t d]` whose frames count each: `[n d]`."""
  return features.reshape(-1, features.shape[-1])


def analyses(
  protocol: Protocol, samples: Read, splits: Mapping[str, Read], *, real_vs_real: bool, held_out: bool
) -> dict[str, Any]:
  """Diversity, motion and memorisation, by the features of the first distance that has one row per clip.

  At most 10,000 clips of each set are looked at. `held_out`: the test split was not trained on.
  """
  name = next(metric.features for metric in protocol.metrics if metric.kind == 'frechet' and metric.frames != 'each')
  reference = protocol.references[-1]
  made, real = first_rows(samples(name)), first_rows(splits[reference](name))
  prompts = np.concatenate(list(samples(PROMPT)))[: len(made)]
  repeated = len(np.unique(prompts)) < len(prompts)
  size = min(len(made), len(real))
  found: dict[str, Any] = {
    'features': name,
    'diversity': {
      'pairwise': neighbors.mean_pairwise(made),
      'pairwise_per_prompt': neighbors.mean_pairwise(made, prompts) if repeated else None,
      'pairwise_data': neighbors.mean_pairwise(real),
      **({} if size <= neighbors.NEIGHBOURS else neighbors.precision_recall(made[:size], real[:size])),
      'k': neighbors.NEIGHBOURS,
      'clips': size,
    },
    'motion': compare_motion(*(np.concatenate(list(read(MOTION))) for read in (samples, splits[reference]))),
    'memorisation': None,
  }
  if protocol.training_clips and held_out and not real_vs_real:
    train = first_rows(splits['train'](name), protocol.training_clips)
    found['memorisation'] = neighbors.memorisation(made, first_rows(splits['test'](name)), train)
  return found


def first_rows(batches: Iterator[np.ndarray], most: int = MOST) -> np.ndarray:
  """The first `most` rows of features `[n d]`."""
  held, count = [], 0
  for batch in batches:
    held.append(batch[: most - count])
    count += len(held[-1])
    if count == most:
      break
  return np.concatenate(held)


def _distance(groups: list[Moments], reference: Moments) -> dict[str, Any]:
  found = frechet.estimate(groups, reference)
  values = {'value': found.value, 'spread': found.spread, 'extrapolated': found.extrapolated, 'bias': found.bias}
  return {name: None if math.isnan(value) else value for name, value in values.items()}


def _score(batches: Iterator[np.ndarray], count: int, splits: int) -> dict[str, Any]:
  value, spread = inception_score(batches, count, splits=splits)
  return {'value': value, 'spread': spread if splits > 1 else None}


def _line(figure: Mapping[str, Any]) -> str:
  text = f'{figure["value"]:.4g}'
  if figure['spread'] is not None:
    text += f' +- {figure["spread"]:.2g}'
  if figure.get('bias') is not None:
    text += f', of which {figure["bias"]:.2g} is due to the number of samples ({figure["extrapolated"]:.4g} without)'
  return text


def _published(protocol: Protocol, metric: str, variant: str) -> str:
  values = [figure for figure in protocol.published if (figure.metric, figure.variant) == (metric, variant)]
  if not values:
    return ''
  return f'; published {", ".join(f"{figure.value:g}" for figure in values)} ({values[0].source.split(",")[0]})'
