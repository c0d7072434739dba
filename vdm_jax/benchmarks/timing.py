"""Times of alternatives, measured in turns so that a machine's other work meets all of them alike."""

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
  """The median seconds of each function, called in turns `repeats` times after one call that compiles.

  `clock` is `time.perf_counter`, or `time.process_time` for what all cores together spend.
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
  """The command that makes a benchmark's figures, from its `main`'s arguments."""
  return ' '.join([f'python -m vdm_jax.benchmarks.{module}', *(sys.argv[1:] if argv is None else argv)])


def machine() -> dict[str, Any]:
  """What the figures were measured on."""
  return {'device': jax.devices()[0].device_kind, 'cpu_count': os.cpu_count(), 'jax': jax.__version__}
