"""Measuring a run by a protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import checkpoints, evaluation
from vdm_jax.jobs.arguments import BadInput
from vdm_jax.jobs.files import writable
from vdm_jax.jobs.run import open_run

PROTOCOLS = ('digits',)
# What --sweep varies: a key of `sampling`, and its values. Guidance: those of Snap's Fig. 5 up to 8.
SWEEPS = {
  'guidance': ('guidance_weight', (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)),
  'steps': ('num_steps', (8, 16, 32, 64, 128, 256)),
  'augmentation': ('augmentation', (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)),
}


def evaluate(config: ConfigDict, workdir: str, protocol: str, sweep: str | None = None) -> int:
  """Measures a run by a protocol; prints the record and writes it to `workdir/evaluation/PROTOCOL.json`.

  With a sweep it measures every value of it, and writes `PROTOCOL_SWEEP.json`.
  """
  _, make_generate = open_run(config, workdir)
  if sweep is None:
    return _report(_measure(config, workdir, protocol, make_generate), workdir, protocol)
  key, values = SWEEPS[sweep]
  if sweep == 'augmentation' and config.model.upsampling == 1:
    raise BadInput('--sweep=augmentation is for a second stage: this model has no low-resolution input.')
  records = []
  for value in values:
    config.sampling[key] = value
    records.append(_measure(config, workdir, protocol, make_generate))
    print(f'{key}={value}: frechet {records[-1]["frechet"]:.2f}', file=sys.stderr)
  best = min(range(len(values)), key=lambda i: records[i]['frechet'])
  return _report({'sweep': key, 'best': values[best], 'records': records}, workdir, f'{protocol}_{sweep}')


def _measure(
  config: ConfigDict, workdir: str, protocol: str, make_generate: Callable[[ConfigDict], Callable[..., np.ndarray]]
) -> dict[str, Any]:
  generate = make_generate(config.sampling)
  try:
    record = {'digits': evaluation.evaluate_digits}[protocol](
      lambda prompts: generate(prompts=prompts, seed=config.seed), config.data
    )
  except ValueError as error:
    raise BadInput(str(error)) from error
  step = checkpoints.latest_step(workdir)
  return record | {'step': step, 'seed': config.seed, 'sampling': config.sampling.to_dict(), 'model': 'EMA'}


def _report(record: dict[str, Any], workdir: str, name: str) -> int:
  text = json.dumps(record, indent=2)
  (writable(Path(workdir) / 'evaluation') / f'{name}.json').write_text(text + '\n')
  print(text)
  return 0
