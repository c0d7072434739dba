"""Records of measurements, and when two of them can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What two records must share. Seeds, settings, checkpoints, runs, and real clips or samples are what may be compared.
SHARED = ('protocol', 'weights', 'counts', 'num_videos', 'references')


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
  """How record b differs from record a: `{metric: {variant: {a, b, difference, spread}}}`.

  `spread` is that of the difference of independent values, None where one of theirs is not known. Of the protocol
  `digits` every figure is a variant of the metric `digits`.

  Raises ValueError, naming each thing that differs, for records of different protocols, feature networks, numbers of
  clips or reference clips: their figures are not of the same quantity.
  """
  differ = [key for key in SHARED if a.get(key) != b.get(key)]
  if differ:
    shown = '; '.join(f'{key} is {a.get(key)!r} and {b.get(key)!r}' for key in differ)
    raise ValueError(
      f'these records cannot be compared: {shown}. Measure both by the same protocol, with the same files.'
    )
  first, second = figures_of(a), figures_of(b)
  return {
    metric: {
      variant: _difference(variants[variant], second[metric][variant])
      for variant in variants
      if variant in second.get(metric, {})
    }
    for metric, variants in first.items()
  }


def figures_of(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
  """`{metric: {variant: {value, spread, ...}}}` of a record of any protocol."""
  if 'metrics' in record:
    return record['metrics']
  names = ('digit', 'direction', 'frame_consistency', 'frechet')
  return {'digits': {name: {'value': record[name], 'spread': None} for name in names if name in record}}


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
  spreads = (a['spread'], b['spread'])
  spread = None if None in spreads else sum(value**2 for value in spreads) ** 0.5
  return {'a': a['value'], 'b': b['value'], 'difference': b['value'] - a['value'], 'spread': spread}
