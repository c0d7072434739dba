"""A program through the compiler: what it takes of a device's memory, and what one run costs."""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax

from vdm_jax.tools.compilation.costs import Costs, costs
from vdm_jax.tools.compilation.flops import jaxpr_flops
from vdm_jax.tools.compilation.programs import Program
from vdm_jax.tools.compilation.targets import Target

# An estimate is never run: its machine code may be as slow as it likes.
_OPTIONS = {'cpu_estimate': {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}}
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
# How the compiler says that it does not fit: what it needs, and what there is.
_EXHAUSTED = (
  re.compile(r'\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)'),
  re.compile(r'Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm'),
)


class Compiled(NamedTuple):
  """What the compiler says of a program; bytes are per device."""

  peak_bytes: int
  fits: bool | None  # None where the device's memory is not known
  temporary_bytes: int  # gradients, activations, what collectives gather; with the arguments where it does not fit
  donated_bytes: int  # of arguments whose place the results take
  flops: int  # model FLOPs of one run over all devices
  flops_recomputed: int  # of the backward pass's second time through the forward pass
  seconds: float  # that the compiler took
  cpu_seconds: float  # of all cores together, which other work on the machine does not lengthen
  costs: Costs | None  # None where there is no program, because it does not fit
  message: str = ''  # the compiler's, where it does not fit


def compile_program(program: Program, target: Target) -> Compiled:
  """Compiles for the target; raises what the compiler raises, but for memory that does not suffice."""
  jaxpr = program.traced.jaxpr.jaxpr
  flops = jaxpr_flops(jaxpr)
  again = jaxpr_flops(jaxpr, recomputed=True) - flops
  lowered = program.traced.lower()
  # A program out of the cache would tell how long reading it took.
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
  """Arguments, results that do not take the place of donated arguments, temporaries and the program itself."""
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def _exhausted(message: str) -> int | None:
  """The bytes that the compiler says it needs; None for any other error."""
  for pattern in _EXHAUSTED:
    if match := pattern.search(message):
      return int(float(match.group(1)) * _UNITS[match.group(2)])
  return None
