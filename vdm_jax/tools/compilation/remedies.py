"""What would make a training step fit: the cheapest changes of its configuration, each compiled."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from vdm_jax import partitioning
from vdm_jax.tools.compilation import programs
from vdm_jax.tools.compilation.compiled import Compiled, compile_program
from vdm_jax.tools.compilation.targets import Target

# What the backward pass computes again, each policy more than the one before.
REMAT = {'unet3d': (False, True), 'fit': ('none', 'tokens', 'block')}


def suggestions(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> list[dict[str, Any]]:
  """Changes of rematerialisation, micro-batches and mesh, and all of them together where none is enough alone.

  Each is compiled: `change` is its arguments, `peak_bytes_per_device` and `fits` what the compiler says of it,
  `extra_flops` what it computes more per step. Those that fit come first, the cheapest before.
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
  """The policy that keeps least, unless the configuration has it."""
  least = REMAT[config.model.network][-1]
  return {} if config.model.remat == least else {'model.remat': least}


def micro_batches(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> dict[str, Any]:
  """So many micro-batches that what is not state should fit; none where a device already has one example at a time."""
  mesh = partitioning.make_mesh(config.mesh, target.devices)
  rows = config.data.batch_size // (mesh.shape['data'] * mesh.shape['fsdp'])  # examples per device
  parts = [part for part in range(config.training.accumulation_steps + 1, rows + 1) if rows % part == 0]
  if not parts:
    return {}
  room = target.memory - state_bytes
  if room <= 0:  # the mesh has to make some first
    room = target.memory / 2
  # Gradients do not shrink with the batch, so this is the least that is needed.
  wanted = config.training.accumulation_steps * (now.peak_bytes - state_bytes) / room
  return {'training.accumulation_steps': next((part for part in parts if part > wanted), parts[-1])}


def split_parameters(config: ConfigDict, target: Target, now: Compiled, state_bytes: int) -> dict[str, Any]:
  """The least `fsdp` that should make room, out of the devices that now hold copies of the parameters."""
  mesh = partitioning.make_mesh(config.mesh, target.devices)
  copies, fsdp = mesh.shape['data'], mesh.shape['fsdp']
  if copies == 1:
    return {}
  factors = [factor for factor in range(2, copies + 1) if copies % factor == 0]
  excess = now.peak_bytes - target.memory
  # State and gradients, of a fourth of its size, shrink by the factor.
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
