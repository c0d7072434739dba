"""How a company ends: the first to fail writes the reason to a key that all look at, and the others follow it."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

from jax._src import distributed  # the coordination service's keys have no public door

from vdm_jax.errors import ExitStatus

FAILED = 'vdm_jax/failed'
HEARD = 'vdm_jax/heard'
FAREWELL_SECONDS = 10.0  # for the others to hear of a failure
SHORT_FAREWELL_SECONDS = 4.0  # where one of them is known not to
LAST_SECONDS = 20.0  # after which a process ends though the others could not be told


def index() -> int:
  """The number of this process, 0 where it is alone."""
  return distributed.global_state.process_id


def count() -> int:
  """How many processes have met."""
  return distributed.global_state.num_processes


def failure() -> dict[str, Any] | None:
  """Who failed first, with which status and why; None where nobody has."""
  try:
    return json.loads(distributed.global_state.client.key_value_try_get(FAILED))
  except RuntimeError:  # nobody has written it
    return None


def end_all(status: int, reason: str) -> NoReturn:
  """Tells the others, waits until they have heard it, and ends this process; the first failure is the company's."""
  client = distributed.global_state.client
  _end_soon(status)
  with contextlib.suppress(RuntimeError):  # another was first, or the service is gone
    client.key_value_set(FAILED, json.dumps({'process': index(), 'status': status, 'reason': reason}))
  first = failure()
  if first is not None and first['process'] != index():
    leave(first)
  _hear(client)
  _wait_for_others(client, status)
  stop(status)


def leave(first: dict[str, Any]) -> NoReturn:
  """Follows the process that failed first."""
  _end_soon(first['status'])
  lost = first['status'] == ExitStatus.PROCESS_LOST
  print(
    'error: ' + (first['reason'] if lost else f'process {first["process"]} failed: {first["reason"]}'), file=sys.stderr
  )
  if lost:
    faulthandler.dump_traceback(sys.stderr)
  client = distributed.global_state.client
  _hear(client)
  if not index():
    _wait_for_others(client, first['status'])
  stop(first['status'])


def stop(status: int) -> NoReturn:
  """Ends this process at once. No clean-up: threads of JAX wait in collectives that will never end."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _end_soon(status: int) -> None:
  """Whatever becomes of the farewells: the service may be as frozen as what it is asked about."""
  last = threading.Timer(LAST_SECONDS, stop, [status])
  last.daemon = True
  last.start()


def _hear(client: Any) -> None:
  with contextlib.suppress(RuntimeError):
    client.key_value_set(f'{HEARD}/{index()}', 'yes')


def _wait_for_others(client: Any, status: int) -> None:
  """Until all have heard. Process 0 ends last, for the loss of its coordination service would abort the others."""
  deadline = time.monotonic() + (SHORT_FAREWELL_SECONDS if status == ExitStatus.PROCESS_LOST else FAREWELL_SECONDS)
  for other in set(range(count())) - {index()}:
    with contextlib.suppress(RuntimeError):
      client.blocking_key_value_get(f'{HEARD}/{other}', round(1000 * max(deadline - time.monotonic(), 0.01)))
  if not index():
    time.sleep(2.0)
