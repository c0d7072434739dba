"""Starting a second stage from the weights of a trained first one (Snap section 3.5).

Both have the same blocks. What differs is known in advance: tables of positions are resampled, the input layer gets
rows of zeros for the low-resolution channels, and the embedding of their noise level is new.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vdm_jax import checkpoints, models
from vdm_jax.training import metrics_log
from vdm_jax.types import Array, Params

COPIED, RESAMPLED, EXTENDED, FRESH = 'copied', 'resampled', 'extended by zeros', 'fresh'
INPUT_LAYERS = ('patch/kernel', 'stem/kernel')  # channels in on the axis before the last
NEW = 'augmentation_logsnr'
# Settings of `model` without which the same weights mean something else.
SAME = ('network', 'text', 'vocabulary', 'process', 'parameterization', 'sigma_data', 'noise_features')


def check(config: Any, model: models.Model) -> dict[str, str]:
  """How each tensor of `model` would start from `config.training.first_stage`, by shapes alone: name -> manner.

  Raises FileNotFoundError where there is no checkpoint, and ValueError where the stages do not fit: in size, or, unless
  `training.accept_mismatch` is set, in what their weights mean (SAME) or in any tensor, each of which it names.
  """
  path, accept = config.training.first_stage, config.training.accept_mismatch
  first = checkpoints.read_config(path)['model']
  if Path(path).is_dir() and not checkpoints.steps(path):
    raise FileNotFoundError(f'training.first_stage={path} has no checkpoint yet: train the first stage before.')
  if model.upsampling > 1:
    models.check_cascade(first, model.config)
  different = [key for key in SAME if _plain(first.get(key)) != _plain(model.config.get(key))]
  if different and not accept:
    raise ValueError(
      f'training.first_stage={path} was trained for something else: '
      + '; '.join(f'model.{key}={first.get(key)!r}, here {model.config.get(key)!r}' for key in different)
      + '. Use the same settings, or set training.accept_mismatch=True to start from these weights all the same.'
    )
  stages = (model, _build(first, model))
  wanted, found = (checkpoints.named(jax.eval_shape(stage.init, jax.random.key(0))) for stage in stages)
  return plan(wanted, found, accept_mismatch=accept, origin=str(path))


def _build(first: Mapping[str, Any], model: models.Model) -> models.Model:
  """The first stage's model out of its `model` section, with the second's text function where they have the same."""
  return models.build(first, encode=model.encode if first['text'] == model.config['text'] else None)


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def plan(
  wanted: Mapping[str, Any], found: Mapping[str, Any], *, accept_mismatch: bool = False, origin: str = 'the first stage'
) -> dict[str, str]:
  """What becomes of each wanted tensor, given those found (named arrays or shapes): name -> one of the four manners.

  Raises ValueError, naming every tensor that does not fit, unless `accept_mismatch`; then those are fresh.
  """
  manners, different = {}, []
  for name, leaf in wanted.items():
    other = found.get(name)
    manners[name] = _manner(name, leaf.shape, None if other is None else other.shape)
    if manners[name] is None:
      manners[name] = FRESH
      different.append(f'  {name}: {"absent" if other is None else list(other.shape)} there, {list(leaf.shape)} here')
  for name in found.keys() - wanted.keys():
    if not _is_position(name):
      different.append(f'  {name}: {list(found[name].shape)} there, absent here')
  if different and not accept_mismatch:
    raise ValueError(
      f'{origin} does not fit this model in {len(different)} tensors:\n' + '\n'.join(sorted(different)) + '\n'
      'Give both stages the same network, or set training.accept_mismatch=True to start those afresh.'
    )
  return manners


def transfer(params: Params, first: Params, manners: Mapping[str, str]) -> Params:
  """Fresh `params` with those of the first stage put in, as `plan` says; every leaf stays laid out as it is."""
  source = checkpoints.named(first)

  def start(path: Any, fresh: Array) -> Array:
    name = checkpoints.tensor_name(path)
    value = {
      COPIED: lambda: source[name],
      RESAMPLED: lambda: jax.image.resize(source[name], fresh.shape, 'linear'),
      EXTENDED: lambda: _extend(source[name], fresh.shape[-2]),
      FRESH: lambda: fresh,
    }[manners[name]]()
    return jax.device_put(value, fresh.sharding)

  return jax.tree_util.tree_map_with_path(start, params)


def starting_point(config: Any, model: models.Model, mesh: Mesh) -> Callable[[Params], Params]:
  """`fresh parameters -> those training starts from`, out of the EMA of `training.first_stage`; says what became of
  each tensor. Raises as `check` does.
  """
  manners = check(config, model)

  def start(params: Params) -> Params:
    path = config.training.first_stage
    _, first = checkpoints.load(path, mesh, _build(checkpoints.read_config(path)['model'], model))
    metrics_log.print_status(report(path, manners))
    return transfer(params, first, manners)

  return start


def report(origin: str, manners: Mapping[str, str]) -> str:
  """A line on how many tensors were copied, and the names of the others."""
  names = collections.defaultdict(list)
  for name, manner in manners.items():
    names[manner].append(name)
  others = [f'; {manner}: {", ".join(names[manner])}' for manner in (RESAMPLED, EXTENDED, FRESH) if names[manner]]
  return f'weights of {origin}: {len(names[COPIED])} of {len(manners)} tensors copied{"".join(others)}'


def _manner(name: str, wanted: tuple[int, ...], found: tuple[int, ...] | None) -> str | None:
  """How a tensor starts; None where it does not fit."""
  if found == wanted:
    return COPIED
  if _is_position(name):
    fits = found is not None and len(found) == len(wanted) and found[-1] == wanted[-1]
    return RESAMPLED if fits else FRESH
  if found is None:
    return FRESH if NEW in name.split('/') else None
  twice = (*found[:-2], 2 * found[-2], found[-1]) if len(found) > 1 else None
  return EXTENDED if name in INPUT_LAYERS and wanted == twice else None


def _is_position(name: str) -> bool:
  return name.endswith('position_embedding') and 'words' not in name.split('/')


def _extend(kernel: Array, rows: int) -> Array:
  before = [(0, 0)] * kernel.ndim
  before[-2] = (0, rows - kernel.shape[-2])
  return jnp.pad(kernel, before)
