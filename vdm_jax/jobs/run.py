"""A trained run, opened for use: its model, its EMA parameters, and generators of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import checkpoints, generation, models
from vdm_jax.jobs.arguments import BadInput
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
    raise BadInput(
      'a second stage makes videos out of those of its first: name that run with --config.training.first_stage=DIR.'
    )
  try:
    first_config = checkpoints.read_config(path)
    models.check_cascade(first_config['model'], config['model'])
  except (ValueError, OSError) as error:
    raise BadInput(f'training.first_stage={path}: {error}') from error
  second = load(config, workdir)
  shares_text = all(first_config['model'][key] == second.model.config[key] for key in ('text', 'text_length'))
  return [load(first_config, path, second.model.encode if shares_text else None), second]


def open_run(config: ConfigDict, workdir: str) -> tuple[Model, Callable[[ConfigDict], Callable[..., np.ndarray]]]:
  """The run's model, and what makes a generator of its EMA out of a section `sampling`, a first stage's before it."""
  *before, (model, params, _) = open_stages(config, workdir)
  if not before:
    return model, lambda sampling: functools.partial(make_generator(model, sampling), params)
  first = _remember(functools.partial(make_generator(before[0].model, before[0].sampling), before[0].params))
  return model, lambda sampling: generation.make_cascade(
    first, functools.partial(make_generator(model, sampling), params)
  )


def make_generator(model: Model, sampling: Mapping[str, Any]) -> Callable[..., np.ndarray]:
  try:
    return generation.make_generator(model, sampling)
  except ValueError as error:
    raise BadInput(str(error)) from error


def _remember(generate: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """The same function with its last result kept: a sweep asks for the same first-stage videos every time."""
  last: list[tuple[dict[str, Any], np.ndarray]] = []

  def remembered(**conditions: Any) -> np.ndarray:
    if not last or last[0][0] != conditions:
      last[:] = [(conditions, generate(**conditions))]
    return last[0][1]

  return remembered


def load(config: Mapping[str, Any], workdir: str, encode: Any = None) -> Stage:
  """The run's model under the (possibly changed) configuration, and its EMA parameters."""
  try:
    model, params = checkpoints.load(workdir, model=models.build(config['model'], encode))
  except (ValueError, OSError) as error:
    raise BadInput(str(error)) from error
  return Stage(model, params, config['sampling'])
