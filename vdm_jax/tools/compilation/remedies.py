"""Changes of a configuration that make its training step fit, each compiled."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax import models, partitioning
from vdm_jax.tools.compilation import programs
from vdm_jax.tools.compilation.compiled import Compiled, compile_program
from vdm_jax.tools.compilation.targets import Target


def suggestions(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> list[dict[str, Any]]:
  """Return changes of rematerialization, micro-batches and mesh, and all together if none of them is enough.

  Each is compiled. `change` is its command-line arguments, `peak_bytes_per_device` and `fits` the compiler's results,
  `extra_flops` the additional FLOPs per step. Those that fit come first, then the cheapest.
  """
  changes = [
    change
    for change in (
      remat(config),
      micro_batches(config, target, now, state_bytes),
      split_parameters(config, target, now, state_bytes),
    )
    if change
  ]
  tried = [_try(config, change, target, now) for change in changes]
  if len(changes) > 1 and not any(entry['fits'] for entry in tried):
    tried.append(_try(config, {key: value for change in changes for key, value in change.items()}, target, now))
  return sorted(tried, key=lambda entry: (not entry['fits'], entry['extra_flops'], entry['peak_bytes_per_device']))


def remat(config: ConfigDict) -> dict[str, Any]:
  """Return the choice of rematerialization that keeps least, if the network has one and it is not set already."""
  choices = models.NETWORKS[config.model.network].remat_choices
  return {} if not choices or config.model.remat == choices[-1] else {'model.remat': choices[-1]}


def micro_batches(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> dict[str, Any]:
  """Return a number of micro-batches with which all but the state should fit; none if a device has one example."""
  mesh = partitioning.make_mesh(config.mesh, target.devices)
  rows = config.data.batch_size // (mesh.shape['data'] * mesh.shape['fsdp'])  # examples per device
  parts = [part for part in range(config.training.accumulation_steps + 1, rows + 1) if rows % part == 0]
  if not parts:
    return {}
  available = target.memory - state_bytes
  if available <= 0:  # only with a larger mesh
    available = target.memory / 2
  # A lower bound, as gradients do not shrink with the batch.
  wanted = config.training.accumulation_steps * (now.peak_bytes - state_bytes) / available
  return {'training.accumulation_steps': next((part for part in parts if part > wanted), parts[-1])}


def split_parameters(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> dict[str, Any]:
  """Return the smallest `fsdp` that should be enough, out of the devices that hold copies of the parameters."""
  mesh = partitioning.make_mesh(config.mesh, target.devices)
  copies, fsdp = mesh.shape['data'], mesh.shape['fsdp']
  if copies == 1:
    return {}
  factors = [factor for factor in range(2, copies + 1) if copies % factor == 0]
  excess = now.peak_bytes - target.memory
  # The state, and gradients of a quarter of its size, shrink by the factor.
  enough = (factor for factor in factors if 1.25 * state_bytes * (1 - 1 / factor) > excess)
  factor = next(enough, factors[-1])
  return {'mesh.data': copies // factor, 'mesh.fsdp': fsdp * factor}


def _try(config: ConfigDict, change: dict[str, Any], target: Target, now: Compiled) -> dict[str, Any]:
  changed = config.copy_and_resolve_references()
  changed.update_from_flattened_dict(change)
  mesh = partitioning.make_mesh(changed.mesh, target.devices)
  compiled = compile_program(programs.train_step(programs.build_model(changed), changed, mesh), target)
  return {
    'change': ' '.join(f'--config.{key}={value}' for key, value in change.items()),
    'peak_bytes_per_device': compiled.peak_bytes,
    'fits': compiled.fits,
    'extra_flops': _work(compiled) - _work(now),
    'compile_seconds': round(compiled.seconds, 1),
  }


def _work(compiled: Compiled) -> int:
  return compiled.flops + compiled.flops_recomputed
