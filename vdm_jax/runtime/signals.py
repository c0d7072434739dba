"""Signals that ask a run to stop: from a scheduler, from a person, from SLURM before its time limit.

Python handles a signal only between two of its own instructions, and compiling one program takes minutes without any.
Work that may be given up (compiling, previews) therefore runs in a thread, while the main thread waits for signals.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from vdm_jax.runtime import shutdown

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
INTERRUPTED = 128 + signal.SIGINT  # exit status after Ctrl-C, as shells have it
POLL_SECONDS = 0.2
# After Ctrl-C, for Python to react; then the process is in a compilation or the like, and is ended.
REACTION_SECONDS = 3.0

T = TypeVar('T')

_reactions: list[int] = []  # SIGINTs that Python has handled
_protected: list[Stop] = []  # runs that must save before they end
_abandoned: list[threading.Thread] = []


class Stopped(Exception):
  """A signal asked to stop during work that was given up for it."""


class Stop:
  """Whether a signal asked to stop. Called with a step, it gives the same answer on every process."""

  def __init__(self) -> None:
    self.received: list[int] = []  # by this process
    self._together = jax.process_count() > 1
    self._handler_of_jax: int | None = None  # of SIGTERM, while it is handled here

  def __call__(self, step: int) -> bool:
    return multihost_utils.reached_preemption_sync_point(step) if self._together else bool(self.received)

  def handle(self, number: int, frame: Any) -> None:
    """Note a signal; a second SIGINT raises KeyboardInterrupt."""
    if number == signal.SIGINT:
      _reactions.append(number)
      if number in self.received:
        raise KeyboardInterrupt
      os.write(2, b'\nstopping; press Ctrl-C again to end at once, without saving\n')
    self.received.append(number)
    if self._together and number != signal.SIGTERM:
      os.kill(os.getpid(), signal.SIGTERM)  # which JAX watches for

  def interruptible(self, work: Callable[[], T]) -> T:
    """Return the result of work that may be given up, at once when a signal comes.

    It runs in a thread under the mesh of this one; the thread goes on to its end, which nobody awaits.

    Raises:
      Stopped: a signal has come.
    """
    mesh, result = jax.sharding.get_mesh(), futures.Future()

    def run() -> None:
      try:
        with contextlib.nullcontext() if mesh.empty else jax.set_mesh(mesh):
          result.set_result(work())
      except BaseException as error:
        result.set_exception(error)

    if self.received:
      raise Stopped
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not (self.received or result.done()):
      futures.wait([result], POLL_SECONDS)
    if result.done():
      return result.result()
    _abandoned.append(thread)
    raise Stopped

  def take_sigterm(self) -> None:
    """Handle SIGTERM here instead of in JAX, which tells of it only between two steps of all processes."""
    if self._together:
      self._handler_of_jax = _set_handler(signal.SIGTERM, None)
      signal.signal(signal.SIGTERM, self.handle)

  def return_sigterm(self) -> None:
    """Let JAX handle SIGTERM again, from the first step on."""
    if self._handler_of_jax is not None:
      _set_handler(signal.SIGTERM, self._handler_of_jax)
      self._handler_of_jax = None


@contextlib.contextmanager
def stop_requested() -> Iterator[Stop]:
  """Yield whether a signal asked to stop, a function of the step with the same answer on every process.

  Signalling any process stops all: JAX watches for SIGTERM and agrees on the step, and the other signals are turned
  into that one, but not before the first call of `return_sigterm`: until then, each process stops by itself. A second
  SIGINT ends the process at once. Outside of the main thread no signal is handled.
  """
  stop, previous = Stop(), {}
  if threading.current_thread() is threading.main_thread():
    stop.take_sigterm()
    for number in STOPPING:
      if not (jax.process_count() > 1 and number == signal.SIGTERM):
        previous[number] = signal.signal(number, stop.handle)
  _protected.append(stop)
  try:
    yield stop
  finally:
    _protected.remove(stop)
    stop.return_sigterm()
    for number, handler in previous.items():
      signal.signal(number, handler)


@contextlib.contextmanager
def end_on_interrupt() -> Iterator[None]:
  """End the process on Ctrl-C also where Python does not react, such as in a compilation; for commands.

  A first one ends it after REACTION_SECONDS unless a run must save; a second one always does. Where Python does react,
  KeyboardInterrupt is raised.
  """

  def interrupt(number: int, frame: Any) -> None:
    _reactions.append(number)
    raise KeyboardInterrupt

  before = signal.signal(signal.SIGINT, interrupt)
  received, sent = socket.socketpair()
  sent.setblocking(False)
  wakeup = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_await_interrupts, args=(received,), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGINT, before)
    sent.close()


def abandoned() -> bool:
  """Return whether work that was given up is still going on, so that Python cannot end in order."""
  return any(thread.is_alive() for thread in _abandoned)


def _await_interrupts(received: socket.socket) -> None:
  """Read the signals that arrive, which C code writes even while Python waits for other C code."""
  count = 0
  while number := received.recv(1):
    if number[0] == signal.SIGINT:
      count += 1
      timer = threading.Timer(REACTION_SECONDS, _end_if_stuck, [count])
      timer.daemon = True
      timer.start()


def _end_if_stuck(count: int) -> None:
  """End the process after Ctrl-C for the first, second, ... time unless Python has handled the first."""
  if count > 1 or not (_reactions or _protected):
    os.write(2, b'interrupted\n')
    shutdown.stop(INTERRUPTED)


def _set_handler(number: int, handler: int | None) -> int | None:
  """Set the handler of a signal as C does, and return the former one, of which Python may not know."""
  function = ctypes.CDLL(None).signal
  function.argtypes, function.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
  return function(number, handler)
