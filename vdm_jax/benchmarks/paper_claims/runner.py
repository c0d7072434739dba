"""Runs every arm and seed of a claim, stores each result at once, and writes the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vdm_jax import checkpoints, configuration, jobs, pretrained
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Row, Rows
from vdm_jax.benchmarks.paper_claims.intervals import paired, verdict
from vdm_jax.generation.stages import CODE
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.runtime.hashing import code_hash
from vdm_jax.runtime.resumable import differences

REMOVE = 'remove the file to measure again'


def rows(claim: Claim, out: Path, seeds: Sequence[int]) -> Rows:
  """Return the results of every arm and seed; measure those that `out/NAME/` lacks. Runs are in `out/runs/`.

  All arms of a seed are measured before the next seed.

  Raises:
    ValueError: a stored result was measured with other settings.
  """
  found: dict[str, list[Row]] = {name: [] for name in claim.arms}
  for seed in seeds:
    for name, arm in claim.arms.items():
      found[name].append(_row(claim, name, arm, out, seed))
  return found


def report(claim: Claim, found: Rows, command: str) -> dict[str, Any]:
  """Return the published results of a claim: means, paired differences to the baseline, verdicts, and all rows."""
  values = {name: {key: [row[key] for row in seeds] for key in claim.scores} for name, seeds in found.items()}
  base = values[claim.baseline]
  comparisons = []
  for comparison in claim.comparisons:
    of, to, score, expected = comparison
    difference = paired(values[of][score], values[to][score])
    comparisons.append(comparison._asdict() | difference | {'verdict': verdict(difference, expected)})
  real = [row['real'] for row in next(iter(found.values())) if 'real' in row]
  return {
    'claim': claim.name,
    'source': claim.source,
    'says': claim.statement,
    'setting': claim.setting,
    'command': command,
    'hardware': f'{jax.devices()[0].device_kind}, {jax.device_count()} devices',
    'seeds': len(next(iter(found.values()))),
    'baseline': claim.baseline,
    'scores': dict(claim.scores),
    'means': {name: {key: float(np.mean(column)) for key, column in scores.items()} for name, scores in values.items()},
    'differences': {
      name: {key: paired(column, base[key]) for key, column in scores.items()}
      for name, scores in values.items()
      if name != claim.baseline
    },
    'judged': comparisons,
    'real': {key: float(np.mean([one[key] for one in real])) for key in real[0]} if real else {},
    'rows': {name: list(seeds) for name, seeds in found.items()},
  }


def table(report: Mapping[str, Any]) -> str:
  """Return Markdown tables of the mean scores (with differences to the baseline in brackets) and of the verdicts."""
  columns = report['scores']
  lines = ['| ' + ' | '.join(['', *columns.values()]) + ' |', '|---' * (len(columns) + 1) + '|']
  for name, means in report['means'].items():
    cells = [name]
    for key in columns:
      cell = f'{means[key]:.3f}'
      if name in report['differences']:
        cell += ' ({mean:+.3f} ± {half_width:.3f})'.format(**report['differences'][name][key])
      cells.append(cell)
    lines.append('| ' + ' | '.join(cells) + ' |')
  if report['real']:
    cells = [f'{report["real"][key]:.3f}' if key in report['real'] else '' for key in columns]
    lines.append('| ' + ' | '.join(['real clips', *cells]) + ' |')
  lines += ['', '| expected | difference | verdict |', '|---|---|---|']
  for row in report['judged']:
    expected = f'{columns[row["score"]]}: {row["of"]} {row["expected"]} than {row["to"]}'
    lines.append(f'| {expected} | {row["mean"]:+.3f} ± {row["half_width"]:.3f} | {row["verdict"]} |')
  return '\n'.join(lines) + '\n'


def write(claim: Claim, report: Mapping[str, Any], folder: Path) -> None:
  """Write `NAME.json`, `NAME.md` and `NAME.png` to a folder."""
  write_text(folder / f'{claim.name}.json', json.dumps(report, indent=1) + '\n')
  write_text(folder / f'{claim.name}.md', table(report))
  claim.draw(folder / f'{claim.name}.png', report['rows'])


def train(config: ConfigDict, workdir: Path) -> None:
  """Train a configuration in `workdir`, or resume it, up to `training.num_steps`. Exits if training is interrupted.

  Raises:
    ValueError: the run is already past that step.
  """
  done, wanted = (checkpoints.steps(workdir) or [0])[-1], config.training.num_steps
  if done > wanted:
    raise ValueError(f'{workdir} is at step {done}, past the step to measure, {wanted}: move it away.')
  if done < wanted and (status := jobs.train(config, str(workdir))):
    sys.exit(status)


def _row(claim: Claim, name: str, arm: Arm, out: Path, seed: int) -> Row:
  """Return the stored result of an arm and seed, or train, measure and store it."""
  path = out / claim.name / f'{name}, seed {seed}.json'
  shipped = isinstance(arm.run, str)
  workdir = arm.run if shipped else out / 'runs' / f'{arm.run.name}_seed_{seed}'
  config = None if shipped else arm.run.config()
  if config is not None:
    config.seed = seed
    config.training.num_steps = arm.num_steps or config.training.num_steps
  requested = {
    'run': _shipped(arm.run) if shipped else configuration.to_dict(config),
    'settings': dict(arm.settings),
    'seed': seed,
    'code': code_hash(*CODE, 'evaluation', 'benchmarks/paper_claims'),
  }
  requested = json.loads(json.dumps(requested))
  if path.exists():
    stored = json.loads(path.read_text())
    if not shipped:  # settings that are newer than the result had their defaults
      stored['asked']['run'] = configuration.complete(stored['asked']['run'])
    if differs := differences(json.loads(json.dumps(stored['asked'])), requested):
      raise ValueError(f'{path} was measured with another {", ".join(differs)}: use another --out, or {REMOVE}.')
    if not shipped and stored.get('weights') and _weights(workdir, config) not in (None, stored['weights']):
      raise ValueError(f'{path} was measured before {workdir} was trained anew: {REMOVE}.')
    return stored['row']
  if not shipped:
    train(config, workdir)
  row = claim.measure(str(workdir), seed, arm.settings)
  weights = None if shipped else _weights(workdir, config)
  write_text(path, json.dumps({'asked': requested, 'weights': weights, 'row': row}, indent=1) + '\n')
  scores = ', '.join(f'{title} {row[key]:.3f}' for key, title in claim.scores.items())
  print(f'{claim.name}, {name}, seed {seed}: {scores}', file=sys.stderr, flush=True)
  return row


def _weights(workdir: Path, config: ConfigDict) -> str | None:
  """The hash of the checkpoint to measure; None if it was deleted."""
  try:
    return checkpoints.content_hash(workdir, config.training.num_steps)
  except FileNotFoundError:
    return None


def _shipped(run: str) -> dict[str, str]:
  """Return the identity of a shipped model, so that results of other weights are not reused."""
  return {'name': run, 'sha256': pretrained.card(run.removeprefix(pretrained.PREFIX))['sha256']}
