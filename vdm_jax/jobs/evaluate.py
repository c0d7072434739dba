"""Measuring a run by a protocol."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vdm_jax import evaluation
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import protocol_run, sweeps
from vdm_jax.evaluation.protocol_run import EvalOptions
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.protocols.published import PROTOCOLS
from vdm_jax.evaluation.resumable_arrays import fill
from vdm_jax.evaluation.score_records import figures_of
from vdm_jax.generation.outputs import writable_folder
from vdm_jax.generation.stages import open_run
from vdm_jax.runs import Run
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.runtime.resumable import digest

Measure = Callable[[Mapping[str, Any]], dict[str, Any]]  # of a section `sampling`
# Protocols that bring their networks and their clips: (generate, section `data`, seed=, num_trained=) -> record.
OFFLINE = {'digits': evaluation.evaluate_digits, 'scenes': evaluation.evaluate_scenes}


def evaluate(config: ConfigDict, run: Run, asked: EvalOptions, protocol: Protocol | None = None) -> int:
  """Measures a run by a protocol; prints the record and writes it to `workdir/evaluation/PROTOCOL.json`.

  `asked.out` stands in for `workdir/evaluation`.

  `PROTOCOL` becomes `PROTOCOL_real` for real clips in the place of samples. With a sweep it measures every value of
  it, and writes `PROTOCOL_SWEEP.json`, .csv and .png. Samples and clips leave their features in
  `workdir/evaluation/PROTOCOL/`, batch by batch: the same command goes on where a killed one was, to the same record.
  `protocol` stands in for the one that is called so.
  """
  protocol = PROTOCOLS[asked.protocol] if protocol is None else protocol
  _check(asked)
  points = sweeps.points(protocol, asked.sweep, config) if asked.sweep else []
  folder = writable_folder(asked.folder(run))
  if protocol.name in OFFLINE:
    measure = _offline(config, run, asked)
  else:
    measure = functools.partial(protocol_run.measured, protocol_run.prepare(config, run, protocol, asked))
  name = f'{protocol.name}_real' if asked.real_vs_real else protocol.name
  if not asked.sweep:
    return _report({'run': run.name} | measure(config.sampling.to_dict()), folder, name)
  found = []
  for point in points:
    record = measure(config.sampling.to_dict() | point.changes)
    found.append((point, record))
    (metric, variants), *_ = figures_of(record).items()
    shown = ', '.join(f'{variant} {figure["value"]:.2f}' for variant, figure in variants.items())
    print(f'{point.series}, {sweeps.SWEEPS[asked.sweep]}={point.value}: {metric} {shown}', file=sys.stderr)
  name = f'{name}_{asked.sweep}'
  if not jax.process_index():
    sweeps.write(folder, name, asked.sweep, found, protocol, config.data.frame_skip)
  best, _ = min(found, key=lambda pair: _distance(pair[1], protocol))
  record = {
    'run': run.name,
    'sweep': sweeps.SWEEPS[asked.sweep],
    'best': best.value,
    'best_sampler': best.series,
    'records': [record for _, record in found],
  }
  return _report(record, folder, name)


def _check(asked: EvalOptions) -> None:
  if asked.protocol in OFFLINE:
    for flag in ('features', 'prompt_file', 'limit'):
      if getattr(asked, flag) is not None:
        raise InvalidInput(
          f'--{flag} is not read by --protocol={asked.protocol}, which brings all it needs: leave it out.'
        )
    if asked.real_vs_real:
      raise InvalidInput(
        f'--real_vs_real is part of every record of --protocol={asked.protocol}, as `real`: leave it out.'
      )
  if asked.sweep and asked.real_vs_real:
    raise InvalidInput('--sweep and --real_vs_real are both given, but real clips have no settings: give one of them.')


def _offline(config: ConfigDict, run: Run, asked: EvalOptions) -> Measure:
  """A protocol that needs no files: its samples are kept themselves, for they are small."""
  make_generate = open_run(config, run)
  step = run.step
  folder = asked.folder(run) / asked.protocol

  def measure(sampling: Mapping[str, Any]) -> dict[str, Any]:
    generate = make_generate(sampling)

    def resumable(prompts: Sequence[str]) -> np.ndarray:
      size, prompts = asked.batch_size, list(prompts)
      job = {
        'step': step,
        'seed': config.seed,
        'sampling': dict(sampling),
        'prompts': prompts,
        'batch_size': size,
        'model': config.model.to_dict(),
        'first': config.training.first_stage,
      }

      def make(number: int) -> dict[str, np.ndarray]:
        some = prompts[number * size : (number + 1) * size]
        padded = some + some[-1:] * (size - len(some))
        return {'videos': generate(prompts=padded, seed=config.seed, first=number * size)[: len(some)]}

      batches = fill(folder, 'samples', job, len(prompts), make, batch_size=size)
      return np.concatenate(list(batches.read('videos')))

    try:
      record = OFFLINE[asked.protocol](
        resumable, config.data, seed=config.seed, num_trained=step * config.data.batch_size
      )
    except (ValueError, FloatingPointError) as error:
      raise InvalidInput(str(error)) from error
    return record | {'step': step, 'seed': config.seed, 'sampling': dict(sampling), 'model': 'EMA'}

  return measure


def _distance(record: Mapping[str, Any], protocol: Protocol) -> float:
  """What a sweep is to make small: the first distance of the protocol."""
  metric = next(metric.name for metric in protocol.metrics if metric.kind == 'frechet')
  if 'metrics' not in record:
    return record[metric]
  return list(record['metrics'][metric].values())[-1]['value']


def _report(record: dict[str, Any], folder: Path, name: str) -> int:
  """Prints a record and writes it, as the first process; one that stood there under this name is kept beside it."""
  if jax.process_index():
    return 0
  text = json.dumps(record, indent=2)
  path = folder / f'{name}.json'
  if path.exists() and (before := path.read_text()) != text + '\n':
    write_text(folder / f'{name}_{digest(before)}.json', before)
  write_text(path, text + '\n')
  print(text)
  return 0
