"""What becomes of a run whose steps are not finite: what it leaves behind when it ends, and how a step is done again.

`workdir/nonfinite/step_00000020/` is a workdir of its own: `config.json`, the state before the step in `checkpoints/`,
the global batch, what the step measured, and `report.json`, written last, which names the first bad part.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn
from jax.sharding import Mesh

from vdm_jax import checkpoints, partitioning
from vdm_jax.models import Model
from vdm_jax.runtime.atomic_files import atomic_write
from vdm_jax.training import optimizer, run_folder, state
from vdm_jax.training.step import jit_train_step, make_gradient
from vdm_jax.types import Array, Batch, Conditioning, Params

FOLDER, BATCH, OUTCOME, REPORT = 'nonfinite', 'batch.safetensors', 'outcome.safetensors', 'report.json'
MEASURED = ('loss', 'gradient_norm', 'per_example', 'logsnr')  # of the step; NaN and all, bit for bit
SHOWN = 5  # names of a kind in a sentence


class Damaged(RuntimeError):
  """A run's state holds what is not finite, though no step that was applied put it there."""


class Replay(NamedTuple):
  """A step that was done again."""

  step: int
  same: bool  # bit for bit what the run measured
  measured: dict[str, np.ndarray]
  found: list[str]  # what is not finite, the first cause first


def write(
  workdir: Path, config: Any, model: Model, mesh: Mesh, current: state.TrainState, batch: Batch, measured: Any
) -> Path:
  """Writes the bundle of the step that was taken from `current` with the global `batch`; returns its folder.

  All processes call it. A bundle of the same step that is there already is left as it is.
  """
  step = int(current.step) + 1
  folder = Path(workdir) / FOLDER / f'step_{step:08d}'
  if (folder / REPORT).exists():
    return folder
  whole = jax.jit(lambda tree: tree, out_shardings=partitioning.replicated(mesh))
  batch_values = {name: np.asarray(value) for name, value in checkpoints.named(whole(batch)).items()}
  outcome = {name: np.asarray(measured[name]) for name in MEASURED}
  writes = jax.process_index() == 0
  if writes:
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.write_config(folder, config)
    run_folder.write_environment(folder)
    _write_tensors(folder / BATCH, batch_values)
    _write_tensors(folder / OUTCOME, outcome)
  if step - 1 not in checkpoints.steps(folder):
    with checkpoints.Checkpointer(folder, 1) as checkpointer:
      checkpointer.save(step - 1, current)
      checkpointer.wait()
  found = diagnose(model, config.training, mesh, current, batch, jax.random.key(config.seed))
  size = config.data.batch_size
  if writes:
    report = {'step': step, 'seed': config.seed, 'elements': [(step - 1) * size, step * size], 'found': found}
    run_folder.write_json(folder / REPORT, report | {'loss': str(outcome['loss'])})
  return folder


def replay(folder: str | os.PathLike, config: Any, model: Model, mesh: Mesh) -> Replay:
  """Does the step of a bundle again. On the same kind and number of devices it gives the same bits.

  `config` is that of the bundle, or one changed to see what helps. Raises FileNotFoundError for a folder that is no
  whole bundle.
  """
  folder = Path(folder)
  if absent := [name for name in (BATCH, OUTCOME, REPORT) if not (folder / name).exists()]:
    raise FileNotFoundError(
      f'{folder} has no {absent[0]}: name a folder workdir/{FOLDER}/step_..., as a run leaves it that ended because '
      'its steps were not finite.'
    )
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  layout = state.abstract(model, rule, mesh)
  with checkpoints.Checkpointer(folder, 1) as checkpointer:
    current = checkpointer.restore(layout)
  batch = put_whole(_read_batch(folder / BATCH), mesh)
  key = jax.device_put(jax.random.key(config.seed), partitioning.replicated(mesh))
  with jax.set_mesh(mesh):
    found = diagnose(model, config.training, mesh, current, batch, key)
    step = int(current.step) + 1
    _, measured = jit_train_step(model, rule, config.training, mesh, layout)(current, batch, key)
  values = {name: np.asarray(measured[name]) for name in MEASURED}
  outcome = safetensors.numpy.load_file(folder / OUTCOME)
  same = all(values[name].tobytes() == outcome[name].tobytes() for name in MEASURED)
  return Replay(step, same, values, found)


def put_whole(batch: Batch, mesh: Mesh) -> Batch:
  """A global batch that every process has whole, split by row over the mesh."""
  sharding = partitioning.batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch)


def diagnose(model: Model, training: Any, mesh: Mesh, current: state.TrainState, batch: Batch, key: Array) -> list[str]:
  """What is not finite in a step, in the order in which it is computed: the first is the cause of the others.

  Batch, state, the outputs of the network's layers (the first), losses of examples, gradients.
  """
  bad: list[str] = []  # paths of layers, as they were found: a scanned one comes once for each turn

  def gradient(params: Params, batch: Batch, key: Array) -> tuple[Array, Any]:
    def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
      out = call(*args, **kwargs)
      if context.method_name == '__call__':
        path = '/'.join(context.module.path)
        jax.debug.callback(lambda good: None if good else bad.append(path), _finite(out))
      return out

    with nn.intercept_methods(look):
      _, aux, gradients = make_gradient(model, training, mesh)(params, batch, key)
    return aux['per_example'], jax.tree.map(_finite, gradients)

  step = jax.jit(gradient, out_shardings=partitioning.replicated(mesh))
  found = _sentence('batch', _checker(mesh)(batch)) + damage(current, mesh)
  losses, gradients = jax.block_until_ready(step(current.params, batch, jax.random.fold_in(key, current.step)))
  jax.effects_barrier()
  if bad:
    found.append(f'output of layer {_first_layer(bad)}')
  if rows := [str(i) for i in np.flatnonzero(~np.isfinite(np.asarray(losses)))]:
    found.append(f'loss of {len(rows)} of {len(losses)} examples: {_some(rows)}')
  return (found + _sentence('gradient', gradients)) or ['the update: the gradient is finite, its step is not']


def damage(current: state.TrainState, mesh: Mesh) -> list[str]:
  """What is not finite in a state, in a sentence: parameters, moments of the optimizer, averages."""
  parts = {'params': current.params, 'opt_state': current.opt_state, 'ema': current.ema}
  return _sentence('state', _checker(mesh)(parts))


def _first_layer(bad: list[str]) -> str:
  """The first of these paths, or the first one inside it: what holds a layer may be looked at before the layer is."""
  first = bad[0]
  while inside := [path for path in bad if path.startswith(first and f'{first}/') and path != first]:
    first = inside[0]
  return first or 'the network'


@functools.cache
def _checker(mesh: Mesh) -> Callable[[Any], Any]:
  """Tree -> of each leaf whether it is finite, the same on every process."""
  return jax.jit(lambda tree: jax.tree.map(_finite, tree), out_shardings=partitioning.replicated(mesh))


def _finite(tree: Any) -> Array:
  leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.bool_(True)


def _sentence(kind: str, finite: Any) -> list[str]:
  bad = [name for name, good in checkpoints.named(jax.device_get(finite)).items() if not good]
  return [f'{kind}: {_some(bad)}'] if bad else []


def _some(names: list[str]) -> str:
  more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
  return ', '.join(names[:SHOWN]) + more


def _write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
  with atomic_write(path) as temporary:
    safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary)


def _read_batch(path: Path) -> Batch:
  tensors = safetensors.numpy.load_file(path)
  fields = {name.removeprefix('cond/'): value for name, value in tensors.items() if name.startswith('cond/')}
  return Batch(tensors['x'], Conditioning(**fields))
