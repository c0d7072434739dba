"""Several processes that work as one: how they meet, what they tell each other, and how all of them end when one does.

A collective waits for every process, so one that stops early would leave the others waiting for good. Each therefore
watches a key of JAX's coordination service, where the first to fail writes the reason; all of them end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # the coordination service's keys have no public door

FAILED = 'vdm_jax/failed'
HEARD = 'vdm_jax/heard'
MEETING_SECONDS = 300.0  # for all processes to start
EXCHANGE_SECONDS = 600.0  # for all processes to say something
FAREWELL_SECONDS = 10.0  # for the others to hear of a failure
WATCH_SECONDS = 0.5
_turns: dict[str, int] = {}  # how often each name was exchanged


class Meeting(NamedTuple):
  """Where processes meet. None stands for what JAX finds out from the environment (SLURM, TPU pods, Kubernetes)."""

  coordinator: str | None = None  # host:port of process 0
  num_processes: int | None = None
  process_id: int | None = None


def meeting(
  coordinator: str | None,
  num_processes: str | None,
  process_id: str | None,
  environment: Mapping[str, str] = os.environ,
) -> Meeting | None:
  """Where this process meets others, from its flags, else from the environment; None where it is alone.

  `coordinator` is 'host:port', with the other two, or 'auto'. Without flags, a SLURM step of several tasks and a TPU
  slice of several hosts (TPU_WORKER_HOSTNAMES) are recognised. Raises ValueError for flags that do not go together.
  """
  if coordinator in (None, 'auto'):
    if num_processes is not None or process_id is not None:
      raise ValueError(
        '--num_processes and --process_id need --coordinator=host:port, the address of process 0: give all three.'
      )
    tasks = environment.get('SLURM_NTASKS', '1') if 'SLURM_STEP_NODELIST' in environment else '1'
    hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
    return Meeting() if coordinator or int(tasks) > 1 or len(hosts) > 1 else None
  host, colon, port = coordinator.rpartition(':')
  if not host or not colon or not port.isdigit():
    raise ValueError(f"--coordinator={coordinator} is no address: give host:port of process 0, or 'auto'.")
  if num_processes is None or process_id is None:
    raise ValueError(
      f'--coordinator={coordinator} alone does not say who meets there: give --num_processes and --process_id too.'
    )
  try:
    count, index = int(num_processes), int(process_id)
  except ValueError:
    count, index = 0, 0
  if not 0 <= index < count:
    raise ValueError(
      f'--num_processes={num_processes}, --process_id={process_id}: processes are numbered from 0 to one less than '
      'their number.'
    )
  return Meeting(coordinator, count, index)


@contextlib.contextmanager
def joined(place: Meeting | None, *, good: Sequence[int] = (0,), patience: float = MEETING_SECONDS) -> Iterator[None]:
  """Meets the others before JAX is used, and parts from them after the work; with None it does neither.

  The work ends in SystemExit. With a status that is not `good`, or with another exception, the whole company ends
  with it, each process saying which one failed and why: those of one process by `messages` of its exception.

  Raises ConnectionError unless all have met within `patience` seconds.
  """
  if place is None:
    yield
    return
  try:
    jax.distributed.initialize(
      place.coordinator, place.num_processes, place.process_id, initialization_timeout=round(patience)
    )
  except RuntimeError as error:
    raise ConnectionError(
      f'the processes have not met within {patience:.0f} s at {place.coordinator or "the address that JAX found"}: '
      f'start all of them with the same --coordinator and --num_processes, and let its port through. ({error})'
    ) from error
  parted = threading.Event()
  watch = threading.Thread(target=_watch, args=(parted,), daemon=True)
  watch.start()
  try:
    yield
    status = 0
  except SystemExit as error:
    status = _status(error)
    if status not in good:
      _end_all(status, '; '.join(getattr(error, 'messages', ())) or f'exit status {status}')
  except BaseException as error:
    traceback.print_exc()
    _end_all(1, f'{type(error).__name__}: {error}')
  exchange('parting', status)
  parted.set()
  watch.join()
  jax.distributed.shutdown()
  sys.exit(status)


def exchange(name: str, value: Any, *, seconds: float = EXCHANGE_SECONDS) -> list[Any]:
  """Every process's `value`, JSON, in the order of their numbers; nobody goes on before all have come here.

  Raises TimeoutError naming those that have not come within `seconds`.
  """
  client = distributed.global_state.client
  if client is None:
    return [value]
  turn = _turns[name] = _turns.get(name, 0) + 1
  key = f'vdm_jax/{name}/{turn}'
  client.key_value_set(f'{key}/{_index()}', json.dumps(value))
  found: dict[int, Any] = {}
  deadline = time.monotonic() + seconds
  for other in range(_count()):
    left = max(deadline - time.monotonic(), 0.1)
    with contextlib.suppress(RuntimeError):
      found[other] = json.loads(client.blocking_key_value_get(f'{key}/{other}', round(1000 * left)))
  if absent := [other for other in range(_count()) if other not in found]:
    raise TimeoutError(
      f'process {", ".join(map(str, absent))} of {_count()} did not come to {name!r} within {seconds:.0f} s: '
      'look for the reason in its output.'
    )
  return [found[other] for other in range(_count())]


def agreed(problems: Sequence[str]) -> list[str]:
  """The problems of all processes, the same list on each; one that not all have is preceded by whose it is."""
  found = exchange('problems', list(problems))
  merged: list[str] = []
  for problem in dict.fromkeys(problem for part in found for problem in part):
    whose = [str(i) for i, part in enumerate(found) if problem in part]
    merged.append(problem if len(whose) == len(found) else f'process {", ".join(whose)}: {problem}')
  return merged


def _index() -> int:
  return distributed.global_state.process_id


def _count() -> int:
  return distributed.global_state.num_processes


def _status(error: SystemExit) -> int:
  return error.code if isinstance(error.code, int) else int(error.code is not None)


def _watch(parted: threading.Event) -> None:
  """Ends this process as soon as another has failed."""
  while not parted.wait(WATCH_SECONDS):
    failure = _failure()
    if failure is not None and failure['process'] != _index():
      _leave(failure)


def _failure() -> dict[str, Any] | None:
  try:
    return json.loads(distributed.global_state.client.key_value_try_get(FAILED))
  except RuntimeError:  # nobody has written it
    return None


def _end_all(status: int, reason: str) -> None:
  """Tells the others, waits until they have heard it, and ends this process; the first failure is the company's."""
  client = distributed.global_state.client
  with contextlib.suppress(RuntimeError):  # another was first, or the service is gone
    client.key_value_set(FAILED, json.dumps({'process': _index(), 'status': status, 'reason': reason}))
  failure = _failure()
  if failure is not None and failure['process'] != _index():
    _leave(failure)
  _hear(client)
  _wait_for_others(client)
  _stop(status)


def _leave(failure: dict[str, Any]) -> None:
  print(f'error: process {failure["process"]} failed: {failure["reason"]}', file=sys.stderr)
  client = distributed.global_state.client
  _hear(client)
  if not _index():
    _wait_for_others(client)
  _stop(failure['status'])


def _hear(client: Any) -> None:
  with contextlib.suppress(RuntimeError):
    client.key_value_set(f'{HEARD}/{_index()}', 'yes')


def _wait_for_others(client: Any) -> None:
  """Until all have heard. Process 0 ends last, for the loss of its coordination service would abort the others."""
  deadline = time.monotonic() + FAREWELL_SECONDS
  for other in set(range(_count())) - {_index()}:
    with contextlib.suppress(RuntimeError):
      client.blocking_key_value_get(f'{HEARD}/{other}', round(1000 * max(deadline - time.monotonic(), 0.01)))
  if not _index():
    time.sleep(4 * WATCH_SECONDS)


def _stop(status: int) -> None:
  # No clean-up: threads of JAX wait in collectives that will never end.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
