"""Signals that ask a run to stop: from a scheduler, from a person, from SLURM before its time limit."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[int], bool]]:
  """Yield a function of the step: whether a signal asked to stop, with the same answer on every process.

  Signalling any process stops all: JAX watches for SIGTERM and agrees on the step, and the other signals are turned
  into that one. A second SIGINT ends the process at once. Outside of the main thread no signal is handled.
  """
  together = jax.process_count() > 1
  received: list[int] = []

  def handle(number: int, frame: Any) -> None:
    if number == signal.SIGINT and number in received:
      raise KeyboardInterrupt
    received.append(number)
    if together:
      os.kill(os.getpid(), signal.SIGTERM)

  previous = {}
  with contextlib.suppress(ValueError):  # not the main thread
    for number in STOPPING:
      if not (together and number == signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
  try:
    yield multihost_utils.reached_preemption_sync_point if together else lambda step: bool(received)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
