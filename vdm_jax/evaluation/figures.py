"""From stored arrays to the figures of a record, with a few batches in memory at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vdm_jax.evaluation.metrics import neighbors
from vdm_jax.evaluation.metrics.contract import MetricInputs
from vdm_jax.evaluation.metrics.motion import compare_motion
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.protocols.contract import Protocol

Read = Callable[[str], Iterator[np.ndarray]]  # name of stored arrays -> their batches [b ...], in order

MOTION, TEXT, PROMPT = 'motion', 'text', 'prompt'  # stored for each clip besides the arrays of metrics
MOST_ROWS = 10_000  # clips used for distances between single features


def compute_figures(
  protocol: Protocol,
  samples: Read,
  references: Mapping[str, Read],
  count: int,
  *,
  report: Callable[[str], None],
  beside: Callable[[str, str], str],
) -> dict[str, dict[str, Any]]:
  """Return the metrics of a record, `{metric: {variant: {value, spread, ...}}}`, and report each in a line.

  Args:
    protocol: the protocol.
    samples: reads the samples' arrays.
    references: reads the real clips' arrays, by split.
    count: number of samples.
    report: called with each line.
    beside: (metric, variant) -> what the line says beside the value, such as published ones.
  """
  found: dict[str, dict[str, Any]] = {}
  for metric in protocol.metrics:
    kind = METRICS[metric.kind]
    inputs = MetricInputs(
      name=metric.name,
      count=count,
      samples=functools.partial(samples, metric.features),
      references={split: functools.partial(references[split], metric.features) for split in protocol.references},
      text=functools.partial(samples, TEXT) if kind.needs_text else None,
    )
    found[metric.name] = kind.compute(inputs)
    for variant, figure in found[metric.name].items():
      report(f'{metric.name} ({variant}): {_line(figure)}{beside(metric.name, variant)}')
  return found


def compute_analyses(
  protocol: Protocol, samples: Read, splits: Mapping[str, Read], *, real_vs_real: bool, held_out: bool
) -> dict[str, Any]:
  """Return diversity, motion and memorization of the samples.

  Distances are between the features of the protocol's first metric with one row per clip, of at most 10,000 clips of
  each set. Without such a metric, diversity and memorization are None.

  Args:
    protocol: the protocol.
    samples: reads the samples' arrays.
    splits: reads the real clips' arrays, by split.
    real_vs_real: whether real clips take the place of samples.
    held_out: whether the test split was not trained on.
  """
  name = next((metric.features for metric in protocol.metrics if metric.network and metric.frames != 'each'), None)
  reference = protocol.references[-1]
  found: dict[str, Any] = {
    'features': name,
    'diversity': None,
    'motion': compare_motion(*(np.concatenate(list(read(MOTION))) for read in (samples, splits[reference]))),
    'memorisation': None,
  }
  if name is None:
    return found
  made = first_rows(samples(name))
  found['diversity'] = _diversity(made, first_rows(splits[reference](name)), np.concatenate(list(samples(PROMPT))))
  if protocol.training_clips and held_out and not real_vs_real:
    train = first_rows(splits['train'](name), protocol.training_clips)
    found['memorisation'] = neighbors.memorization(made, first_rows(splits['test'](name)), train)
  return found


def first_rows(batches: Iterator[np.ndarray], most: int = MOST_ROWS) -> np.ndarray:
  """Return the first `most` rows of features `[n d]`."""
  held, count = [], 0
  for batch in batches:
    held.append(batch[: most - count])
    count += len(held[-1])
    if count == most:
      break
  return np.concatenate(held)


def _diversity(made: np.ndarray, real: np.ndarray, prompts: np.ndarray) -> dict[str, Any]:
  prompts = prompts[: len(made)]
  repeated = len(np.unique(prompts)) < len(prompts)
  size = min(len(made), len(real))
  return {
    'pairwise': neighbors.mean_pairwise(made),
    'pairwise_per_prompt': neighbors.mean_pairwise(made, prompts) if repeated else None,
    'pairwise_data': neighbors.mean_pairwise(real),
    **({} if size <= neighbors.NEIGHBORS else neighbors.precision_recall(made[:size], real[:size])),
    'k': neighbors.NEIGHBORS,
    'clips': size,
  }


def _line(figure: Mapping[str, Any]) -> str:
  text = f'{figure["value"]:.4g}'
  if figure['spread'] is not None:
    text += f' +- {figure["spread"]:.2g}'
  if figure.get('bias') is not None:
    text += f', of which {figure["bias"]:.2g} is due to the number of samples ({figure["extrapolated"]:.4g} without)'
  return text
