"""From videos to stored arrays: samples, real clips and existing videos, batch by batch through feature networks."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import generation
from vdm_jax.evaluation import extraction, figures
from vdm_jax.evaluation.clip_subsets import ClipSubset, measured_data
from vdm_jax.evaluation.conditions import Conditions
from vdm_jax.evaluation.features import Extractor
from vdm_jax.evaluation.metrics.motion import motion
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols.contract import Protocol
from vdm_jax.evaluation.resumable_arrays import Arrays, Batches, fill
from vdm_jax.evaluation.video_folder import VideoFolder
from vdm_jax.generation.stages import Stage, identify, make_generator, open_generator
from vdm_jax.runtime.hashing import code_hash
from vdm_jax.video import to_float, to_uint8
from vdm_jax.video.transforms import to_channels

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
  'resize',
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
  videos: VideoFolder | None  # existing videos in place of samples
  stages: list[Stage]  # empty for both
  files: dict[str, str]  # hashes of the files of the clips, by what the clips are for
  mesh: Mesh

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """Frames, height, width and channels of a video."""
    return self.protocol.num_frames, self.protocol.height, self.protocol.width, self.protocol.channels


def reference_arrays(setup: Measurement, split: str) -> Batches:
  """Return the arrays of the real clips of a split."""
  subset = setup.references[split]

  def make(positions: np.ndarray) -> Arrays:
    return _arrays(setup, _cuts(setup, subset, positions), positions, conditions=None)

  job = {'split': split, 'files': setup.files[split]}
  return _fill(setup, f'reference-{split}', job, subset, len(subset.indices), make)


def sample_arrays(setup: Measurement, sampling: Mapping[str, Any]) -> Batches:
  """Return the arrays of the samples with the section `sampling`, or of what takes their place."""
  conditions, real, subset, name = setup.conditions, setup.real, setup.conditions.given, 'samples'
  if real is not None:
    name, subset, job = 'real', real, {'files': setup.files['real']}
    videos = functools.partial(_cuts, setup, real)
  elif setup.videos is not None:
    name, job = 'videos', {'files': setup.files['videos'], 'prompts': conditions.prompts}
    videos = functools.partial(setup.videos.videos, shape=setup.shape)
  else:
    videos = _sampler(setup, sampling)
    job = {
      'prompts': conditions.prompts,
      'labels': conditions.labels,
      'files': setup.files['given'],
      **identify(setup.stages, sampling),
    }

  def make(positions: np.ndarray) -> Arrays:
    return _arrays(setup, videos(positions), positions, conditions=conditions)

  return _fill(setup, name, job, subset, conditions.count, make)


def checksum(batches: Batches) -> int:
  """Return a checksum of the pixels of all clips, in order."""
  return functools.reduce(lambda crc, part: zlib.crc32(part.tobytes(), crc), batches.read(CHECKSUM), 0)


def _cuts(setup: Measurement, subset: ClipSubset, positions: np.ndarray) -> dict[extraction.Size, np.ndarray]:
  """Real clips at the protocol's size (None) and at those of its metrics, each cut from the original frames."""
  whole = (setup.protocol.height, setup.protocol.width)
  sizes = dict.fromkeys([whole, *(metric.size or whole for metric in setup.protocol.metrics)])
  found = dict(zip(sizes, subset.cuts(positions, list(sizes)), strict=True))
  return {None: found[whole], **found}


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
  data = measured_data(protocol, setup.config.data).to_dict()
  job = {
    'protocol': protocol.name,
    'count': count,
    'batch_size': size,
    'seed': setup.config.seed,
    'features': [metric.features for metric in protocol.metrics],
    'networks': {name: network.weights for name, network in setup.networks.items()},
    'feature_code': code_hash(*CODE),
    'data': {name: data[name] for name in CLIP_SETTINGS},
    'num_frames': protocol.num_frames,
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


def _arrays(
  setup: Measurement,
  videos: np.ndarray | Mapping[extraction.Size, np.ndarray],
  positions: np.ndarray,
  *,
  conditions: Conditions | None,
) -> Arrays:
  """The arrays stored for uint8 videos [b t h w c], which are padded to whole batches for the networks.

  `videos` are cut to the sizes of the metrics, or are those of each size.
  """
  protocol, cuts = setup.protocol, videos
  videos = videos[None] if isinstance(videos, Mapping) else videos
  extraction.check_clips(videos, setup.shape, 'videos')
  rows = np.minimum(np.arange(setup.options.batch_size), len(videos) - 1)
  padded = {size: _in_color(cut[rows]) for size, cut in cuts.items()} if cuts is not videos else _in_color(videos[rows])
  found = extraction.extract(protocol.metrics, setup.networks, padded)
  found = {name: rows[: len(videos)] for name, rows in found.items()}
  found[figures.MOTION] = motion(videos)
  found[CHECKSUM] = np.array([zlib.crc32(np.ascontiguousarray(video)) for video in videos], np.uint32)
  if conditions is not None:
    found[figures.PROMPT] = conditions.group[positions]
    if setup.embed is not None:
      found[figures.TEXT] = setup.embed([conditions.prompts[position] for position in positions])
  return found


def _in_color(videos: np.ndarray) -> np.ndarray:
  return np.stack([to_channels(video, 3) for video in videos])


def _sampler(setup: Measurement, sampling: Mapping[str, Any]) -> Sample:
  """A function from numbers of samples to samples. It generates whole batches on all local devices."""
  generate = _generator(setup, sampling)

  def sample(positions: np.ndarray) -> np.ndarray:
    videos = generate(**_conditions(setup, positions))[: len(positions)]
    extraction.check_range(videos)
    return to_uint8(videos)

  return sample


def _conditions(setup: Measurement, positions: np.ndarray) -> dict[str, Any]:
  """The conditions of a whole batch of samples that begins at `positions`."""
  conditions, size = setup.conditions, setup.options.batch_size
  padded = np.minimum(positions[0] + np.arange(size), conditions.count - 1)
  prompts, labels = ([some[at] for at in padded] if some else None for some in (conditions.prompts, conditions.labels))
  scalars = {
    'frame_interval': ('frame_rate', setup.protocol.frame_rate),
    'resolution': ('original_size', setup.protocol.original_size),
  }
  given = {
    name: value
    for scalar, (name, value) in scalars.items()
    if value is not None and all(stage.model.takes(scalar) for stage in setup.stages)
  }
  given |= {'prompts': prompts, 'labels': labels, 'seed': setup.config.seed, 'first': int(positions[0]), 'count': size}
  if conditions.given is not None:
    given['given'] = to_float(conditions.given.videos(padded)[:, : setup.protocol.given_frames])
  return given


def _generator(setup: Measurement, sampling: Mapping[str, Any]) -> Callable[..., np.ndarray]:
  """A function of `_conditions`, as keywords, to videos float [b t h w c]."""
  protocol = setup.protocol
  options = {'batch_size': setup.options.batch_size, 'mesh': setup.mesh, 'split': True}
  if protocol.task == 'prediction' or protocol.model_frames:
    (stage,) = setup.stages
    plan = generation.extension(
      protocol.num_frames,
      protocol.model_frames or protocol.num_frames,
      overlap=protocol.overlap or 1,
      given=protocol.given_frames,
    )
    return functools.partial(make_generator(stage, sampling, long=True, **options), plan)
  if len(setup.stages) == 2 and setup.options.sweep == 'augmentation':
    second = make_generator(setup.stages[1], sampling, **options)
    low = _first_stage(setup, options)
    return lambda **given: second(low_resolution=low(given['first']), **given)
  return open_generator(setup.stages, sampling, **options)


def _first_stage(setup: Measurement, options: Mapping[str, Any]) -> Callable[[int], np.ndarray]:
  """A function from the number of the first sample of a batch to its videos of the first stage, which are kept on disk.

  A sweep over settings of the second stage reads them again at each point.
  """
  stage, size, count = setup.stages[0], setup.options.batch_size, setup.conditions.count
  generate = make_generator(stage, stage.sampling, **options)

  def make(number: int) -> Arrays:
    positions = np.arange(number * size, min((number + 1) * size, count))
    return {'videos': generate(**_conditions(setup, positions))[: len(positions)]}

  job = {
    'seed': setup.config.seed,
    'batch_size': size,
    'count': count,
    'prompts': setup.conditions.prompts,
    'labels': setup.conditions.labels,
    'scalars': [setup.protocol.frame_rate, setup.protocol.original_size],
    **identify(setup.stages[:1]),
  }
  batches = fill(setup.folder, 'first-stage', job, count, make, batch_size=size)

  def read(first: int) -> np.ndarray:
    videos = batches.batch(first // size, 'videos')
    return videos[np.minimum(np.arange(size), len(videos) - 1)]

  return read
