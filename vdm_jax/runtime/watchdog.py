"""Which process keeps the others waiting: each says what it is at, and the first to see that one is late ends all.

JAX gives up a process that is dead or frozen after a while, without saying at which step, and never one that lives but
does not go on. Here every process sends a pulse with its place in the work, and judges the places of all by itself.
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
from collections.abc import Mapping
from typing import Any, NamedTuple

from vdm_jax.errors import ExitStatus
from vdm_jax.runtime import shutdown

PULSES = 'vdm_jax/pulse/'
PULSE_SECONDS = 2.0
TICK_SECONDS = 0.5
HEARTBEAT_SECONDS = 100  # after which JAX itself gives up a process
SILENT_SECONDS = 80.0  # after which this does, with a better reason
MISSED_PULSES = 4  # enough to suspect a process of what a failed collective tells


class Place(NamedTuple):
  """How far a process has come."""

  turn: int  # counts its notes: all processes make the same ones in the same order
  what: str
  seconds: float  # since it came there
  bound: float  # how long it may stay


def stalled(places: Mapping[int, Place], names: Mapping[int, str]) -> str | None:
  """Says who is behind the others, or that all wait, where that has lasted longer than it may; else None."""
  last = min(place.turn for place in places.values())
  behind = {i: place for i, place in places.items() if place.turn == last}
  slowest = max(behind.values(), key=lambda place: place.seconds - place.bound)
  if not slowest.seconds > slowest.bound:
    return None
  lasting = f'{slowest.what} for {slowest.seconds:.0f} s'
  if len(behind) < len(places):
    return f'{_listed(behind, names)} of {len(places)} is stuck: {lasting}, and the others wait for it.'
  if len(places) > 1:
    return f'all {len(places)} processes are stuck: {lasting}. A device, or the network between them, does not answer.'
  return f'this process is stuck: {lasting}.'


def silent(
  silences: Mapping[int, float], places: Mapping[int, Place], names: Mapping[int, str], patience: float
) -> str | None:
  """Says who has sent no pulse for longer than `patience` seconds, and what it was at; None where all have."""
  gone = [i for i, seconds in silences.items() if seconds > patience]
  if not gone:
    return None
  what = f', last seen {places[gone[0]].what}' if gone[0] in places else ''
  return (
    f'{_listed(gone, names)} of {len(silences) + 1} has not been heard of for {silences[gone[0]]:.0f} s{what}: it was '
    'killed, or its machine is frozen or cut off. The end of its output, or the log of its machine, may say why.'
  )


class Watch:
  """What this process is at and what it heard of the others; two threads of it, one to talk and one to judge.

  Talking waits for the coordination service, which process 0 holds, so judging must not.
  """

  def __init__(self, index: int = 0, count: int = 1, client: Any = None):
    self.index, self.patience, self.remedy = index, SILENT_SECONDS, ''
    self._others, self._client = [i for i in range(count) if i != index], client
    now = time.monotonic()
    self._own, self._own_lock, self._beat = (Place(0, 'at work', 0.0, math.inf), now), threading.Lock(), 0
    self._heard: dict[int, tuple[int, Place, str]] = {}  # replaced, not changed: another thread reads it
    self._heard_at, self._answered = dict.fromkeys(self._others, now), now
    self._over = threading.Event()
    self._threads = [threading.Thread(target=self._judge, daemon=True)]
    if client is not None:
      self._threads.append(threading.Thread(target=self._talk, daemon=True))

  def start(self) -> None:
    """Begins to watch; the others are told at once."""
    if self._client is not None:
      self._pulse()
    for thread in self._threads:
      thread.start()

  def close(self) -> None:
    """Ends watching; the others may end before or after."""
    self._over.set()
    for thread in self._threads:
      thread.join()

  def note(self, what: str, bound: float = math.inf) -> None:
    """This process comes to the next thing, which may take `bound` seconds."""
    with self._own_lock:
      self._own = Place(self._own[0].turn + 1, what, 0.0, bound), time.monotonic()

  def verdict(self, now: float, patience: float) -> str | None:
    """Who is gone or stuck; None where nobody is."""
    places = {i: place for i, (_, place, _) in self._heard.items()}
    names = {i: name for i, (_, _, name) in self._heard.items()} | {self.index: _name()}
    if self._deaf(now, patience):
      silences = dict.fromkeys(self._others, 0.0) | {0: now - self._answered}
    else:  # as of the last answer: without one nobody can be heard
      silences = {i: self._answered - at for i, at in self._heard_at.items()}
    return silent(silences, places, names, patience) or (
      stalled(places | {self.index: self._place(now)}, names) if len(places) == len(self._others) else None
    )

  def _deaf(self, now: float, patience: float) -> bool:
    """Whether process 0 no longer tells this one anything."""
    return self._client is not None and self.index > 0 and now - self._answered > patience

  def _place(self, now: float) -> Place:
    place, since = self._own
    return place._replace(seconds=now - since)

  def cause(self, reason: str) -> tuple[int, str]:
    """The status and reason of a failed collective: who is gone, if anybody is, else `reason` itself."""
    patience = MISSED_PULSES * PULSE_SECONDS
    deadline = time.monotonic() + patience + 2 * PULSE_SECONDS
    while time.monotonic() < deadline:
      if found := self.verdict(time.monotonic(), patience):
        return ExitStatus.PROCESS_LOST, f'{found} {self.remedy}'.rstrip()
      time.sleep(TICK_SECONDS)
    return 1, reason

  def _judge(self) -> None:
    before = time.monotonic()
    while not self._over.wait(TICK_SECONDS):
      now = time.monotonic()
      if now - before > PULSE_SECONDS:
        self._forgive(now - before)
      before = now
      if found := self.verdict(now, self.patience):
        self._end(f'{found} {self.remedy}'.rstrip(), alone=self._deaf(now, self.patience))

  def _forgive(self, seconds: float) -> None:
    """This process itself stood still so long (Ctrl-Z, a suspended machine): nobody else is to blame for it."""
    with self._own_lock:
      place, since = self._own
      self._own = place, since + seconds
    self._answered += seconds
    self._heard_at = {i: at + seconds for i, at in self._heard_at.items()}

  def _end(self, reason: str, *, alone: bool) -> None:
    print(f'error: {reason}', file=sys.stderr)
    faulthandler.dump_traceback(sys.stderr)
    if self._client is not None and not alone:
      shutdown.end_all(ExitStatus.PROCESS_LOST, reason)
    shutdown.stop(ExitStatus.PROCESS_LOST)

  def _talk(self) -> None:
    due = 0.0
    while not self._over.wait(TICK_SECONDS):
      first = shutdown.failure()
      if first is not None and first['process'] != self.index:
        shutdown.leave(first)
      if time.monotonic() >= due:
        due = time.monotonic() + PULSE_SECONDS
        try:
          self._pulse()
        except RuntimeError:  # no answer: judged by how long there is none
          continue

  def _pulse(self) -> None:
    self._beat += 1
    said = (self._beat, self._place(time.monotonic()), _name())
    self._client.key_value_set(f'{PULSES}{self.index}', json.dumps(said), allow_overwrite=True)
    now = time.monotonic()
    for key, text in self._client.key_value_dir_get(PULSES):
      beat, place, name = json.loads(text)
      other = int(key.rpartition('/')[2])
      if other != self.index and beat != self._heard.get(other, (0,))[0]:
        self._heard, self._heard_at = self._heard | {other: (beat, Place(*place), name)}, self._heard_at | {other: now}
    self._answered = time.monotonic()


def _name() -> str:
  return f'{socket.gethostname()}, pid {os.getpid()}'


def _listed(which: Any, names: Mapping[int, str]) -> str:
  return 'process ' + ', '.join(f'{i} ({names[i]})' if i in names else f'{i}' for i in sorted(which))
