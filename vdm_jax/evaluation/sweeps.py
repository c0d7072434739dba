"""Sweeps: one run measured at several values of a setting, with a table and plots (VDM Table 5, Snap Figs. 5 and 6)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vdm_jax import plots
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.metric_records import figures_of
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.generation.sampler import STEP_SETTINGS
from vdm_jax.runtime.atomic_files import write_text

AUGMENTATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
SWEEPS = {'guidance': 'guidance_weight', 'steps': 'num_steps', 'augmentation': 'noise_aug_level'}  # key of `sampling`
COLUMNS = ('series', 'x', 'metric', 'variant', 'value', 'spread', 'published')


class Point(NamedTuple):
  """One measurement of a sweep."""

  series: str  # the sampler
  value: float
  changes: dict[str, Any]  # keys of `sampling`


def points(protocol: Protocol, sweep: str, config: ConfigDict) -> list[Point]:
  """Return what a sweep measures, in order.

  Args:
    protocol: the protocol.
    sweep: key of SWEEPS.
    config: of the run.

  Raises:
    InvalidInput: the protocol does not include this sweep, or the model does not have the setting.
  """
  key, step = SWEEPS[sweep], config.sampling.step
  if protocol.evaluate is not None and protocol.objective is None:
    raise InvalidInput(f'--sweep is not part of --protocol={protocol.name}: omit it.')
  if sweep == 'augmentation':
    if config.model.upsampling == 1:
      raise InvalidInput('--sweep=augmentation needs a second stage, but this model has no low-resolution input.')
    return [Point(step, value, {key: value}) for value in AUGMENTATIONS]
  if sweep == 'guidance':
    if config.data.text == 'none' and not config.data.labels:
      raise InvalidInput(
        '--sweep=guidance needs a model conditioned on text or classes, but this model is unconditional.'
      )
    fixed = dict(protocol.guidance_sampling)
    return [Point(fixed.get('step', step), value, fixed | {key: value}) for value in _listed(protocol, sweep)]
  samplers = protocol.samplers or (step,)
  changes = {name: {'step': name} | (_without_noise(name, config) if name != step else {}) for name in samplers}
  return [Point(name, value, changes[name] | {key: value}) for name in samplers for value in _listed(protocol, sweep)]


def write_sweep(
  folder: Path,
  name: str,
  *,
  sweep: str,
  found: Sequence[tuple[Point, Mapping[str, Any]]],
  protocol: Protocol,
  frame_skip: int,
) -> None:
  """Write `NAME.csv`, with a row for each figure, and `NAME.png`, with a plot for each metric.

  Args:
    folder: of the records.
    name: of the files.
    sweep: key of SWEEPS.
    found: each point with its record.
    protocol: the protocol, with its published values.
    frame_skip: `data.frame_skip` of the run, on which published values may depend.
  """
  rows = [
    (
      point.series,
      point.value,
      metric,
      variant,
      figure['value'],
      figure['spread'],
      _published(protocol, sweep, metric, variant, point, frame_skip),
    )
    for point, record in found
    for metric, variants in figures_of(record).items()
    for variant, figure in variants.items()
  ]
  text = io.StringIO()
  table = csv.writer(text, lineterminator='\n')
  table.writerow([SWEEPS[sweep] if column == 'x' else column for column in COLUMNS])
  table.writerows([['' if cell is None else cell for cell in row] for row in rows])
  write_text(folder / f'{name}.csv', text.getvalue())
  lines: dict[str, dict[str, list[tuple[float, float, float | None]]]] = {}
  several = len({point.series for point, _ in found}) > 1
  for series, x, metric, variant, value, spread, published in rows:
    line = f'{series}, {variant}' if several else variant
    lines.setdefault(metric, {}).setdefault(line, []).append((x, value, spread))
    if published is not None:
      lines[metric].setdefault(f'{variant}, published', []).append((x, published, None))
  plots.draw_sweep(folder / f'{name}.png', lines, x=f'sampling.{SWEEPS[sweep]}', log=sweep == 'steps')


def objective(record: Mapping[str, Any], protocol: Protocol) -> float:
  """Return what a sweep minimizes: the last variant of the first metric, negated if higher is better.

  Protocols with `evaluate` name it (`Protocol.objective`).
  """
  figures = figures_of(record)
  if protocol.evaluate is not None:
    metric, variant = protocol.objective
    return figures[metric][variant]['value']
  metric = protocol.metrics[0]
  value = list(figures[metric.name].values())[-1]['value']
  return value if METRICS[metric.kind].lower_is_better else -value


def _listed(protocol: Protocol, sweep: str) -> tuple[float, ...]:
  values = {'guidance': protocol.guidance_weights, 'steps': protocol.num_steps}[sweep]
  if not values:
    raise InvalidInput(f'--sweep={sweep} is not part of --protocol={protocol.name}: omit it.')
  return values


def _without_noise(step: str, config: ConfigDict) -> dict[str, Any]:
  """The keys of `sampling` that only other steps read, reset to the value without effect."""
  keys = {key: off for owner, keys in STEP_SETTINGS.items() if owner != step for key, off in keys.items()}
  return {key: off for key, off in keys.items() if config.sampling[key] != off}


def _published(
  protocol: Protocol, sweep: str, metric: str, variant: str, point: Point, frame_skip: int
) -> float | None:
  wanted = (f'sampling.{SWEEPS[sweep]}', point.value)
  for figure in protocol.published:
    setting = dict(figure.setting)
    same = (figure.metric, figure.variant) == (metric, variant) and setting.get(wanted[0]) == wanted[1]
    if same and setting.get('data.frame_skip', frame_skip) == frame_skip:
      return figure.value
  return None
