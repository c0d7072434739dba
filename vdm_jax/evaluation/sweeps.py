"""Sweeps: one run measured at several values of a setting, with a table and plots (VDM Table 5, Snap Figs. 5 and 6).

`rows` measures once for each published row that the run can reproduce: its `sampling` settings are set, and rows of
another model are left out by name.
"""

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
from vdm_jax.evaluation.protocols import rows
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.generation.sampler import STEP_SETTINGS
from vdm_jax.runtime.atomic_files import write_text

AUGMENTATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
# What varies: a key of `sampling`, or the number of a row.
SWEEPS = {'guidance': 'guidance_weight', 'steps': 'num_steps', 'augmentation': 'noise_aug_level', 'rows': 'row'}
COLUMNS = ('series', 'x', 'metric', 'variant', 'value', 'spread', 'published')


class Point(NamedTuple):
  """One measurement of a sweep."""

  series: str  # the sampler, or the row
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
  if sweep == 'rows':
    return _rows(protocol, config)
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
  fixed = dict(protocol.steps_sampling)
  changes = {name: fixed | _change_step(name, config) for name in samplers}
  return [Point(name, value, changes[name] | {key: value}) for name in samplers for value in _listed(protocol, sweep)]


def left_out(protocol: Protocol, config: ConfigDict) -> list[str]:
  """Return the published rows that this run cannot reproduce, each with the reason."""
  found = []
  for row in rows.rows_of(protocol):
    if differ := rows.differences(row.setting, config):
      reasons = '; '.join(
        f'{key} is {"not part of this run" if has is None else has}, not {wanted}'
        for key, (wanted, has) in differ.items()
      )
      found.append(f'{row.label}: {reasons}')
  return found


def _rows(protocol: Protocol, config: ConfigDict) -> list[Point]:
  known = rows.rows_of(protocol)
  if not known:
    raise InvalidInput(f'--sweep=rows has no effect with --protocol={protocol.name}, which has no published rows.')
  found = []
  for number, row in enumerate(known, 1):
    if not rows.differences(row.setting, config):
      keys = {key.removeprefix(rows.SAMPLING): v for key, v in row.setting.items() if key.startswith(rows.SAMPLING)}
      step = keys.get('step', config.sampling.step)
      found.append(Point(row.label, number, _change_step(step, config) | keys))
  if not found:
    raise InvalidInput(
      '\n  '.join(
        [f'--sweep=rows: this run can reproduce none of the published rows of --protocol={protocol.name}.']
        + left_out(protocol, config)
      )
    )
  return found


def write_sweep(
  folder: Path,
  name: str,
  *,
  sweep: str,
  found: Sequence[tuple[Point, Mapping[str, Any]]],
  protocol: Protocol,
  config: ConfigDict,
) -> None:
  """Write `NAME.csv`, with a row for each figure, and `NAME.png`, with a plot for each metric (not for `rows`).

  Args:
    folder: of the records.
    name: of the files.
    sweep: key of SWEEPS.
    found: each point with its record.
    protocol: the protocol, with its published values.
    config: of the run, on which published values depend.
  """
  lines_of_csv = [
    (
      point.series,
      point.value,
      metric,
      variant,
      figure['value'],
      figure['spread'],
      _published(protocol, sweep, metric, variant, point, config),
    )
    for point, record in found
    for metric, variants in figures_of(record).items()
    for variant, figure in variants.items()
  ]
  text = io.StringIO()
  table = csv.writer(text, lineterminator='\n')
  table.writerow([SWEEPS[sweep] if column == 'x' else column for column in COLUMNS])
  table.writerows([['' if cell is None else cell for cell in line] for line in lines_of_csv])
  write_text(folder / f'{name}.csv', text.getvalue())
  if sweep == 'rows':
    return
  lines: dict[str, dict[str, list[tuple[float, float, float | None]]]] = {}
  several = len({point.series for point, _ in found}) > 1
  for series, x, metric, variant, value, spread, published in lines_of_csv:
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


def _change_step(step: str, config: ConfigDict) -> dict[str, Any]:
  """The step, and the keys of `sampling` that only other steps read, reset to the value without effect."""
  keys = {key: off for owner, keys in STEP_SETTINGS.items() if owner != step for key, off in keys.items()}
  return {'step': step} | {key: off for key, off in keys.items() if config.sampling[key] != off}


def _published(
  protocol: Protocol, sweep: str, metric: str, variant: str, point: Point, config: ConfigDict
) -> float | None:
  """The published value of the row, or of a row with the value of the sweep and otherwise the same setting."""
  sampling = config.sampling.to_dict() | point.changes
  for figure in protocol.published:
    setting = dict(figure.setting)
    if (figure.metric, figure.variant) != (metric, variant):
      continue
    if sweep == 'rows':
      same = rows.Row(figure.source, setting).label == point.series
    else:
      value = setting.get(f'{rows.SAMPLING}{SWEEPS[sweep]}')
      same = value == point.value and not rows.differences(setting, config, sampling)
    if same:
      return figure.value
  return None
