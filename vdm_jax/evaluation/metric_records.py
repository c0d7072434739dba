"""Records of evaluations: writing them, reading their figures, and comparing two of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdm_jax.evaluation.protocols.table import PROTOCOLS
from vdm_jax.names import choose
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.runtime.resumable import digest

# Two records with different values of these are not comparable. Seeds, settings, checkpoints, runs may differ.
SHARED = ('protocol', 'weights', 'counts', 'num_videos', 'references')


def write_record(record: Mapping[str, Any], folder: Path, name: str) -> None:
  """Write a record to `NAME.json`.

  An existing record with other content, as of another run or checkpoint, is first moved to `NAME_DIGEST.json`, and the
  table and the plot beside it to the same name; the new names are printed.
  """
  text = json.dumps(record, indent=2)
  path = folder / f'{name}.json'
  if path.exists() and (before := path.read_text()) != text + '\n':
    kept = f'{name}_{digest(before)}'
    for suffix in ('.csv', '.png', '.json'):  # the record last, so that an interruption leaves it in place
      if (old := folder / f'{name}{suffix}').exists():
        os.replace(old, folder / f'{kept}{suffix}')
    print(f'the record that {path} held before is now {folder / kept}.json', file=sys.stderr)
  write_text(path, text + '\n')


def figures_of(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
  """Return the figures of a record of any protocol: `{metric: {variant: {value, spread, ...}}}`.

  For protocols with figures at the top level of the record (`Protocol.record_figures`), the metric is the name of the
  protocol, and the figures are its variants.

  >>> figures_of({'protocol': 'digits', 'digit': 0.9, 'frechet': 20.0, 'num_videos': 120})['digits']['digit']
  {'value': 0.9, 'spread': None}
  """
  if 'metrics' in record:
    return record['metrics']
  protocol = choose('protocol', record['protocol'], PROTOCOLS)
  names = [name for name in protocol.record_figures if name in record]
  return {protocol.name: {name: {'value': record[name], 'spread': None} for name in names}}


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
  """Return how record b differs from record a: `{metric: {variant: {a, b, difference, spread}}}`.

  The spread is that of the difference of independent values, None if one of their spreads is unknown.

  Args:
    a: a record of `--mode=evaluate`.
    b: another one.

  Raises:
    ValueError: the records differ in protocol, feature networks, number of clips or reference clips, so their figures
      are not comparable. The message lists each difference.

  >>> record = {'protocol': 'digits', 'num_videos': 120, 'digit': 0.5}
  >>> compare(record, record | {'digit': 0.75})
  {'digits': {'digit': {'a': 0.5, 'b': 0.75, 'difference': 0.25, 'spread': None}}}
  """
  differ = [key for key in SHARED if a.get(key) != b.get(key)]
  if differ:
    shown = '; '.join(f'{key} is {a.get(key)!r} and {b.get(key)!r}' for key in differ)
    raise ValueError(f'the records are not comparable: {shown}. Measure both by the same protocol with the same files.')
  first, second = figures_of(a), figures_of(b)
  return {
    metric: {
      variant: _difference(variants[variant], second[metric][variant])
      for variant in variants
      if variant in second.get(metric, {})
    }
    for metric, variants in first.items()
  }


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
  spreads = (a['spread'], b['spread'])
  spread = None if None in spreads else sum(value**2 for value in spreads) ** 0.5
  return {'a': a['value'], 'b': b['value'], 'difference': b['value'] - a['value'], 'spread': spread}
