"""Process group: rendezvous, exchange, shutdown, over the key-value store of JAX's coordination service.

Written here because JAX has no exchange of plain values without a collective on the devices, and no shutdown that ends
all processes with the reason of one.
"""

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
from jax._src import distributed  # the key-value store of the coordination service has no public API

from vdm_jax.errors import ExitStatus
from vdm_jax.runtime import shutdown
from vdm_jax.runtime.rendezvous import Rendezvous
from vdm_jax.runtime.watchdog import JAX_HEARTBEAT_SECONDS, SILENT_SECONDS, Watchdog

RENDEZVOUS_SECONDS = 300.0  # for all processes to start
EXCHANGE_SECONDS = 600.0  # for all processes to reach an exchange
# Beginnings of XLA errors that the failure of another process can cause.
_CAUSED_BY_OTHERS = re.compile(
  '(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): '
)
_exchanges: dict[str, int] = {}  # number of exchanges by name
_watchdogs: list[Watchdog] = []  # of the group that this process has joined, if any


@contextlib.contextmanager
def join_process_group(
  rendezvous: Rendezvous | None, *, success: Sequence[int] = (0,), timeout: float = RENDEZVOUS_SECONDS
) -> Iterator[None]:
  """Initialize `jax.distributed` for the work inside, and shut down after it; None: do neither.

  If the work raises SystemExit with a status that is not a success, or any other exception, all processes end with
  that status and print which one failed and why (the `messages` of the exception, if it has any). A process that is
  killed or frozen ends all, too, after SILENT_SECONDS at most, with status `ExitStatus.PROCESS_LOST`.

  Args:
    rendezvous: from `find_rendezvous`.
    success: exit statuses that end only this process.
    timeout: seconds for all processes to start.

  Raises:
    ConnectionError: not all processes have started within the timeout.

  >>> with join_process_group(None):
  ...   exchange('sizes', 3)
  [3]
  """
  if rendezvous is None:
    yield
    return
  _initialize(rendezvous, timeout)
  watchdog = Watchdog(shutdown.index(), shutdown.count(), distributed.global_state.client)
  watchdog.start()
  _watchdogs.append(watchdog)
  try:
    yield
    status = 0
  except SystemExit as error:
    status = _status(error)
    if status not in success:
      shutdown.end_all(status, '; '.join(getattr(error, 'messages', ())) or f'exit status {status}')
  except BaseException as error:
    traceback.print_exc()
    status, reason = 1, f'{type(error).__name__}: {error}'
    if _CAUSED_BY_OTHERS.match(str(error)):  # perhaps a failed collective: then another process is the cause
      status, reason = watchdog.cause(reason)
    if status == ExitStatus.PROCESS_LOST:
      print(f'error: {reason}', file=sys.stderr)
    shutdown.end_all(status, reason)
  exchange('shutdown', status)
  watchdog.close()
  _watchdogs.remove(watchdog)
  jax.distributed.shutdown()
  sys.exit(status)


@contextlib.contextmanager
def detect_hangs(seconds: float, remedy: str = '') -> Iterator[Callable[..., None]]:
  """Yield `note(what, at_least=0)`, to be called before each part of the work, and end processes that hang.

  A part may take `seconds`, or `at_least` if that is longer. After that the process, or the whole group, prints who is
  late and at which part, the remedy and all stacks, and ends with status `ExitStatus.PROCESS_LOST`. All processes must
  make the same notes in the same order.

  Args:
    seconds: longest time of a part; 0: no detection.
    remedy: what the user can do, appended to the message.

  Raises:
    ValueError: a negative number of seconds.

  >>> with detect_hangs(60.0) as note:
  ...   note('loading')
  ...   note('compiling', at_least=3600.0)
  """
  if seconds < 0:
    raise ValueError(f'{seconds} is not a valid time limit: give a positive number of seconds, or 0 for no limit.')
  if not seconds:
    yield lambda what, at_least=0.0: None
    return
  watchdog = _watchdogs[-1] if _watchdogs else Watchdog()
  if not _watchdogs:
    watchdog.start()
  watchdog.silence_limit, watchdog.remedy = min(SILENT_SECONDS, seconds), remedy
  try:
    yield lambda what, at_least=0.0: watchdog.note(what, max(seconds, at_least))
    watchdog.note('at work')
  finally:
    if _watchdogs:
      watchdog.silence_limit = SILENT_SECONDS
    else:
      watchdog.close()


def exchange(name: str, value: Any, *, seconds: float = EXCHANGE_SECONDS) -> list[Any]:
  """Return the values of all processes in the order of their indices; a barrier, too.

  Args:
    name: the same on all processes, which make exchanges of one name in the same order.
    value: what JSON can hold.
    seconds: timeout.

  Raises:
    TimeoutError: some processes have not reached the exchange in time; the message names them.

  >>> exchange('sizes', {'a': 1})  # a single process
  [{'a': 1}]
  """
  client = distributed.global_state.client
  if client is None:
    return [value]
  number = _exchanges[name] = _exchanges.get(name, 0) + 1
  key = f'vdm_jax/{name}/{number}'
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
      f'process {", ".join(map(str, absent))} of {len(everybody)} did not reach {name!r} within {seconds:.0f} s: '
      'its output may tell why.'
    )
  if number > 1:  # all have read the exchange before this one, or they would not be here
    client.key_value_delete(f'vdm_jax/{name}/{number - 1}/{shutdown.index()}')
  return [found[other] for other in everybody]


def merge_problems(problems: Sequence[str]) -> list[str]:
  """Return the problems of all processes, the same list on each, naming the processes unless all have the problem.

  >>> merge_problems(['no clips', 'no words', 'no clips'])
  ['no clips', 'no words']
  """
  found = exchange('problems', list(problems))
  merged: list[str] = []
  for problem in dict.fromkeys(problem for part in found for problem in part):
    owners = [str(i) for i, part in enumerate(found) if problem in part]
    merged.append(problem if len(owners) == len(found) else f'process {", ".join(owners)}: {problem}')
  return merged


def _initialize(rendezvous: Rendezvous, timeout: float) -> None:
  try:
    jax.distributed.initialize(
      rendezvous.coordinator,
      rendezvous.num_processes,
      rendezvous.process_id,
      initialization_timeout=round(timeout),
      heartbeat_timeout_seconds=JAX_HEARTBEAT_SECONDS,
    )
  except RuntimeError as error:
    raise ConnectionError(
      f'not all processes started within {timeout:.0f} s at {rendezvous.coordinator or "the address that JAX found"}: '
      f'start all with the same --coordinator and --num_processes, and open its port in the firewall. ({error})'
    ) from error


def _status(error: SystemExit) -> int:
  return error.code if isinstance(error.code, int) else int(error.code is not None)
