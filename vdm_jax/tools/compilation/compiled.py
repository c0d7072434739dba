"""Compiling a program, to find its memory per device and the costs of one run."""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax

from vdm_jax.tools.compilation.costs import Costs, costs
from vdm_jax.tools.compilation.flops import jaxpr_flops
from vdm_jax.tools.compilation.programs import Program
from vdm_jax.tools.compilation.targets import Target

# An estimate is never run, so the speed of its machine code is irrelevant.
_OPTIONS = {'cpu_estimate': {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}}
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# Out-of-memory messages of the compiler: bytes needed, bytes available.
_EXHAUSTED = (
  re.compile(r'\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)'),
  re.compile(r'Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm'),
)


class Compiled(NamedTuple):
  """Results of compiling a program; bytes are per device."""

  peak_bytes: int
  fits: bool | None  # None if the device's memory is unknown
  temporary_bytes: int  # gradients, activations, gathered arrays; includes arguments if the program does not fit
  donated_bytes: int  # arguments whose memory the results reuse
  flops: int  # model FLOPs of one run, all devices together
  flops_recomputed: int  # FLOPs that rematerialization repeats
  seconds: float  # compile time
  cpu_seconds: float  # compile time of all cores together, independent of other load on the machine
  costs: Costs | None  # None if the program does not fit
  message: str = ''  # of the compiler, if the program does not fit


def compile_program(program: Program, target: Target) -> Compiled:
  """Compile for the target; compiler errors other than out-of-memory are raised."""
  jaxpr = program.traced.jaxpr.jaxpr
  flops = jaxpr_flops(jaxpr)
  again = jaxpr_flops(jaxpr, recomputed=True) - flops
  lowered = program.traced.lower()
  # With a cached program the time would be that of reading it.
  cached = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  start, start_cpu = time.perf_counter(), time.process_time()
  try:
    executable = lowered.compile(compiler_options=_OPTIONS.get(target.backend))
  except jax.errors.JaxRuntimeError as error:
    if (found := _exhausted(str(error))) is None:
      raise
    seconds = time.perf_counter() - start, time.process_time() - start_cpu
    return Compiled(found, False, found, 0, flops, again, *seconds, None, str(error).splitlines()[0])
  finally:
    jax.config.update('jax_enable_compilation_cache', cached)
  seconds = time.perf_counter() - start, time.process_time() - start_cpu
  memory = executable.memory_analysis()
  peak = _peak(memory)
  fits = None if target.memory is None else peak <= target.memory
  spent = costs(executable.as_text(), len(target.devices))
  return Compiled(peak, fits, memory.temp_size_in_bytes, memory.alias_size_in_bytes, flops, again, *seconds, spent)


def _peak(memory: Any) -> int:
  """Return the bytes of arguments, results outside donated arguments, temporaries and the program itself."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def _exhausted(message: str) -> int | None:
  """Return the bytes needed according to an out-of-memory message; None for any other error."""
  for pattern in _EXHAUSTED:
    if match := pattern.search(message):
      return int(float(match.group(1)) * _UNITS[match.group(2)])
  return None
