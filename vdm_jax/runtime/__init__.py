"""Process group: rendezvous, exchange, hang detection, shutdown; stop signals, and atomic files.

A collective waits for every process, so one that fails or hangs would leave the others waiting forever. In
`join_process_group` the first process to fail ends all with its reason, and `detect_hangs` finds the one that is late
or lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vdm_jax.runtime.process_group import (
    RENDEZVOUS_SECONDS,
    detect_hangs,
    exchange,
    join_process_group,
    merge_problems,
  )
  from vdm_jax.runtime.rendezvous import Rendezvous, find_rendezvous
  from vdm_jax.runtime.signals import Stop, Stopped, end_on_interrupt, stop_requested

__all__ = [
  'RENDEZVOUS_SECONDS',
  'Rendezvous',
  'Stop',
  'Stopped',
  'detect_hangs',
  'end_on_interrupt',
  'exchange',
  'find_rendezvous',
  'join_process_group',
  'merge_problems',
  'stop_requested',
]


def __getattr__(name: str) -> Any:
  """Import the process group on first use: code that only needs atomic files, such as `video`, does without JAX."""
  if name in __all__:
    from vdm_jax.runtime import process_group, rendezvous, signals

    return next(getattr(module, name) for module in (process_group, rendezvous, signals) if hasattr(module, name))
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
