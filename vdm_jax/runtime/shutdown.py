"""Shutdown of a process group: the first process to fail publishes its reason, and all others follow it.

Written here because JAX ends the other processes after a minute at best, and without saying which failed or why.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from typing import Any, NoReturn

from jax._src import distributed  # the key-value store of the coordination service has no public API

from vdm_jax.errors import ExitStatus

FAILED = 'vdm_jax/failed'
ACKNOWLEDGED = 'vdm_jax/acknowledged'
ACKNOWLEDGE_SECONDS = 10.0  # for the other processes to acknowledge a failure
SHORT_ACKNOWLEDGE_SECONDS = 4.0  # if one of them is known to be lost
LAST_SECONDS = 20.0  # after which a process ends even if the others could not be notified


def index() -> int:
  """Return the index of this process; 0 if it is alone."""
  return distributed.global_state.process_id


def count() -> int:
  """Return the number of processes in the group."""
  return distributed.global_state.num_processes


def failure() -> dict[str, Any] | None:
  """Return process, status and reason of the first failure; None if there is none."""
  try:
    return json.loads(distributed.global_state.client.key_value_try_get(FAILED))
  except RuntimeError:  # the key does not exist
    return None


def end_all(status: int, reason: str) -> NoReturn:
  """Notify the other processes, wait until they acknowledge, and end this one. The first failure decides the status."""
  client = distributed.global_state.client
  _end_soon(status)
  with contextlib.suppress(RuntimeError):  # another process was first, or the service is gone
    client.key_value_set(FAILED, json.dumps({'process': index(), 'status': status, 'reason': reason}))
  first = failure()
  if first is not None and first['process'] != index():
    follow(first)
  _acknowledge(client)
  _wait_for_others(client, status)
  stop(status)


def follow(first: dict[str, Any]) -> NoReturn:
  """End this process because another failed first."""
  _end_soon(first['status'])
  lost = first['status'] == ExitStatus.PROCESS_LOST
  print(
    'error: ' + (first['reason'] if lost else f'process {first["process"]} failed: {first["reason"]}'), file=sys.stderr
  )
  if lost:
    faulthandler.dump_traceback(sys.stderr)
  client = distributed.global_state.client
  _acknowledge(client)
  if not index():
    _wait_for_others(client, first['status'])
  stop(first['status'])


def stop(status: int) -> NoReturn:
  """End this process immediately. No clean-up: threads of JAX wait in collectives that never end."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def _end_soon(status: int) -> None:
  """End this process after LAST_SECONDS in any case: the coordination service may be frozen, too."""
  last = threading.Timer(LAST_SECONDS, stop, [status])
  last.daemon = True
  last.start()


def _acknowledge(client: Any) -> None:
  with contextlib.suppress(RuntimeError):
    client.key_value_set(f'{ACKNOWLEDGED}/{index()}', 'yes')


def _wait_for_others(client: Any, status: int) -> None:
  """Wait until all have acknowledged. Process 0 ends last: it holds the service whose loss aborts the others."""
  lost = status == ExitStatus.PROCESS_LOST
  deadline = time.monotonic() + (SHORT_ACKNOWLEDGE_SECONDS if lost else ACKNOWLEDGE_SECONDS)
  for other in set(range(count())) - {index()}:
    with contextlib.suppress(RuntimeError):
      client.blocking_key_value_get(f'{ACKNOWLEDGED}/{other}', round(1000 * max(deadline - time.monotonic(), 0.01)))
  if not index():
    time.sleep(2.0)
