"""Protocols with metrics: opens everything they need, and computes the record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vdm_jax import partitioning, runtime
from vdm_jax.data import ExampleClips
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import figures
from vdm_jax.evaluation.clip_subsets import ClipSubset, choose_real_samples, choose_references, open_splits
from vdm_jax.evaluation.conditions import Conditions, conditions_of_clips, conditions_of_videos, make_conditions
from vdm_jax.evaluation.feature_files import open_networks, open_text_encoder
from vdm_jax.evaluation.features import Extractor
from vdm_jax.evaluation.measurement import Measurement, checksum, reference_arrays, sample_arrays
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols import rows
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.sample_protocol import describe_stages
from vdm_jax.evaluation.video_folder import VideoFolder
from vdm_jax.generation.stages import Stage, open_stages
from vdm_jax.names import choose
from vdm_jax.runs import Run


def prepare(config: ConfigDict, run: Run | None, protocol: Protocol, options: EvalOptions) -> Measurement:
  """Open everything that measuring a run, or videos, by a protocol needs.

  Raises:
    InvalidInput: files, data or options are missing, or do not fit the protocol.
    ValueError: the protocol names an unknown metric or feature network.
  """
  mesh = partitioning.make_mesh({'data': -1}, jax.local_devices())
  videos = None if options.videos is None else VideoFolder(options.videos)
  protocol = _adapted(protocol, config, videos)
  _check_metrics(protocol)
  if videos is None:
    _check_model(protocol, config)
  if options.batch_size % mesh.size:
    raise InvalidInput(
      f'--batch_size={options.batch_size} is not divisible by the number of devices, {mesh.size}: use a multiple.'
    )
  if options.sweep not in (None, 'rows') and protocol.sweep_samples:
    protocol = protocol._replace(
      num_samples=protocol.sweep_samples, num_references=min(protocol.num_references, protocol.sweep_samples)
    )
  _check_limit(protocol, min(protocol.num_samples, options.limit or protocol.num_samples))
  splits = open_splits(protocol, config, options.real_vs_real)
  references = choose_references(
    protocol, splits, seed=config.seed, limit=options.limit, real_vs_real=options.real_vs_real
  )
  real, conditions = _choose_samples(protocol, config, options, splits, references, videos)
  networks = open_networks(protocol, options.features, mesh)
  _check_frames(protocol, networks)
  embed = open_text_encoder(protocol, options.features)
  stages = open_stages(config, run) if real is None and videos is None else []
  _check_stages(protocol, stages)
  if videos is not None:
    videos.videos([0], (protocol.num_frames, protocol.height, protocol.width, protocol.channels))  # fails early
  return Measurement(
    protocol=protocol,
    options=options,
    config=config,
    folder=options.folder(run) / protocol.name,
    networks=networks,
    embed=embed,
    references=references,
    conditions=conditions,
    real=real,
    videos=videos,
    stages=stages,
    files=_files(references, {'real': real, 'given': conditions.given}, videos, conditions.count),
    mesh=mesh,
  )


def _check_limit(protocol: Protocol, count: int) -> None:
  """Raise InvalidInput if a metric cannot be computed from so few clips."""
  for metric in protocol.metrics:
    rows = count * protocol.num_frames if metric.frames == 'each' else count
    if rows < (least := METRICS[metric.kind].min_rows):
      raise InvalidInput(
        f'--limit={count} leaves too few clips for the metric {metric.name}, which needs {least} or more and means '
        'something from hundreds on: raise the limit.'
      )


def _adapted(protocol: Protocol, config: ConfigDict, videos: VideoFolder | None) -> Protocol:
  """The protocol for the size of what is measured, if it takes any.

  What the model of existing videos was trained on is not known, so that they are not searched for copies.
  """
  if videos is not None:
    protocol = protocol._replace(training_clips=0)
  if protocol.adapt is None:
    return protocol
  if videos is not None:
    return protocol.adapt(protocol, videos.read(0, 3).shape, any(videos.prompts))
  data = config.data
  shape = (data.num_frames, data.height - 2 * data.pad_rows, data.width, data.channels)
  return protocol.adapt(protocol, shape, data.text != 'none')


def _choose_samples(
  protocol: Protocol,
  config: ConfigDict,
  options: EvalOptions,
  splits: Mapping[str, ExampleClips],
  references: Mapping[str, ClipSubset],
  videos: VideoFolder | None,
) -> tuple[ClipSubset | None, Conditions]:
  """The real clips that take the place of samples, if any, and the conditions of the samples."""
  count = min(protocol.num_samples, options.limit or protocol.num_samples)
  if options.real_vs_real:
    split = protocol.real_split
    in_use = len(references[split].indices) if split in references else 0
    real = choose_real_samples(protocol, splits[split], in_use, count, seed=config.seed)
    return real, conditions_of_clips(real)
  if videos is not None:
    return None, conditions_of_videos(protocol, videos, count)
  reference = references[protocol.references[-1]]
  return None, make_conditions(protocol, config, reference, count, seed=config.seed, prompt_file=options.prompt_file)


def measure(setup: Measurement, sampling: Mapping[str, Any]) -> dict[str, Any]:
  """Return the record of the run with the section `sampling`, or that of real clips in place of samples.

  Raises:
    InvalidInput: sampling or a metric failed.
  """
  protocol, config = setup.protocol, setup.config
  if any(network.weights.startswith('random') for network in setup.networks.values()):
    _print('warning: feature networks have random weights, so the values of this record are meaningless.')
  try:
    references = {split: reference_arrays(setup, split) for split in setup.references}
    samples = sample_arrays(setup, sampling)
  except (ValueError, OSError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  reads = {split: batches.read for split, batches in references.items()}
  published, values = protocol.published, config.to_dict()
  if setup.real is not None:
    published = protocol.calibration
  elif setup.videos is not None:
    published, values = tuple(figure._replace(setting=()) for figure in published), {}
  metrics = figures.compute_figures(
    protocol,
    samples.read,
    reads,
    setup.conditions.count,
    report=_print,
    beside=lambda metric, variant: rows.beside(published, metric, variant, values, sampling),
  )
  analyses = figures.compute_analyses(
    protocol,
    samples.read,
    reads,
    real_vs_real=setup.options.real_vs_real,
    held_out=not config.data.train_on_all,
  )
  if analyses['motion']['dynamic_images']:
    _print(f'warning: dynamic images: samples have {analyses["motion"]["ratio"]:.2f} times the motion of the data.')
  checksums = {split: checksum(batches) for split, batches in references.items()}
  counts = {split: len(subset.indices) for split, subset in setup.references.items()}
  return {
    'protocol': protocol.name,
    'source': protocol.source,
    'real_vs_real': setup.options.real_vs_real,
    'metrics': metrics,
    **analyses,
    'weights': {name: network.weights for name, network in setup.networks.items()},
    'counts': {'samples': setup.conditions.count} | counts,
    'references': checksums,
    'published': rows.published(published, values, sampling),
    'notes': protocol.notes,
    **_describe_samples(setup, sampling),
    'seed': config.seed,
    'data': {name: _plain(config.data[name]) for name in ('name', 'frame_skip', 'train_on_all')},
    'frame_rate': protocol.frame_rate,
    'size': setup.shape,
  }


def _describe_samples(setup: Measurement, sampling: Mapping[str, Any]) -> dict[str, Any]:
  if setup.real is not None:
    return {}
  if setup.videos is not None:
    return setup.videos.description
  return {'sampling': dict(sampling), **describe_stages(setup.stages)}


def _files(
  references: Mapping[str, ClipSubset],
  others: Mapping[str, ClipSubset | None],
  videos: VideoFolder | None,
  count: int,
) -> dict[str, str]:
  """Hashes of the files of the clips in use, as process 0 sees them: copies on other hosts have times of their own."""
  used = {**references, **others}
  hashes = {name: '' if subset is None else subset.files() for name, subset in used.items()}
  hashes['videos'] = '' if videos is None else videos.files_hash(range(count))
  return runtime.exchange('clips', hashes)[0]


def _check_metrics(protocol: Protocol) -> None:
  for metric in protocol.metrics:
    kind = choose('metric kind', metric.kind, METRICS)
    if (metric.network is None) == (kind.from_videos is None):
      fix = 'give it a feature network' if metric.network is None else 'set network=None'
      raise ValueError(f'protocol {protocol.name!r}: metric {metric.name!r} of kind {metric.kind!r}: {fix}.')


def _check_model(protocol: Protocol, config: ConfigDict) -> None:
  data = config.data
  has = (data.num_frames, data.height - 2 * data.pad_rows, data.width, data.channels)
  num_frames = protocol.model_frames or protocol.num_frames
  if has != (wanted := (num_frames, protocol.height, protocol.width, protocol.channels)):
    raise InvalidInput(
      f'--protocol={protocol.name} measures {" x ".join(map(str, wanted))} (frames, height, width, channels), '
      f'but this run generates {" x ".join(map(str, has))}, and nothing is resized: use a run of that size.'
    )
  if config.sampling.threshold == 'none':
    raise InvalidInput(
      "sampling.threshold='none' lets samples leave [-1, 1], and a protocol does not clip: use 'clip' or 'dynamic'."
    )


def _check_stages(protocol: Protocol, stages: Sequence[Stage]) -> None:
  if (protocol.task == 'prediction' or protocol.model_frames) and len(stages) > 1:
    raise InvalidInput(
      f'--protocol={protocol.name} conditions on frames, but a second stage alone cannot continue them.'
    )
  if protocol.frame_rate is not None and not all(stage.model.takes('frame_interval') for stage in stages):
    _print(
      f'warning: real clips have {protocol.frame_rate:g} frames per second, but this model is not conditioned on frame '
      'rate: its videos have that of its training.'
    )


def _check_frames(protocol: Protocol, networks: Mapping[str, Extractor]) -> None:
  for name, network in networks.items():
    most = network.max_frames or protocol.num_frames
    if not network.min_frames <= protocol.num_frames <= most:
      raise InvalidInput(
        f'{name} takes {network.min_frames} to {most} frames, but the protocol has {protocol.num_frames}.'
      )


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value


def _print(line: str) -> None:
  print(line, file=sys.stderr)
