"""A company of processes: it meets, talks, agrees, watches itself, and parts, all of it or none."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax._src import distributed  # the coordination service's keys have no public door

from vdm_jax.errors import ExitStatus
from vdm_jax.runtime import shutdown
from vdm_jax.runtime.rendezvous import Meeting
from vdm_jax.runtime.watchdog import HEARTBEAT_SECONDS, SILENT_SECONDS, Watch

MEETING_SECONDS = 300.0  # for all processes to start
EXCHANGE_SECONDS = 600.0  # for all processes to say something
# How XLA's errors begin that a process may get for the fault of another.
_OF_OTHERS = re.compile('(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ')
_turns: dict[str, int] = {}  # how often each name was exchanged
_watches: list[Watch] = []  # of the company that this process is in, if any


@contextlib.contextmanager
def joined(place: Meeting | None, *, good: Sequence[int] = (0,), patience: float = MEETING_SECONDS) -> Iterator[None]:
  """Meets the others before JAX is used, and parts from them after the work; with None it does neither.

  The work ends in SystemExit. With a status that is not `good`, or with another exception, the whole company ends
  with it, each process saying which one failed and why: those of one process by `messages` of its exception. One that
  is killed or frozen ends it too, after SILENT_SECONDS at most, with status LOST.

  Raises ConnectionError unless all have met within `patience` seconds.
  """
  if place is None:
    yield
    return
  try:
    jax.distributed.initialize(
      place.coordinator,
      place.num_processes,
      place.process_id,
      initialization_timeout=round(patience),
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
  except RuntimeError as error:
    raise ConnectionError(
      f'the processes have not met within {patience:.0f} s at {place.coordinator or "the address that JAX found"}: '
      f'start all of them with the same --coordinator and --num_processes, and let its port through. ({error})'
    ) from error
  watch = Watch(shutdown.index(), shutdown.count(), distributed.global_state.client)
  watch.start()
  _watches.append(watch)
  try:
    yield
    status = 0
  except SystemExit as error:
    status = _status(error)
    if status not in good:
      shutdown.end_all(status, '; '.join(getattr(error, 'messages', ())) or f'exit status {status}')
  except BaseException as error:
    traceback.print_exc()
    status, reason = 1, f'{type(error).__name__}: {error}'
    if _OF_OTHERS.match(str(error)):  # of a collective, perhaps: then another is the cause
      status, reason = watch.cause(reason)
    if status == ExitStatus.PROCESS_LOST:
      print(f'error: {reason}', file=sys.stderr)
    shutdown.end_all(status, reason)
  exchange('parting', status)
  watch.close()
  _watches.remove(watch)
  jax.distributed.shutdown()
  sys.exit(status)


@contextlib.contextmanager
def watched(seconds: float, remedy: str = '') -> Iterator[Callable[..., None]]:
  """Watches that the work goes on; yields `note(what, at_least=0)`, to be called before each part of it.

  A part may take `seconds`, or `at_least` so long where it is known to be slow. Then the process, or where it is in a
  company all of them, print which one is behind and at what, the `remedy` and their stacks, and end with status LOST.
  All processes must make the same notes in the same order. With 0 seconds nothing is watched.
  """
  if seconds < 0:
    raise ValueError(f'a part of the work cannot take {seconds} seconds: give a positive number, or 0 for no watch.')
  if not seconds:
    yield lambda what, at_least=0.0: None
    return
  watch = _watches[-1] if _watches else Watch()
  if not _watches:
    watch.start()
  watch.patience, watch.remedy = min(SILENT_SECONDS, seconds), remedy
  try:
    yield lambda what, at_least=0.0: watch.note(what, max(seconds, at_least))
    watch.note('at work')
  finally:
    if _watches:
      watch.patience = SILENT_SECONDS
    else:
      watch.close()


def exchange(name: str, value: Any, *, seconds: float = EXCHANGE_SECONDS) -> list[Any]:
  """Every process's `value`, JSON, in the order of their numbers; nobody goes on before all have come here.

  Raises TimeoutError naming those that have not come within `seconds`.
  """
  client = distributed.global_state.client
  if client is None:
    return [value]
  turn = _turns[name] = _turns.get(name, 0) + 1
  key = f'vdm_jax/{name}/{turn}'
  client.key_value_set(f'{key}/{shutdown.index()}', json.dumps(value))
  found: dict[int, Any] = {}
  deadline = time.monotonic() + seconds
  everybody = range(shutdown.count())
  for other in everybody:
    left = max(deadline - time.monotonic(), 0.1)
    with contextlib.suppress(RuntimeError):
      found[other] = json.loads(client.blocking_key_value_get(f'{key}/{other}', round(1000 * left)))
  if absent := [other for other in everybody if other not in found]:
    raise TimeoutError(
      f'process {", ".join(map(str, absent))} of {len(everybody)} did not come to {name!r} within {seconds:.0f} s: '
      'look for the reason in its output.'
    )
  if turn > 1:  # all have read what was said before, or they would not have come here
    client.key_value_delete(f'vdm_jax/{name}/{turn - 1}/{shutdown.index()}')
  return [found[other] for other in everybody]


def agreed(problems: Sequence[str]) -> list[str]:
  """The problems of all processes, the same list on each; one that not all have is preceded by whose it is."""
  found = exchange('problems', list(problems))
  merged: list[str] = []
  for problem in dict.fromkeys(problem for part in found for problem in part):
    whose = [str(i) for i, part in enumerate(found) if problem in part]
    merged.append(problem if len(whose) == len(found) else f'process {", ".join(whose)}: {problem}')
  return merged


def _status(error: SystemExit) -> int:
  return error.code if isinstance(error.code, int) else int(error.code is not None)
