"""Protocols with metrics: opens everything they need, turns samples and real clips into arrays, computes the record."""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import generation, partitioning, runtime
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import extraction, figures
from vdm_jax.evaluation.clip_subsets import ClipSubset, choose_real_samples, choose_references, open_splits
from vdm_jax.evaluation.conditions import Conditions, conditions_of_clips, make_conditions
from vdm_jax.evaluation.feature_files import open_networks, open_text_encoder
from vdm_jax.evaluation.features import Extractor
from vdm_jax.evaluation.metrics.motion import motion
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.resumable_arrays import Arrays, Batches, fill
from vdm_jax.evaluation.sample_protocol import describe_stages
from vdm_jax.generation.stages import Stage, identify, make_generator, open_generator, open_stages
from vdm_jax.names import choose
from vdm_jax.runs import Run
from vdm_jax.runtime.hashing import code_hash
from vdm_jax.video import to_float, to_uint8

CHECKSUM = 'checksum'
# The packages that decide the features of a clip.
CODE = ('data', 'evaluation', 'video')
# Keys of the section `data` that determine the pixels of a clip.
CLIP_SETTINGS = (
  'name',
  'path',
  'mixture',
  'frame_rate',
  'target_frame_rate',
  'frame_skip',
  'height',
  'width',
  'channels',
  'pad_rows',
  'train_on_all',
  'digits',
)

Sample = Callable[[np.ndarray], np.ndarray]  # consecutive numbers of samples int [b] -> videos uint8 [b t h w c]


class Measurement(NamedTuple):
  """Everything that measuring a run by a protocol needs."""

  protocol: Protocol
  options: EvalOptions
  config: ConfigDict
  folder: Path
  networks: dict[str, Extractor]
  embed: Callable[[Sequence[str]], np.ndarray] | None  # prompts -> float32 [n d]
  references: dict[str, ClipSubset]  # by split
  conditions: Conditions
  real: ClipSubset | None  # clips in place of samples
  stages: list[Stage]  # empty for real clips
  files: dict[str, str]  # hashes of the files of the clips, by what the clips are for
  mesh: Mesh


def prepare(config: ConfigDict, run: Run, protocol: Protocol, options: EvalOptions) -> Measurement:
  """Open everything that measuring a run by a protocol needs.

  Raises:
    InvalidInput: files, data or options are missing, or do not fit the protocol.
    ValueError: the protocol names an unknown metric or feature network.
  """
  mesh = partitioning.make_mesh({'data': -1}, jax.local_devices())
  _check_metrics(protocol)
  _check_model(protocol, config)
  if options.batch_size % mesh.size:
    raise InvalidInput(
      f'--batch_size={options.batch_size} is not divisible by the number of devices, {mesh.size}: use a multiple.'
    )
  if options.sweep and protocol.sweep_samples:
    protocol = protocol._replace(
      num_samples=protocol.sweep_samples, num_references=min(protocol.num_references, protocol.sweep_samples)
    )
  count = min(protocol.num_samples, options.limit or protocol.num_samples)
  splits = open_splits(protocol, config, options.real_vs_real)
  references = choose_references(
    protocol, splits, seed=config.seed, limit=options.limit, real_vs_real=options.real_vs_real
  )
  real = None
  if options.real_vs_real:
    in_use = len(references['train'].indices) if 'train' in references else 0
    real = choose_real_samples(protocol, splits['train'], in_use, count, seed=config.seed)
    conditions = conditions_of_clips(real)
  else:
    reference = references[protocol.references[-1]]
    conditions = make_conditions(protocol, config, reference, count, seed=config.seed, prompt_file=options.prompt_file)
  networks = open_networks(protocol, options.features, mesh)
  _check_frames(protocol, networks)
  embed = open_text_encoder(protocol, options.features)
  stages = [] if real is not None else open_stages(config, run)
  if protocol.task == 'prediction' and len(stages) > 1:
    raise InvalidInput(
      f'--protocol={protocol.name} conditions on frames, but a second stage alone cannot continue them.'
    )
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
    stages=stages,
    files=_files(references, {'real': real, 'given': conditions.given}),
    mesh=mesh,
  )


def measure(setup: Measurement, sampling: Mapping[str, Any]) -> dict[str, Any]:
  """Return the record of the run with the section `sampling`, or that of real clips in place of samples.

  Raises:
    InvalidInput: sampling or a metric failed.
  """
  protocol, config = setup.protocol, setup.config
  if any(network.weights.startswith('random') for network in setup.networks.values()):
    _print('warning: feature networks have random weights, so the values of this record are meaningless.')
  try:
    references = {split: _reference_arrays(setup, split) for split in setup.references}
    samples = _sample_arrays(setup, sampling)
  except (ValueError, OSError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  reads = {split: batches.read for split, batches in references.items()}
  metrics = figures.compute_figures(protocol, samples.read, reads, setup.conditions.count, report=_print)
  analyses = figures.compute_analyses(
    protocol,
    samples.read,
    reads,
    real_vs_real=setup.options.real_vs_real,
    held_out=not config.data.train_on_all,
  )
  if analyses['motion']['dynamic_images']:
    _print(f'warning: dynamic images: samples have {analyses["motion"]["ratio"]:.2f} times the motion of the data.')
  checksums = {split: _checksum(batches) for split, batches in references.items()}
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
    'published': [figure._asdict() for figure in (protocol.calibration if setup.real else protocol.published)],
    'notes': protocol.notes,
    **({} if setup.real else {'sampling': dict(sampling), **describe_stages(setup.stages)}),
    'seed': config.seed,
    'data': {name: _plain(config.data[name]) for name in ('name', 'frame_skip', 'train_on_all')},
  }


def _files(references: Mapping[str, ClipSubset], others: Mapping[str, ClipSubset | None]) -> dict[str, str]:
  """Hashes of the files of the clips in use, as process 0 sees them: copies on other hosts have times of their own."""
  used = {**references, **others}
  return runtime.exchange('clips', {name: '' if subset is None else subset.files() for name, subset in used.items()})[0]


def _check_metrics(protocol: Protocol) -> None:
  for metric in protocol.metrics:
    kind = choose('metric kind', metric.kind, METRICS)
    if (metric.network is None) == (kind.from_videos is None):
      fix = 'give it a feature network' if metric.network is None else 'set network=None'
      raise ValueError(f'protocol {protocol.name!r}: metric {metric.name!r} of kind {metric.kind!r}: {fix}.')


def _check_model(protocol: Protocol, config: ConfigDict) -> None:
  data = config.data
  has = (data.num_frames, data.height - 2 * data.pad_rows, data.width, data.channels)
  if has != (wanted := (protocol.num_frames, protocol.height, protocol.width, 3)):
    raise InvalidInput(
      f'--protocol={protocol.name} measures {" x ".join(map(str, wanted))} (frames, height, width, channels), '
      f'but this run generates {" x ".join(map(str, has))}, and nothing is resized: use a run of that size.'
    )
  if config.sampling.threshold == 'none':
    raise InvalidInput(
      "sampling.threshold='none' lets samples leave [-1, 1], and a protocol does not clip: use 'clip' or 'dynamic'."
    )


def _check_frames(protocol: Protocol, networks: Mapping[str, Extractor]) -> None:
  for name, network in networks.items():
    most = network.max_frames or protocol.num_frames
    if not network.min_frames <= protocol.num_frames <= most:
      raise InvalidInput(
        f'{name} takes {network.min_frames} to {most} frames, but the protocol has {protocol.num_frames}.'
      )


def _reference_arrays(setup: Measurement, split: str) -> Batches:
  subset = setup.references[split]

  def make(positions: np.ndarray) -> Arrays:
    return _arrays(setup, subset.videos(positions), positions, conditions=None)

  job = {'split': split, 'files': setup.files[split]}
  return _fill(setup, f'reference-{split}', job, subset, len(subset.indices), make)


def _sample_arrays(setup: Measurement, sampling: Mapping[str, Any]) -> Batches:
  conditions, real = setup.conditions, setup.real
  if real is None:
    sample = _sampler(setup, sampling)
    subset = conditions.given
    job = {
      'prompts': conditions.prompts,
      'labels': conditions.labels,
      'files': setup.files['given'],
      **identify(setup.stages, sampling),
    }
  else:
    sample, subset, job = real.videos, real, {'files': setup.files['real']}

  def make(positions: np.ndarray) -> Arrays:
    return _arrays(setup, sample(positions), positions, conditions=conditions)

  return _fill(setup, 'samples' if real is None else 'real', job, subset, conditions.count, make)


def _fill(
  setup: Measurement,
  name: str,
  job: Mapping[str, Any],
  subset: ClipSubset | None,
  count: int,
  make: Callable[[np.ndarray], Arrays],
) -> Batches:
  """All batches of a job of `count` clips; `make` returns the arrays at some positions."""
  size, protocol = setup.options.batch_size, setup.protocol
  job = {
    'protocol': protocol.name,
    'count': count,
    'batch_size': size,
    'seed': setup.config.seed,
    'features': [metric.features for metric in protocol.metrics],
    'networks': {name: network.weights for name, network in setup.networks.items()},
    'feature_code': code_hash(*CODE),
    'data': {name: _plain(setup.config.data[name]) for name in CLIP_SETTINGS},
    'draw': None if subset is None else subset.record,
    **job,
  }
  return fill(
    setup.folder,
    name,
    job,
    count,
    lambda number: make(np.arange(number * size, min((number + 1) * size, count))),
    batch_size=size,
  )


def _arrays(setup: Measurement, videos: np.ndarray, positions: np.ndarray, *, conditions: Conditions | None) -> Arrays:
  """The arrays stored for uint8 videos [b t h w c], which are padded to whole batches for the networks."""
  protocol = setup.protocol
  extraction.check_clips(videos, (protocol.num_frames, protocol.height, protocol.width, 3), 'videos')
  padded = videos[np.minimum(np.arange(setup.options.batch_size), len(videos) - 1)]
  found = extraction.extract(protocol.metrics, setup.networks, padded)
  found = {name: rows[: len(videos)] for name, rows in found.items()}
  found[figures.MOTION] = motion(videos)
  found[CHECKSUM] = np.array([zlib.crc32(np.ascontiguousarray(video)) for video in videos], np.uint32)
  if conditions is not None:
    found[figures.PROMPT] = conditions.group[positions]
    if setup.embed is not None:
      found[figures.TEXT] = setup.embed([conditions.prompts[position] for position in positions])
  return found


def _sampler(setup: Measurement, sampling: Mapping[str, Any]) -> Sample:
  """A function from numbers of samples to samples. It generates whole batches on all local devices."""
  protocol, conditions, size = setup.protocol, setup.conditions, setup.options.batch_size
  scalars = {
    'frame_interval': ('frame_rate', protocol.frame_rate),
    'resolution': ('original_size', protocol.original_size),
  }
  scalars = {
    name: value
    for scalar, (name, value) in scalars.items()
    if value is not None and all(stage.model.takes(scalar) for stage in setup.stages)
  }
  options = {'batch_size': size, 'mesh': setup.mesh, 'split': True}
  if conditions.given is None:
    generate = open_generator(setup.stages, sampling, **options)
  else:
    (stage,) = setup.stages
    generate = make_generator(stage, sampling, long=True, **options)
    plan = generation.extension(protocol.num_frames, protocol.num_frames, overlap=1, given=protocol.given_frames)

  def sample(positions: np.ndarray) -> np.ndarray:
    padded = np.minimum(positions[0] + np.arange(size), conditions.count - 1)
    prompts, labels = (
      [some[at] for at in padded] if some else None for some in (conditions.prompts, conditions.labels)
    )
    given = {'prompts': prompts, 'labels': labels, 'seed': setup.config.seed, 'first': int(positions[0]), **scalars}
    if conditions.given is None:
      videos = generate(count=size, **given)
    else:
      frames = to_float(conditions.given.videos(padded)[:, : protocol.given_frames])
      videos = generate(plan, given=frames, count=size, **given)
    videos = videos[: len(positions)]
    extraction.check_range(videos)
    return to_uint8(videos)

  return sample


def _checksum(batches: Batches) -> int:
  """A checksum of the pixels of all clips, in order."""
  return functools.reduce(lambda crc, part: zlib.crc32(part.tobytes(), crc), batches.read(CHECKSUM), 0)


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value


def _print(line: str) -> None:
  print(line, file=sys.stderr)
