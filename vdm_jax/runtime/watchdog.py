"""Hang detection: every process publishes its current phase, and the first to see one late ends all.

Written here because JAX gives up a dead process after a while without saying at which step it was, and never gives up
one that is alive but stuck. Here every process sends heartbeats with its phase, and checks the phases of all by itself.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vdm_jax.errors import ExitStatus
from vdm_jax.runtime import shutdown

HEARTBEATS = 'vdm_jax/heartbeat/'
HEARTBEAT_SECONDS = 2.0
TICK_SECONDS = 0.5
JAX_HEARTBEAT_SECONDS = 100  # after which JAX itself gives up a process
SILENT_SECONDS = 80.0  # after which this watchdog does, with a better reason
MISSED_HEARTBEATS = 4  # enough to suspect a process when a collective has failed


class Phase(NamedTuple):
  """The current part of a process's work."""

  number: int  # of its notes so far: all processes make the same ones in the same order
  what: str
  seconds: float  # since it began
  limit: float  # longest duration


def describe_stuck(phases: Mapping[int, Phase], names: Mapping[int, str]) -> str | None:
  """Return a message that names the processes behind all others if their phase exceeds its limit, or else None.

  Args:
    phases: by process index.
    names: host and pid by process index.

  >>> describe_stuck({0: Phase(9, 'training', 99, 60), 1: Phase(8, 'loading', 70, 60)}, {1: 'node1, pid 7'})
  'process 1 (node1, pid 7) of 2 is stuck: loading for 70 s, and the others wait for it.'
  """
  last = min(phase.number for phase in phases.values())
  behind = {i: phase for i, phase in phases.items() if phase.number == last}
  slowest = max(behind.values(), key=lambda phase: phase.seconds - phase.limit)
  if not slowest.seconds > slowest.limit:
    return None
  lasting = f'{slowest.what} for {slowest.seconds:.0f} s'
  if len(behind) < len(phases):
    return f'{_listed(behind, names)} of {len(phases)} is stuck: {lasting}, and the others wait for it.'
  if len(phases) > 1:
    return f'all {len(phases)} processes are stuck: {lasting}. A device, or the network between them, does not respond.'
  return f'this process is stuck: {lasting}.'


def describe_lost(
  silences: Mapping[int, float], phases: Mapping[int, Phase], names: Mapping[int, str], limit: float
) -> str | None:
  """Return a message that names the processes without a heartbeat for more than `limit` seconds, or None.

  Args:
    silences: seconds since the last heartbeat, by index of the other processes.
    phases: last known phases.
    names: host and pid, as far as known.
    limit: seconds.
  """
  gone = [i for i, seconds in silences.items() if seconds > limit]
  if not gone:
    return None
  what = f', last seen {phases[gone[0]].what}' if gone[0] in phases else ''
  return (
    f'{_listed(gone, names)} of {len(silences) + 1} has sent no heartbeat for {silences[gone[0]]:.0f} s{what}: it was '
    'killed, or its machine is frozen or disconnected. The end of its output, or the log of its machine, may tell why.'
  )


class Watchdog:
  """The phase of this process and the last heartbeats of the others; one thread sends, another checks.

  Sending waits for the coordination service, which process 0 holds, so checking must not depend on it.
  """

  def __init__(self, index: int = 0, count: int = 1, client: Any = None):
    """Watch process `index` of `count`; `client` is that of the coordination service, None for a single process."""
    self.index, self.silence_limit, self.remedy = index, SILENT_SECONDS, ''
    self._others, self._client = [i for i in range(count) if i != index], client
    now = time.monotonic()
    self._own, self._own_lock, self._beat = (Phase(0, 'at work', 0.0, math.inf), now), threading.Lock(), 0
    self._heard: dict[int, tuple[int, Phase, str]] = {}  # replaced, not changed: another thread reads it
    self._heard_at, self._answered = dict.fromkeys(self._others, now), now
    self._over = threading.Event()
    self._threads = [threading.Thread(target=self._check, daemon=True)]
    if client is not None:
      self._threads.append(threading.Thread(target=self._communicate, daemon=True))

  def start(self) -> None:
    """Send the first heartbeat and start the threads."""
    if self._client is not None:
      self._send()
    for thread in self._threads:
      thread.start()

  def close(self) -> None:
    """Stop the threads; other processes may end before or after this."""
    self._over.set()
    for thread in self._threads:
      thread.join()

  def note(self, what: str, limit: float = math.inf) -> None:
    """Begin the next phase of this process, which may take `limit` seconds."""
    with self._own_lock:
      self._own = Phase(self._own[0].number + 1, what, 0.0, limit), time.monotonic()

  def problem(self, now: float, silence_limit: float) -> str | None:
    """Return which process is lost or stuck; None if there is none."""
    phases = {i: phase for i, (_, phase, _) in self._heard.items()}
    names = {i: name for i, (_, _, name) in self._heard.items()} | {self.index: _name()}
    if self._disconnected(now, silence_limit):
      silences = dict.fromkeys(self._others, 0.0) | {0: now - self._answered}
    else:  # as of the service's last answer: without it no heartbeat can arrive
      silences = {i: self._answered - at for i, at in self._heard_at.items()}
    return describe_lost(silences, phases, names, silence_limit) or (
      describe_stuck(phases | {self.index: self._phase(now)}, names) if len(phases) == len(self._others) else None
    )

  def _disconnected(self, now: float, silence_limit: float) -> bool:
    """Whether process 0, which holds the coordination service, no longer answers."""
    return self._client is not None and self.index > 0 and now - self._answered > silence_limit

  def _phase(self, now: float) -> Phase:
    phase, since = self._own
    return phase._replace(seconds=now - since)

  def cause(self, reason: str) -> tuple[int, str]:
    """Return status and reason of a failed collective: the process that is lost, if any, or else `reason` itself."""
    silence_limit = MISSED_HEARTBEATS * HEARTBEAT_SECONDS
    deadline = time.monotonic() + silence_limit + 2 * HEARTBEAT_SECONDS
    while time.monotonic() < deadline:
      if found := self.problem(time.monotonic(), silence_limit):
        return ExitStatus.PROCESS_LOST, f'{found} {self.remedy}'.rstrip()
      time.sleep(TICK_SECONDS)
    return 1, reason

  def _check(self) -> None:
    before = time.monotonic()
    while not self._over.wait(TICK_SECONDS):
      now = time.monotonic()
      if now - before > HEARTBEAT_SECONDS:
        self._shift(now - before)
      before = now
      if found := self.problem(now, self.silence_limit):
        self._end(f'{found} {self.remedy}'.rstrip(), alone=self._disconnected(now, self.silence_limit))

  def _shift(self, seconds: float) -> None:
    """Discount a time in which this process itself was suspended (Ctrl-Z, a sleeping machine)."""
    with self._own_lock:
      phase, since = self._own
      self._own = phase, since + seconds
    self._answered += seconds
    self._heard_at = {i: at + seconds for i, at in self._heard_at.items()}

  def _end(self, reason: str, *, alone: bool) -> None:
    print(f'error: {reason}', file=sys.stderr)
    faulthandler.dump_traceback(sys.stderr)
    if self._client is not None and not alone:
      shutdown.end_all(ExitStatus.PROCESS_LOST, reason)
    shutdown.stop(ExitStatus.PROCESS_LOST)

  def _communicate(self) -> None:
    due = 0.0
    while not self._over.wait(TICK_SECONDS):
      first = shutdown.failure()
      if first is not None and first['process'] != self.index:
        shutdown.follow(first)
      if time.monotonic() >= due:
        due = time.monotonic() + HEARTBEAT_SECONDS
        try:
          self._send()
        except RuntimeError:  # no answer; `problem` measures for how long
          continue

  def _send(self) -> None:
    """Send a heartbeat and read those of the others."""
    self._beat += 1
    own = (self._beat, self._phase(time.monotonic()), _name())
    self._client.key_value_set(f'{HEARTBEATS}{self.index}', json.dumps(own), allow_overwrite=True)
    now = time.monotonic()
    for key, text in self._client.key_value_dir_get(HEARTBEATS):
      beat, phase, name = json.loads(text)
      other = int(key.rpartition('/')[2])
      if other != self.index and beat != self._heard.get(other, (0,))[0]:
        self._heard, self._heard_at = self._heard | {other: (beat, Phase(*phase), name)}, self._heard_at | {other: now}
    self._answered = time.monotonic()


def _name() -> str:
  return f'{socket.gethostname()}, pid {os.getpid()}'


def _listed(which: Iterable[int], names: Mapping[int, str]) -> str:
  return 'process ' + ', '.join(f'{i} ({names[i]})' if i in names else f'{i}' for i in sorted(which))
