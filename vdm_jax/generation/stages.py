"""The models of a trained run, ready to sample: one, or the two of a cascade."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import configuration, first_stages, generation, models, partitioning, text
from vdm_jax.errors import InvalidInput
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.runtime.hashing import code_hash, quick_hash
from vdm_jax.text import cache
from vdm_jax.types import Params

# The packages and modules that decide which video is sampled for a request.
CODE = (
  'conditions',
  'diffusion',
  'generation',
  'inputs',
  'models',
  'networks',
  'rng',
  'sampling',
  'tensor_files',
  'text',
)
# Keys of `model` that say where a text encoder lies, which makes no difference.
PLACES = ('text_path', 'text_cache')


class Stage(NamedTuple):
  """One model with its parameters and the settings to sample it with."""

  model: Model
  params: Params
  sampling: Mapping[str, Any]  # section `sampling` of the configuration
  run: Run  # where it comes from


def open_stages(config: Mapping[str, Any], run: Run) -> list[Stage]:
  """Load the models that make a run's videos, in order: one, or the two of a cascade.

  Args:
    config: the configuration of the run, with the changes of the command line.
    run: the run. The first stage of a cascade is the run that `first_stages.find` finds, with its own sampling settings
      and its newest averaged parameters.

  Raises:
    InvalidInput: there is no checkpoint or first stage, or something does not fit.
  """
  if config['model']['upsampling'] == 1:
    return [load_stage(config, run)]
  first = _find_first_stage(config, run)
  second = load_stage(config, run)
  shares_text = all(first.config['model'][key] == second.model.config[key] for key in ('text', 'text_length'))
  return [load_stage(first.config, first, second.model.encode if shares_text else None), second]


def load_stage(config: Mapping[str, Any], run: Run, encode: Any = None) -> Stage:
  """Load the model of a run under the (possibly changed) configuration, and its parameters."""
  try:
    _ = run.identity  # read now, for a run that is still training deletes old checkpoints
    model, params = run.load(model=models.build(config['model'], encode))
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  return Stage(model, params, config['sampling'], run)


def identify(stages: Sequence[Stage], sampling: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Return what distinguishes the videos of these stages from those of any others, besides the request, for JSON.

  That is, for each stage, the parameters, the model and its text encoder, and the settings to sample with; and the code
  that samples. Where runs and encoders lie does not matter.

  Args:
    stages: as `open_stages` returns them.
    sampling: section `sampling` to use in place of that of the last stage.
  """
  *before, last = stages
  stages = [*before, last if sampling is None else last._replace(sampling=sampling)]
  configs = [stage.model.config for stage in stages]
  return {
    'weights': [stage.run.identity for stage in stages],
    'model': [{key: value for key, value in config.items() if key not in PLACES} for config in configs],
    'text_encoder': [_identify_encoder(config) for config in configs],
    'sampling': [configuration.to_dict(stage.sampling) for stage in stages],
    'code': code_hash(*CODE),
  }


def _identify_encoder(config: Mapping[str, Any]) -> str | None:
  """A hash of the frozen text encoder that a model uses, None if it uses none."""
  if text.width(config['text']) is None:
    return None
  if config['text_cache']:
    return cache.read_record(config['text_cache']).digest  # covers the weights and the tokenizer
  return quick_hash(config['text_path'], times=False)


def _find_first_stage(config: Mapping[str, Any], run: Run) -> Run:
  try:
    first = first_stages.find(config, run)
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  try:
    models.check_cascade(first.config['model'], config['model'])
  except (ValueError, OSError) as error:
    raise InvalidInput(f'training.first_stage={first.name}: {error}') from error
  return first


def make_generators(
  stages: Sequence[Stage], **options: Any
) -> Callable[[Mapping[str, Any]], Callable[..., np.ndarray]]:
  """Return a function from a section `sampling`, which applies to the last stage, to a generator, with its options.

  The videos of a first stage are kept in memory, since a sweep over settings of the second stage reuses them.
  """
  *before, last = stages
  if not before:
    return lambda sampling: make_generator(last, sampling, **options)
  first = _memoized(make_generator(before[0], before[0].sampling, **options))
  return lambda sampling: generation.make_cascade(first, make_generator(last, sampling, **options))


def open_generator(stages: list[Stage], sampling: Mapping[str, Any], **options: Any) -> Callable[..., np.ndarray]:
  """Return a generator of all stages; `sampling` and the options of `make_generator` apply to the last."""
  *before, last = stages
  second = make_generator(last, sampling, **options)
  if not before:
    return second
  return generation.make_cascade(make_generator(before[0], before[0].sampling, **options), second)


def make_generator(
  stage: Stage, sampling: Mapping[str, Any], *, mesh: Mesh | None = None, long: bool = False, **options: Any
) -> Callable[..., np.ndarray]:
  """Return `generation.make_generator` or `make_long_generator` with the parameters of a stage bound.

  Args:
    stage: model and parameters.
    sampling: section `sampling` of the configuration.
    mesh: devices, each of which gets a copy of the parameters; None: the device they are on.
    long: make videos of any length.
    **options: further options of the generator.

  Raises:
    InvalidInput: settings that do not go together.
  """
  make = generation.make_long_generator if long else generation.make_generator
  params = stage.params if mesh is None else jax.device_put(stage.params, partitioning.replicated(mesh))
  try:
    return functools.partial(make(stage.model, sampling, mesh=mesh, **options), params)
  except ValueError as error:
    raise InvalidInput(str(error)) from error


def _memoized(generate: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """The same function with its results kept, by equality of the arguments (lists, which functools.cache rejects)."""
  known: list[tuple[dict[str, Any], np.ndarray]] = []

  def memoized(**conditions: Any) -> np.ndarray:
    for known_conditions, videos in known:
      if known_conditions == conditions:
        return videos
    known.append((conditions, generate(**conditions)))
    return known[-1][1]

  return memoized
