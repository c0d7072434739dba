"""Runs a claim's arms with every seed, keeps each result as it comes, and makes the report of all."""

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
from vdm_jax.benchmarks.paper_claims.intervals import judge, paired
from vdm_jax.runtime.atomic_files import write_text


def rows(claim: Claim, out: Path, seeds: Sequence[int]) -> Rows:
  """The results of every arm and seed, those that `out/NAME/` holds read from there; runs are in `out/runs/`.

  All arms of a seed come before those of the next. Raises ValueError where a result was measured in another way.
  """
  found: dict[str, list[Row]] = {name: [] for name in claim.arms}
  for seed in seeds:
    for name, arm in claim.arms.items():
      found[name].append(_row(claim, name, arm, out, seed))
  return found


def report(claim: Claim, found: Rows, command: str) -> dict[str, Any]:
  """What is published of a claim: means, every arm's paired difference to the baseline, verdicts, and the rows."""
  values = {name: {key: [row[key] for row in seeds] for key in claim.scores} for name, seeds in found.items()}
  base = values[claim.baseline]
  judged = []
  for comparison in claim.judged:
    of, to, score, expected = comparison
    difference = paired(values[of][score], values[to][score])
    judged.append(comparison._asdict() | difference | {'verdict': judge(difference, expected)})
  real = [row['real'] for row in next(iter(found.values())) if 'real' in row]
  return {
    'claim': claim.name,
    'source': claim.source,
    'says': claim.says,
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
    'judged': judged,
    'real': {key: float(np.mean([one[key] for one in real])) for key in real[0]} if real else {},
    'rows': {name: list(seeds) for name, seeds in found.items()},
  }


def table(report: Mapping[str, Any]) -> str:
  """Markdown: a row per arm with its mean scores, in brackets their difference to the baseline; then the verdicts."""
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
  """`NAME.json`, `NAME.md` and `NAME.png` in a folder."""
  write_text(folder / f'{claim.name}.json', json.dumps(report, indent=1) + '\n')
  write_text(folder / f'{claim.name}.md', table(report))
  claim.draw(folder / f'{claim.name}.png', report['rows'])


def trained(config: ConfigDict, workdir: Path) -> None:
  """Trains the configuration in `workdir`, or the rest of it, unless that was done before.

  Ends the program where training was asked to stop. Raises ValueError where the run is past the step asked for.
  """
  done, wanted = (checkpoints.steps(workdir) or [0])[-1], config.training.num_steps
  if done > wanted:
    raise ValueError(f'{workdir} is at step {done}, past step {wanted} that is to be measured: move it away.')
  if done < wanted and (status := jobs.train(config, str(workdir))):
    sys.exit(status)


def _row(claim: Claim, name: str, arm: Arm, out: Path, seed: int) -> Row:
  path = out / claim.name / f'{name}, seed {seed}.json'
  shipped = isinstance(arm.run, str)
  config = None if shipped else arm.run.config()
  if config is not None:
    config.seed = seed
    config.training.num_steps = arm.num_steps or config.training.num_steps
  asked = {
    'run': _shipped(arm.run) if shipped else configuration.to_dict(config),
    'settings': dict(arm.settings),
    'seed': seed,
  }
  asked = json.loads(json.dumps(asked))
  if path.exists():
    held = json.loads(path.read_text())
    if not shipped:  # settings that it was too early to know had their defaults
      held['asked']['run'] = configuration.complete(held['asked']['run'])
    if json.loads(json.dumps(held['asked'])) != asked:
      raise ValueError(f'{path} was measured with other settings than those asked for: use another --out.')
    return held['row']
  workdir = arm.run if shipped else out / 'runs' / f'{arm.run.name}_seed_{seed}'
  if not shipped:
    trained(config, workdir)
  row = claim.measure(str(workdir), seed, arm.settings)
  write_text(path, json.dumps({'asked': asked, 'row': row}, indent=1) + '\n')
  scores = ', '.join(f'{title} {row[key]:.3f}' for key, title in claim.scores.items())
  print(f'{claim.name}, {name}, seed {seed}: {scores}', file=sys.stderr, flush=True)
  return row


def _shipped(run: str) -> dict[str, str]:
  """Which weights of the package, so that results of others are not taken for theirs."""
  return {'name': run, 'sha256': pretrained.card(run.removeprefix(pretrained.PREFIX))['sha256']}
