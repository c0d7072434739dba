"""The compile report: one configuration on one topology."""

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
  """Compiles the training step and one sampling step for a topology and says what they take; no weights are made.

  To be called before anything else uses JAX, see `open_target`.

  Args:
    config: the experiment.
    topology: see `open_target`.
    sampling: whether to compile the sampling step.
    suggest: whether to compile changes of the configuration where the training step does not fit.

  Returns:
    What the README lists, of plain values: bytes are per device and seconds per step.

  Raises:
    ValueError: a bad configuration or topology, a mesh that the devices do not fill, a batch that does not split.
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
    # Of the compiler, from -1.0 (in haste) to 1.0, for the speed of the program: JAX's setting of that name.
    'exec_time_optimization_effort': jax.config.jax_exec_time_optimization_effort,
  }
  if sampling:
    result['sampling'] = sampling_report(model, config, mesh, target)
  if suggest and compiled.fits is False:
    result['suggestions'] = suggestions(config, target, compiled, programs.bytes_per_device(state))
  return result


def sampling_report(model: Model, config: ConfigDict, mesh: Mesh, target: Target) -> dict[str, Any]:
  """Of one sampling step of as many videos as the batch has parts."""
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
