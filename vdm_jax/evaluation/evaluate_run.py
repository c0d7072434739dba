"""Evaluating a run by a protocol, once or for each point of a sweep, and writing the record."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import feature_protocol, sweeps
from vdm_jax.evaluation.metric_records import figures_of, write_record
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.protocols.table import PROTOCOLS
from vdm_jax.evaluation.sample_protocol import SampleMeasurement, check_options
from vdm_jax.evaluation.video_folder import VideoFolder
from vdm_jax.generation.outputs import writable_folder
from vdm_jax.names import choose
from vdm_jax.runs import Run

Measure = Callable[[Mapping[str, Any]], dict[str, Any]]  # section `sampling` -> record


def evaluate_run(config: ConfigDict, run: Run | None, options: EvalOptions) -> dict[str, Any]:
  """Evaluate a run, or existing videos, by a protocol, write the record, and return it.

  The record is `FOLDER/PROTOCOL.json`, with FOLDER from `options.folder`; for real clips in place of samples
  `PROTOCOL_real.json`. A sweep measures each of its values and writes `PROTOCOL_SWEEP.json`, .csv and .png. A record
  that is there already is kept under another name. Samples and clips, or their features, are stored batch by batch in
  `FOLDER/PROTOCOL/`: the same command resumes an interrupted one with the same result. Those of another run, checkpoint
  or configuration, of clips that were replaced, or of other code are never used. Of several processes, all compute and
  the first writes.

  Args:
    config: the configuration of the run, perhaps with changes.
    run: the run to evaluate, opened; None with `options.videos`, whose `config` has the section `data` alone to say.
    options: what to measure.

  Raises:
    InvalidInput: options, run, data or files do not fit the protocol.

  >>> from vdm_jax import configuration
  >>> config = configuration.default()  # of a run: configuration.read('runs/digits/config.json')
  >>> evaluate_run(config, Run('runs/digits'), EvalOptions(protocol='digits', limit=10))
  Traceback (most recent call last):
  ...
  vdm_jax.errors.InvalidInput: --limit has no effect with --protocol=digits, which needs only the run: omit it.
  """
  protocol = choose('--protocol', options.protocol, PROTOCOLS)
  if config.data.normalization != 'pixels':
    raise InvalidInput(
      f'--protocol={protocol.name} measures pictures, but data.normalization={config.data.normalization!r}: compare '
      'samples with the data in their own units, from the .npy files of --mode=sample.'
    )
  if protocol.evaluate is not None:
    check_options(protocol, options)
  if options.sweep and options.real_vs_real:
    raise InvalidInput('--sweep and --real_vs_real are both given, but real clips have no settings: give one of them.')
  if options.videos is not None:
    _check_videos(options)
  points = sweeps.points(protocol, options.sweep, config) if options.sweep else []
  folder = writable_folder(options.folder(run))
  measure = _prepare(config, run, protocol, options)
  name = f'{protocol.name}_real' if options.real_vs_real else protocol.name
  if options.sweep == 'rows':
    for row in sweeps.left_out(protocol, config):
      print(f'left out: {row}', file=sys.stderr)
  if options.sweep:
    name, found = f'{name}_{options.sweep}', _measure_points(points, measure, config, options.sweep)
    record = {'run': run.name} | _sweep_record(found, protocol, options.sweep, config)
  else:
    record = ({} if options.videos is not None else {'run': run.name}) | measure(config.sampling.to_dict())
  if jax.process_index() == 0:
    write_record(record, folder, name)
    if options.sweep:
      sweeps.write_sweep(folder, name, sweep=options.sweep, found=found, protocol=protocol, config=config)
  return record


def _check_videos(options: EvalOptions) -> None:
  VideoFolder(options.videos)  # raises before a folder for the record is made
  for flag in ('sweep', 'real_vs_real', 'prompt_file'):
    if getattr(options, flag) not in (None, False):
      raise InvalidInput(f'--{flag} has no effect with --videos, which are measured as they are: omit it.')


def _prepare(config: ConfigDict, run: Run | None, protocol: Protocol, options: EvalOptions) -> Measure:
  if protocol.evaluate is not None:
    return SampleMeasurement(config, run, protocol, options).measure
  return functools.partial(feature_protocol.measure, feature_protocol.prepare(config, run, protocol, options))


def _measure_points(
  points: list[sweeps.Point], measure: Measure, config: ConfigDict, sweep: str
) -> list[tuple[sweeps.Point, dict[str, Any]]]:
  """Each point of a sweep with its record; prints the first figures of each."""
  key, found = sweeps.SWEEPS[sweep], []
  for point in points:
    record = measure(config.sampling.to_dict() | point.changes)
    found.append((point, record))
    (metric, variants), *_ = figures_of(record).items()
    shown = ', '.join(f'{variant} {figure["value"]:.2f}' for variant, figure in variants.items())
    print(f'{point.series}, {key}={point.value}: {metric} {shown}', file=sys.stderr)
  return found


def _sweep_record(
  found: list[tuple[sweeps.Point, dict[str, Any]]], protocol: Protocol, sweep: str, config: ConfigDict
) -> dict[str, Any]:
  if sweep == 'rows':
    return {
      'sweep': 'rows',
      'rows': [point.series for point, _ in found],
      'left_out': sweeps.left_out(protocol, config),
      'records': [record for _, record in found],
    }
  best, _ = min(found, key=lambda pair: sweeps.objective(pair[1], protocol))
  return {
    'sweep': sweeps.SWEEPS[sweep],
    'best': best.value,
    'best_sampler': best.series,
    'records': [record for _, record in found],
  }
