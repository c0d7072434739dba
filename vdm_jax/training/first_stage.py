"""Starting a second stage from the weights of a trained first one (Snap section 3.5).

Both stages have the same blocks. The differences are declared by the network (`networks.VideoNetwork`): tables of
positions are resampled, kernels that read pixels get rows of zeros for the low-resolution channels, layers that only a
second stage has are initialized afresh, and some tensors are rearranged by a rule of the network's own.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vdm_jax import checkpoints, models
from vdm_jax.networks import VideoNetwork
from vdm_jax.runs import Run
from vdm_jax.training import metrics_log
from vdm_jax.types import Array, Params

COPIED, RESAMPLED, REARRANGED, EXTENDED = 'copied', 'resampled', 'rearranged', 'extended by zeros'
FRESH = 'fresh'
# Settings of `model` that change what equal weights compute, besides the network's `stage_invariants`.
INVARIANTS = ('network', 'text', 'vocabulary', 'process', 'parameterization', 'sigma_data', 'noise_input')


def check(config: Any, model: models.Model, run: Run) -> dict[str, str]:
  """Return how each tensor of `model` would start from the first stage `run`, by shapes alone.

  Returns:
    Name -> one of COPIED, RESAMPLED, REARRANGED, EXTENDED and FRESH.

  Raises:
    FileNotFoundError: the first stage has no checkpoint.
    ValueError: the stages differ in size; or, unless `training.accept_mismatch` is set, in settings that change what
      equal weights compute, or in tensors, all of which the message names.
  """
  path, accept = run.name, config.training.accept_mismatch
  first = run.config['model']
  if run.path.is_dir() and not checkpoints.steps(run.path):
    raise FileNotFoundError(f'training.first_stage={path} has no checkpoint yet: train the first stage before.')
  if model.upsampling > 1:
    models.check_cascade(first, model.config)
  keys = (*INVARIANTS, *model.module.stage_invariants)
  different = [key for key in keys if _plain(first.get(key)) != _plain(model.config.get(key))]
  if different and not accept:
    raise ValueError(
      f'training.first_stage={path} was trained for something else: '
      + '; '.join(f'model.{key}={first.get(key)!r}, here {model.config.get(key)!r}' for key in different)
      + '. Use the same settings, or set training.accept_mismatch=True to start from these weights all the same.'
    )
  stages = (model, _build(first, model))
  wanted, found = (checkpoints.named(jax.eval_shape(stage.init, jax.random.key(0))) for stage in stages)
  return plan(model.module, wanted, found, first=stages[1].module, accept_mismatch=accept, origin=path)


def _build(first: Mapping[str, Any], model: models.Model) -> models.Model:
  """Build the first stage from its `model` section; a text function that both stages share is not loaded again."""
  return models.build(first, encode=model.encode if first['text'] == model.config['text'] else None)


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value


def plan(
  network: VideoNetwork,
  wanted: Mapping[str, Any],
  found: Mapping[str, Any],
  *,
  first: VideoNetwork | None = None,
  accept_mismatch: bool = False,
  origin: str = 'the first stage',
) -> dict[str, str]:
  """Return how each tensor of a second stage starts.

  Args:
    network: that of the second stage.
    wanted, found: tensors of the second and the first stage, arrays or shapes by name.
    first: the network of the first stage; None for no rules of the network's own.
    accept_mismatch: initialize tensors afresh that do not fit.
    origin: name of the first stage, for messages.

  Returns:
    Name -> one of COPIED, RESAMPLED, REARRANGED, EXTENDED and FRESH.

  Raises:
    ValueError: tensors do not fit, all of which the message names, and `accept_mismatch` is False.
  """
  manners, different = {}, []
  rules = network.starting_rules(first) if first is not None else {}
  for name, leaf in wanted.items():
    other = found.get(name)
    manners[name] = _manner(network, name, leaf.shape, None if other is None else other.shape)
    if name in rules and manners[name] in (COPIED, FRESH):
      manners[name] = REARRANGED
    if manners[name] is None:
      manners[name] = FRESH
      different.append(f'  {name}: {"absent" if other is None else list(other.shape)} there, {list(leaf.shape)} here')
  for name in found.keys() - wanted.keys() - set(network.position_tables):
    different.append(f'  {name}: {list(found[name].shape)} there, absent here')
  if different and not accept_mismatch:
    raise ValueError(
      f'{origin} does not fit this model in {len(different)} tensors:\n' + '\n'.join(sorted(different)) + '\n'
      'Give both stages the same network, or set training.accept_mismatch=True to start those afresh.'
    )
  return manners


def transfer(
  params: Params,
  first: Params,
  manners: Mapping[str, str],
  rules: Mapping[str, Callable[[Mapping[str, Array]], Array]] | None = None,
) -> Params:
  """Return freshly initialized `params` with the first stage's put in, as `plan` decides; shardings are kept.

  `rules` are those of `VideoNetwork.starting_rules`, for the tensors that are REARRANGED.
  """
  source = checkpoints.named(first)

  def start(path: Any, fresh: Array) -> Array:
    name = checkpoints.tensor_name(path)
    value = {
      COPIED: lambda: source[name],
      RESAMPLED: lambda: jax.image.resize(source[name], fresh.shape, 'linear'),
      REARRANGED: lambda: rules[name](source),
      EXTENDED: lambda: _extend(source[name], fresh.shape[-2]),
      FRESH: lambda: fresh,
    }[manners[name]]()
    return jax.device_put(value, fresh.sharding)

  return jax.tree_util.tree_map_with_path(start, params)


def starting_point(config: Any, model: models.Model, mesh: Mesh, run: Run) -> Callable[[Params], Params]:
  """Return the function `initialized parameters -> those training starts from`, which reads a first stage.

  The EMA weights of the first stage are used; how its tensors were used is logged. Raises as `check` does.

  Args:
    config: has `training.accept_mismatch`.
    model: the second stage.
    mesh: the devices to load the weights onto.
    run: the first stage.

  >>> from types import SimpleNamespace
  >>> import vdm_jax
  >>> from vdm_jax import partitioning
  >>> model, _ = vdm_jax.load('pretrained:digits_fit_upsampler')
  >>> config = SimpleNamespace(training=SimpleNamespace(accept_mismatch=False))
  >>> first = Run('pretrained:digits_fit')
  >>> start = starting_point(config, model, partitioning.make_mesh({'data': 1}, jax.devices()[:1]), first)
  >>> sorted(collections.Counter(check(config, model, first).values()).items())
  [('copied', 102), ('extended by zeros', 1), ('fresh', 4), ('resampled', 1)]
  """
  manners = check(config, model, run)

  def start(params: Params) -> Params:
    first = _build(run.config['model'], model)
    _, weights = run.load(mesh, first)
    metrics_log.print_status(report(run.name, manners))
    return transfer(params, weights, manners, model.module.starting_rules(first.module))

  return start


def report(origin: str, manners: Mapping[str, str]) -> str:
  """Return one line with the number of copied tensors and the names of the others."""
  names = collections.defaultdict(list)
  for name, manner in manners.items():
    names[manner].append(name)
  others = [
    f'; {manner}: {", ".join(names[manner])}' for manner in (RESAMPLED, REARRANGED, EXTENDED, FRESH) if names[manner]
  ]
  return f'weights of {origin}: {len(names[COPIED])} of {len(manners)} tensors copied{"".join(others)}'


def _manner(network: VideoNetwork, name: str, wanted: tuple[int, ...], found: tuple[int, ...] | None) -> str | None:
  """Return how a tensor starts; None if it does not fit."""
  if found == wanted:
    return COPIED
  if name in network.position_tables:
    fits = found is not None and len(found) == len(wanted) and found[-1] == wanted[-1]
    return RESAMPLED if fits else FRESH
  if found is None:
    new = any(name == layer or name.startswith(f'{layer}/') for layer in network.second_stage_layers)
    return FRESH if new else None
  twice = (*found[:-2], 2 * found[-2], found[-1]) if len(found) > 1 else None
  return EXTENDED if name in network.input_kernels and wanted == twice else None


def _extend(kernel: Array, rows: int) -> Array:
  """Append rows of zeros to the axis before the last."""
  before = [(0, 0)] * kernel.ndim
  before[-2] = (0, rows - kernel.shape[-2])
  return jnp.pad(kernel, before)
