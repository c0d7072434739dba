"""Timing alternatives in turns, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def medians(
  functions: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] | None = None
) -> dict[str, float]:
  """Return the median seconds of each function.

  Args:
    functions: the functions by name; each is called once to compile, then in turns with the others.
    repeats: how often each is timed.
    clock: `time.perf_counter` by default; `time.process_time` for the time of all cores together.
  """
  clock = clock or time.perf_counter
  for function in functions.values():
    jax.block_until_ready(function())
  seconds: dict[str, list[float]] = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = clock()
      jax.block_until_ready(function())
      seconds[name].append(clock() - start)
  return {name: statistics.median(values) for name, values in seconds.items()}


def command(module: str, argv: Sequence[str] | None) -> str:
  """Return the command line that reproduces a benchmark, from the arguments of its `main`."""
  return ' '.join([f'python -m vdm_jax.benchmarks.{module}', *(sys.argv[1:] if argv is None else argv)])


def machine() -> dict[str, Any]:
  """Return a description of the machine for a report."""
  return {'device': jax.devices()[0].device_kind, 'cpu_count': os.cpu_count(), 'jax': jax.__version__}
