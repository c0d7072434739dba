"""Steps that are not finite: diagnosis, the bundle that a run leaves when it gives up, and its replay.

The bundle `workdir/nonfinite/step_00000020/` is a complete workdir: `config.json`, the state before the step in
`checkpoints/`, the global batch, what the step measured, and `report.json`, written last, which names the first
non-finite part.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from flax import linen as nn
from jax.sharding import Mesh

from vdm_jax import checkpoints, configuration, partitioning, runtime
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.runtime.atomic_files import atomic_write
from vdm_jax.training import run_folder, state
from vdm_jax.training.optimizer import Constructor, build
from vdm_jax.training.step import MAX_SKIPPED, jit_train_step, make_gradient
from vdm_jax.types import Array, Batch, Conditioning, Params

FOLDER, BATCH, OUTCOME, REPORT = 'nonfinite', 'batch.safetensors', 'outcome.safetensors', 'report.json'
MEASURED = ('loss', 'gradient_norm', 'per_example', 'logsnr')  # of the step, compared bit for bit
SHOWN = 5  # names listed per kind


class Damaged(RuntimeError):
  """The training state has non-finite values although no applied step wrote any: the memory of a device failed.

  >>> raise Damaged('step 6 was not finite because of state: ema/enter/kernel')
  Traceback (most recent call last):
  ...
  vdm_jax.training.nonfinite.Damaged: step 6 was not finite because of state: ema/enter/kernel
  """


class Replay(NamedTuple):
  """A repeated step.

  >>> Replay(step=14, same=True, measured={}, found=['batch: x']).found[0]
  'batch: x'
  """

  step: int
  same: bool  # whether it measured the same bits as the run
  measured: dict[str, np.ndarray]
  found: list[str]  # what is not finite, the first cause first


class Guard(NamedTuple):
  """What a run does about steps that are not finite, besides skipping them."""

  workdir: Path
  config: Any
  model: Model
  mesh: Mesh

  def check_state(self, step: int, current: state.TrainState) -> None:
    """Raise Damaged if a non-finite state is why a step was not finite. All processes call it."""
    if found := damage(current, self.mesh):
      raise Damaged(
        f'step {step} was not finite because of {found[0]}. No applied step wrote this: the memory of a device or its '
        'host has failed. This state is not saved; the same command resumes from the last checkpoint. If it ends at '
        'once in the same way, move the newest folder of checkpoints/ away; if later, exclude the machine it ran on.'
      )

  def give_up(self, step: int, batch: Batch, measured: Any, current: state.TrainState) -> FloatingPointError:
    """Write the bundle of the last of MAX_SKIPPED consecutive skipped steps; return the error to raise.

    Args:
      step: its number.
      batch: this process's part of its batch.
      measured: what it returned.
      current: the state after it, or after later steps, which change nothing.
    """
    counters = {'step': step - 1, 'skipped_in_a_row': MAX_SKIPPED - 1}
    before = current._replace(**{name: jnp.full_like(current.step, value) for name, value in counters.items()})
    batch = partitioning.put_batch(batch, self.mesh)
    folder = write(self.workdir, self.config, self.model, self.mesh, before, batch, measured)
    return FloatingPointError(
      f'no loss or gradient of the {MAX_SKIPPED} steps up to step {step} was finite. {folder} holds the last of them: '
      f'--mode=replay --workdir={folder} repeats it and names the first non-finite part. The same command resumes from '
      'the last checkpoint, but will end here again: use another --workdir with a lower training.learning_rate, a '
      "smaller training.clip_norm or model.dtype='float32', and check the data for NaN."
    )


def write(
  workdir: Path, config: Any, model: Model, mesh: Mesh, current: state.TrainState, batch: Batch, measured: Any
) -> Path:
  """Write the bundle of the step taken from the state `current` with the global `batch`, and return its folder.

  All processes call it. An existing bundle of the same step is kept, unless it was left by a run with other settings,
  which was in this workdir before; it is then moved to `step_XXXXXXXX-N`.
  """
  step = int(current.step) + 1
  folder = Path(workdir) / FOLDER / f'step_{step:08d}'
  if jax.process_index() == 0 and (folder / 'config.json').exists() and not _is_of(folder, config):
    folder.rename(folder.with_name(f'{folder.name}-{len(list(folder.parent.glob(f"{folder.name}-*")))}'))
  runtime.exchange('bundle', True)
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


def _is_of(folder: Path, config: Any) -> bool:
  """Whether a bundle was left by a run with these settings."""
  settings = json.loads(json.dumps(configuration.to_dict(config)))
  return Run(folder).config == configuration.complete(settings)


def replay(
  folder: str | os.PathLike,
  config: Any,
  model: Model,
  mesh: Mesh,
  *,
  optimizer: Constructor | optax.GradientTransformation | None = None,
  schedule: optax.Schedule | None = None,
) -> Replay:
  """Repeat the step of a bundle. It gives the same bits on the same kind and number of devices.

  Args:
    folder: `workdir/nonfinite/step_XXXXXXXX`.
    config: that of the bundle, or with changes whose effect is of interest.
    model: from `models.build(config.model)`.
    mesh: the devices.
    optimizer, schedule: as given to `train`.

  Raises:
    FileNotFoundError: the folder is not a complete bundle.

  >>> from vdm_jax.training.example import tiny
  >>> model, config, _ = tiny()
  >>> replay('runs/digits', config, model, partitioning.make_mesh(config.mesh))
  Traceback (most recent call last):
  ...
  FileNotFoundError: runs/digits has no batch.safetensors: ...
  """
  folder = Path(folder)
  if absent := [name for name in (BATCH, OUTCOME, REPORT) if not (folder / name).exists()]:
    raise FileNotFoundError(
      f'{folder} has no {absent[0]}: name a folder workdir/{FOLDER}/step_..., which a run leaves if it ends because '
      'its steps are not finite.'
    )
  rule = build(config.training, model.logical_axes, model.decay_mask, optimizer=optimizer, schedule=schedule)
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
  """Return a global batch, of which every process has a full copy, split by row over the mesh."""
  sharding = partitioning.batch_sharding(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), batch)


def diagnose(model: Model, training: Any, mesh: Mesh, current: state.TrainState, batch: Batch, key: Array) -> list[str]:
  """Return what is not finite in a step, in the order of computation, so that the first is the cause of the others.

  Checked are the batch, the state, outputs of the network's layers (only the first is named), losses of examples,
  gradients.
  """
  bad: list[str] = []  # paths of layers in the order found; a scanned layer once per iteration

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
  found = _names_of_bad('batch', _checker(mesh)(batch)) + damage(current, mesh)
  losses, gradients = jax.block_until_ready(step(current.params, batch, jax.random.fold_in(key, current.step)))
  jax.effects_barrier()
  if bad:
    found.append(f'output of layer {_first_layer(bad)}')
  if rows := [str(i) for i in np.flatnonzero(~np.isfinite(np.asarray(losses)))]:
    found.append(f'loss of {len(rows)} of {len(losses)} examples: {_some(rows)}')
  return (found + _names_of_bad('gradient', gradients)) or ['update: the gradient is finite, the update is not']


def damage(current: state.TrainState, mesh: Mesh) -> list[str]:
  """Return the names of non-finite parameters, moments and averages of a state, in one string; [] if there are none."""
  parts = {'params': current.params, 'opt_state': current.opt_state, 'ema': current.ema}
  return _names_of_bad('state', _checker(mesh)(parts))


def _first_layer(bad: list[str]) -> str:
  """Return the first of these paths, or the first inside it: an outer layer may be checked before its inner ones."""
  first = bad[0]
  while inside := [path for path in bad if path.startswith(first and f'{first}/') and path != first]:
    first = inside[0]
  return first or 'the network'


@functools.cache
def _checker(mesh: Mesh) -> Callable[[Any], Any]:
  """Return a function: tree -> whether each leaf is finite, the same on every process."""
  return jax.jit(lambda tree: jax.tree.map(_finite, tree), out_shardings=partitioning.replicated(mesh))


def _finite(tree: Any) -> Array:
  leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.bool_(True)


def _names_of_bad(kind: str, finite: Any) -> list[str]:
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
  return Batch(tensors['x'], Conditioning(**fields), tensors.get('mask'))
