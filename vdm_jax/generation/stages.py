"""A trained run, opened for use: its model, its EMA parameters, and generators of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import checkpoints, generation, models, partitioning
from vdm_jax.errors import InvalidInput
from vdm_jax.models import Model
from vdm_jax.types import Params


class Stage(NamedTuple):
  """One model of a run with its EMA parameters, and how its run's configuration says to sample it."""

  model: Model
  params: Params
  sampling: Mapping[str, Any]


def open_stages(config: Mapping[str, Any], workdir: str) -> list[Stage]:
  """The models that make a run's videos, one after another: one, or the two of a cascade.

  The first of a cascade samples as its own run's configuration says.
  """
  if config['model']['upsampling'] == 1:
    return [load(config, workdir)]
  path = config['training']['first_stage']
  if not path:
    raise InvalidInput(
      'a second stage makes videos out of those of its first: name that run with --config.training.first_stage=DIR.'
    )
  try:
    first_config = checkpoints.read_config(path)
    models.check_cascade(first_config['model'], config['model'])
  except (ValueError, OSError) as error:
    raise InvalidInput(f'training.first_stage={path}: {error}') from error
  second = load(config, workdir)
  shares_text = all(first_config['model'][key] == second.model.config[key] for key in ('text', 'text_length'))
  return [load(first_config, path, second.model.encode if shares_text else None), second]


def open_run(config: ConfigDict, workdir: str) -> Callable[[Mapping[str, Any]], Callable[..., np.ndarray]]:
  """What makes a generator of the run's EMA out of a section `sampling`; the videos of a first stage are kept."""
  *before, last = open_stages(config, workdir)
  if not before:
    return lambda sampling: make_generator(last, sampling)
  first = _remember(make_generator(before[0], before[0].sampling))
  return lambda sampling: generation.make_cascade(first, make_generator(last, sampling))


def open_generator(stages: list[Stage], sampling: Mapping[str, Any], **options: Any) -> Callable[..., np.ndarray]:
  """A generator of all stages, the last of which samples as `sampling` says; options as in `make_generator`."""
  *before, last = stages
  second = make_generator(last, sampling, **options)
  if not before:
    return second
  return generation.make_cascade(make_generator(before[0], before[0].sampling, **options), second)


def make_generator(
  stage: Stage, sampling: Mapping[str, Any], *, mesh: Mesh | None = None, long: bool = False, **options: Any
) -> Callable[..., np.ndarray]:
  """`generation.make_generator`, or `make_long_generator`, with the EMA of a run: a copy on each device of a mesh."""
  make = generation.make_long_generator if long else generation.make_generator
  params = stage.params if mesh is None else jax.device_put(stage.params, partitioning.replicated(mesh))
  try:
    return functools.partial(make(stage.model, sampling, mesh=mesh, **options), params)
  except ValueError as error:
    raise InvalidInput(str(error)) from error


def _remember(generate: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """The same function with its results kept: a sweep asks for the same first-stage videos every time."""
  known: list[tuple[dict[str, Any], np.ndarray]] = []

  def remembered(**conditions: Any) -> np.ndarray:
    for asked, videos in known:
      if asked == conditions:
        return videos
    known.append((conditions, generate(**conditions)))
    return known[-1][1]

  return remembered


def load(config: Mapping[str, Any], workdir: str, encode: Any = None) -> Stage:
  """The run's model under the (possibly changed) configuration, and its EMA parameters."""
  try:
    model, params = checkpoints.load(workdir, model=models.build(config['model'], encode))
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  return Stage(model, params, config['sampling'])
