"""The compile report of a configuration on a topology."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import jax
import jaxlib
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import configuration, partitioning
from vdm_jax.models import Model
from vdm_jax.tools.compilation import programs
from vdm_jax.tools.compilation.compiled import Compiled, compile_program
from vdm_jax.tools.compilation.remedies import suggestions
from vdm_jax.tools.compilation.roofline import roofline
from vdm_jax.tools.compilation.targets import Target, open_target
from vdm_jax.training.state import TrainState


def report(config: ConfigDict, topology: str, *, sampling: bool = True, suggest: bool = True) -> dict[str, Any]:
  """Compile the training step and one sampling step for a topology and return their memory and costs.

  No weights are allocated. Must be called before anything else uses JAX, see `open_target`.

  Args:
    config: the experiment.
    topology: see `open_target`.
    sampling: whether to compile the sampling step.
    suggest: whether to compile changes of the configuration if the training step does not fit.

  Returns:
    One JSON object, as documented for `--mode=compile`; bytes are per device and seconds per step.

  Raises:
    ValueError: the configuration or topology is not valid, the mesh does not match the devices, or the batch does not
      split over the mesh.
    RuntimeError: see `open_target`.
  """
  configuration.validate(config)
  target = open_target(topology)
  mesh = partitioning.make_mesh(config.mesh, target.devices)
  model = programs.build_model(config)
  program = programs.train_step(model, config, mesh)
  state, compiled = program.arguments[0], compile_program(program, target)
  result = {
    'topology': topology,
    'backend': target.backend,
    'devices': len(target.devices),
    'device_kind': target.devices[0].device_kind,
    'mesh': dict(mesh.shape),
    'batch_size': config.data.batch_size,
    'accumulation_steps': config.training.accumulation_steps,
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    **_bytes(state, compiled, target),
    **_work(compiled, target),
    'versions': _versions(target),
    # JAX's setting: effort of the compiler for the speed of the program, from -1.0 to 1.0.
    'exec_time_optimization_effort': jax.config.jax_exec_time_optimization_effort,
  }
  if sampling:
    result['sampling'] = sampling_report(model, config, mesh, target)
  if suggest and compiled.fits is False:
    result['suggestions'] = suggestions(config, target, compiled, programs.bytes_per_device(state))
  return result


def sampling_report(model: Model, config: ConfigDict, mesh: Mesh, target: Target) -> dict[str, Any]:
  """Return memory and costs of one sampling step of one video per part of the batch."""
  program = programs.sampling_step(model, config, mesh)
  compiled = compile_program(program, target)
  return {
    'videos': program.arguments[1].shape[0],
    'peak_bytes_per_device': compiled.peak_bytes,
    'fits': compiled.fits,
    'flops_per_step': compiled.flops,
    'compile_seconds': round(compiled.seconds, 1),
    'roofline': roofline(compiled, target),
  }


def _bytes(state: TrainState, compiled: Compiled, target: Target) -> dict[str, Any]:
  sizes = {
    name: programs.bytes_per_device(getattr(state, field))
    for name, field in (('parameter_bytes', 'params'), ('optimizer_bytes', 'opt_state'), ('ema_bytes', 'ema'))
  }
  return (
    sizes
    | {
      'temporary_bytes': compiled.temporary_bytes,
      'donated_bytes': compiled.donated_bytes,
      'peak_bytes_per_device': compiled.peak_bytes,
      'hbm_bytes_per_device': target.memory,
      'fits': compiled.fits,
    }
    | ({'compiler_says': compiled.message} if compiled.message else {})
  )


def _work(compiled: Compiled, target: Target) -> dict[str, Any]:
  return {
    'flops_per_step': compiled.flops,
    'recomputed_flops_per_step': compiled.flops_recomputed,
    'roofline': roofline(compiled, target),
    'compile_seconds': round(compiled.seconds, 1),
    'compile_cpu_seconds': round(compiled.cpu_seconds, 1),
  }


def _versions(target: Target) -> dict[str, str]:
  versions = {'jax': jax.__version__, 'jaxlib': jaxlib.__version__}
  if target.backend == 'tpu':
    versions['libtpu'] = metadata.version('libtpu')
  return versions
