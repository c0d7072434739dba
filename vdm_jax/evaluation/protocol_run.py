"""Measuring a run, or real clips in its place, by a protocol of features: everything is checked before it samples."""

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

from vdm_jax import generation, partitioning
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import clip_subsets, scores
from vdm_jax.evaluation.clip_subsets import ClipSubset, Conditions
from vdm_jax.evaluation.feature_files import open_networks, text_tower
from vdm_jax.evaluation.features import Extractor
from vdm_jax.evaluation.metrics.motion import motion
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.resumable_arrays import Arrays, Batches, fill
from vdm_jax.generation.stages import Stage, make_generator, open_generator, open_stages
from vdm_jax.runs import Run
from vdm_jax.video import to_float, to_uint8

CHECKSUM = 'checksum'
# Of the section `data`: what clips look like.
LOOKS = (
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

Sample = Callable[[np.ndarray], np.ndarray]  # numbers of samples int [b], consecutive -> videos uint8 [b t h w c]


class EvalOptions(NamedTuple):
  """What the command line says of a measurement."""

  protocol: str = 'digits'
  sweep: str | None = None
  real_vs_real: bool = False
  features: str | None = None  # folder of the feature networks' weights, or random
  prompt_file: str | None = None
  limit: int | None = None  # most samples, and clips of each reference
  batch_size: int = 32  # samples that are made, or clips that are read, at a time
  out: str | None = None  # folder of the records; that of the run by default

  def folder(self, run: Run) -> Path:
    """Where records go. Raises InvalidInput where neither a folder is named nor the run has one of its own."""
    if self.out is not None:
      return Path(self.out)
    if not run.path.is_dir():
      raise InvalidInput(f'--out is missing: {run.name} has no folder of its own for records, so name one: --out=out.')
    return run.path / 'evaluation'


class Setup(NamedTuple):
  """A measurement that can begin."""

  protocol: Protocol
  asked: EvalOptions
  config: ConfigDict
  folder: Path
  step: int  # of the checkpoint
  networks: dict[str, Extractor]
  embed: Callable[[Sequence[str]], np.ndarray] | None  # prompts of CLIPSIM
  references: dict[str, ClipSubset]  # by split
  conditions: Conditions
  real: ClipSubset | None  # clips in the place of samples
  stages: list[Stage]  # none for real clips
  mesh: Mesh


def prepare(config: ConfigDict, run: Run, protocol: Protocol, asked: EvalOptions) -> Setup:
  """Opens everything that a measurement needs. Raises InvalidInput that says what is missing, or does not fit."""
  mesh = partitioning.make_mesh({'data': -1}, jax.local_devices())
  _check_model(protocol, config)
  if asked.batch_size % mesh.size:
    raise InvalidInput(f'--batch_size={asked.batch_size} does not split over {mesh.size} devices: use a multiple.')
  if asked.sweep and protocol.sweep_samples:
    protocol = protocol._replace(
      num_samples=protocol.sweep_samples, num_references=min(protocol.num_references, protocol.sweep_samples)
    )
  count = min(protocol.num_samples, asked.limit or protocol.num_samples)
  splits = clip_subsets.open_splits(protocol, config, asked.real_vs_real)
  some = {'seed': config.seed}
  looked_at = clip_subsets.references(protocol, splits, limit=asked.limit, real_vs_real=asked.real_vs_real, **some)
  reference, real = looked_at[protocol.references[-1]], None
  if asked.real_vs_real:
    taken = len(looked_at['train'].which) if 'train' in looked_at else 0
    real, conditions = clip_subsets.real_samples(protocol, splits['train'], taken, count, **some)
  else:
    conditions = clip_subsets.conditions(protocol, config, reference, count, prompt_file=asked.prompt_file, **some)
  networks = open_networks(protocol, asked.features, mesh)
  _check_frames(protocol, networks)
  embed = text_tower(protocol, asked.features)
  stages = [] if real is not None else open_stages(config, run)
  if stages and (protocol.task == 'prediction' and len(stages) > 1):
    raise InvalidInput(f'--protocol={protocol.name} gives a model frames, which a second stage alone cannot continue.')
  step = run.step if stages else 0
  return Setup(
    protocol,
    asked,
    config,
    asked.folder(run) / protocol.name,
    step,
    networks,
    embed,
    looked_at,
    conditions,
    real,
    stages,
    mesh,
  )


def measured(setup: Setup, sampling: Mapping[str, Any]) -> dict[str, Any]:
  """The record of the run under the section `sampling`; of the real clips, if they stand in for samples."""
  protocol, asked, config = setup.protocol, setup.asked, setup.config
  if any(network.weights.startswith('random') for network in setup.networks.values()):
    _say('feature networks of random weights: the figures of this record mean nothing.')
  try:
    references = {split: _reference(setup, split) for split in setup.references}
    samples = _samples(setup, sampling)
  except (ValueError, OSError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  reads = {split: batches.read for split, batches in references.items()}
  found = scores.figures(protocol, samples.read, reads, setup.conditions.count, say=_say)
  also = scores.analyses(
    protocol, samples.read, reads, real_vs_real=asked.real_vs_real, held_out=not config.data.train_on_all
  )
  if also['motion']['dynamic_images']:
    _say(f'dynamic images: samples move {also["motion"]["ratio"]:.2f} times as much as the data.')
  checksums = {split: _checksum(batches) for split, batches in references.items()}
  return {
    'protocol': protocol.name,
    'source': protocol.source,
    'real_vs_real': asked.real_vs_real,
    'metrics': found,
    **also,
    'weights': {name: network.weights for name, network in setup.networks.items()},
    'counts': {'samples': setup.conditions.count} | {split: len(d.which) for split, d in setup.references.items()},
    'references': checksums,
    'published': [figure._asdict() for figure in (protocol.calibration if setup.real else protocol.published)],
    'notes': protocol.notes,
    **({} if setup.real else {'step': setup.step, 'sampling': dict(sampling), 'model': 'EMA'}),
    'seed': config.seed,
    'data': {name: _plain(config.data[name]) for name in ('name', 'frame_skip', 'train_on_all')},
  }


def _check_model(protocol: Protocol, config: ConfigDict) -> None:
  section = config.data
  has = (section.num_frames, section.height - 2 * section.pad_rows, section.width, section.channels)
  if has != (wanted := (protocol.num_frames, protocol.height, protocol.width, 3)):
    raise InvalidInput(
      f'--protocol={protocol.name} measures {" x ".join(map(str, wanted))} (frames, height, width, channels), but this '
      f'run makes {" x ".join(map(str, has))}, and nothing is resized: measure a run of that size.'
    )
  if config.sampling.threshold == 'none':
    raise InvalidInput(
      "sampling.threshold='none' lets samples leave [-1, 1], and a protocol clips nothing: use 'clip' or 'dynamic'."
    )


def _check_frames(protocol: Protocol, networks: Mapping[str, Extractor]) -> None:
  for name, network in networks.items():
    most = network.max_frames or protocol.num_frames
    if not network.min_frames <= protocol.num_frames <= most:
      raise InvalidInput(
        f'{name} takes {network.min_frames} to {most} frames, but the protocol has {protocol.num_frames}.'
      )


def _reference(setup: Setup, split: str) -> Batches:
  drawn = setup.references[split]
  make = functools.partial(_clips, setup, drawn, cond=None)
  return _fill(setup, f'reference-{split}', {'split': split}, drawn, len(drawn.which), make)


def _samples(setup: Setup, sampling: Mapping[str, Any]) -> Batches:
  cond = setup.conditions
  if setup.real is not None:
    return _fill(setup, 'real', {}, setup.real, cond.count, functools.partial(_clips, setup, setup.real, cond=cond))
  job = {
    'step': setup.step,
    'model': setup.stages[-1].model.config,
    'sampling': _plain(dict(sampling)),
    'first': setup.config.training.first_stage,
    'prompts': cond.prompts,
    'labels': cond.labels,
  }
  sample = _sampler(setup, sampling)
  return _fill(setup, 'samples', job, cond.given, cond.count, lambda at: _measured(setup, sample(at), at, cond))


def _fill(
  setup: Setup,
  name: str,
  job: Mapping[str, Any],
  drawn: ClipSubset | None,
  count: int,
  make: Callable[[np.ndarray], Arrays],
) -> Batches:
  size, protocol = setup.asked.batch_size, setup.protocol
  job = {
    'protocol': protocol.name,
    'count': count,
    'batch_size': size,
    'seed': setup.config.seed,
    'features': [metric.features for metric in protocol.metrics],
    'weights': {name: network.weights for name, network in setup.networks.items()},
    'data': {name: _plain(setup.config.data[name]) for name in LOOKS},
    'draw': None if drawn is None else drawn.record,
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


def _clips(setup: Setup, drawn: ClipSubset, positions: np.ndarray, *, cond: Conditions | None) -> Arrays:
  return _measured(setup, drawn.videos(positions), positions, cond)


def _measured(setup: Setup, videos: np.ndarray, positions: np.ndarray, cond: Conditions | None) -> Arrays:
  """What is kept of uint8 videos [b t h w c], which are padded to whole batches for the networks."""
  protocol = setup.protocol
  scores.check_clips(videos, (protocol.num_frames, protocol.height, protocol.width, 3), 'videos')
  padded = videos[np.minimum(np.arange(setup.asked.batch_size), len(videos) - 1)]
  found = scores.extract(protocol.metrics, setup.networks, padded)
  found = {name: rows[: len(videos)] for name, rows in found.items()}
  found[scores.MOTION] = motion(videos)
  found[CHECKSUM] = np.array([zlib.crc32(np.ascontiguousarray(video)) for video in videos], np.uint32)
  if cond is not None:
    found[scores.PROMPT] = cond.group[positions]
    if setup.embed is not None:
      found[scores.TEXT] = setup.embed([cond.prompts[position] for position in positions])
  return found


def _sampler(setup: Setup, sampling: Mapping[str, Any]) -> Sample:
  """Samples by their numbers: whole batches on all local devices, of which the last is cut."""
  protocol, cond, size = setup.protocol, setup.conditions, setup.asked.batch_size
  told = {
    'frame_interval': ('frame_rate', protocol.frame_rate),
    'resolution': ('original_size', protocol.original_size),
  }
  asked = {
    name: value
    for scalar, (name, value) in told.items()
    if value is not None and all(stage.model.takes(scalar) for stage in setup.stages)
  }
  options = {'batch_size': size, 'mesh': setup.mesh, 'split': True}
  if cond.given is None:
    generate = open_generator(setup.stages, sampling, **options)
  else:
    (stage,) = setup.stages
    generate = make_generator(stage, sampling, long=True, **options)
    plan = generation.extension(protocol.num_frames, protocol.num_frames, overlap=1, given=protocol.given_frames)

  def sample(positions: np.ndarray) -> np.ndarray:
    padded = np.minimum(positions[0] + np.arange(size), cond.count - 1)
    prompts, labels = ([some[at] for at in padded] if some else None for some in (cond.prompts, cond.labels))
    conditions = {'prompts': prompts, 'labels': labels, 'seed': setup.config.seed, 'first': int(positions[0]), **asked}
    if cond.given is None:
      videos = generate(count=size, **conditions)
    else:
      given = to_float(cond.given.videos(padded)[:, : protocol.given_frames])
      videos = generate(plan, given=given, count=size, **conditions)
    videos = videos[: len(positions)]
    scores.check_range(videos)
    return to_uint8(videos)

  return sample


def _checksum(batches: Batches) -> int:
  """Of the pixels of all clips, in their order."""
  return functools.reduce(lambda crc, part: zlib.crc32(part.tobytes(), crc), batches.read(CHECKSUM), 0)


def _plain(value: Any) -> Any:
  return value.to_dict() if isinstance(value, ConfigDict) else value


def _say(line: str) -> None:
  print(line, file=sys.stderr)
