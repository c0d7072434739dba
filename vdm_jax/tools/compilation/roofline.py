"""Lower bound on the time of one run of a compiled program, from the published rates of its devices."""

from __future__ import annotations

from typing import Any

from vdm_jax.tools.compilation.compiled import Compiled
from vdm_jax.tools.compilation.targets import Target


def roofline(compiled: Compiled, target: Target) -> dict[str, Any] | None:
  """Return the seconds of compute, memory traffic and collectives, each as if it ran alone at full rate.

  Work is that of the compiled program, rematerialization included. The bound on utilization assumes that all three
  overlap; collectives that do not overlap add `collective_share` to the time. None if the program or the rates are
  unknown.
  """
  spent, chip = compiled.costs, target.chip
  if spent is None or chip is None:
    return None
  seconds = {
    'compute_seconds': spent.flops / chip.flops,
    'memory_seconds': spent.memory_bytes / chip.memory_rate,
    'collective_seconds': spent.collective_bytes / target.link_rate,
  }
  least = max(seconds.values())
  ideal = compiled.flops / (len(target.devices) * chip.flops)
  return {
    'flops_per_device': round(spent.flops),
    'memory_bytes': round(spent.memory_bytes),
    'collective_bytes': round(spent.collective_bytes),
    **seconds,
    'bound': max(seconds, key=seconds.get).removesuffix('_seconds'),
    'step_seconds_at_least': least,
    'mfu_bound': min(1.0, ideal / least) if least else None,
    'collective_share': seconds['collective_seconds'] / seconds['compute_seconds'] if spent.flops else None,
  }
