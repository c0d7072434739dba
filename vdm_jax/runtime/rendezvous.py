"""The rendezvous of a process group: from flags, or from the environment that a scheduler sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Rendezvous(NamedTuple):
  """Where processes meet. None: JAX finds the value in the environment (SLURM, TPU pods, Kubernetes)."""

  coordinator: str | None = None  # host:port of process 0
  num_processes: int | None = None
  process_id: int | None = None


def find_rendezvous(
  coordinator: str | None,
  num_processes: str | None,
  process_id: str | None,
  environment: Mapping[str, str] = os.environ,
) -> Rendezvous | None:
  """Return the rendezvous given by flags, or else by the environment; None for a single process.

  Args:
    coordinator: 'host:port' of process 0, with the other two, or 'auto'.
    num_processes: size of the group.
    process_id: rank of this process, from 0.
    environment: without flags, a SLURM step of several tasks and a TPU slice of several hosts (TPU_WORKER_HOSTNAMES)
      are recognized.

  Raises:
    ValueError: flags that are invalid or incomplete.

  >>> find_rendezvous('node0:1234', '2', '1')
  Rendezvous(coordinator='node0:1234', num_processes=2, process_id=1)
  """
  if coordinator in (None, 'auto'):
    if num_processes is not None or process_id is not None:
      raise ValueError(
        '--num_processes and --process_id need --coordinator=host:port, the address of process 0: give all three.'
      )
    tasks = environment.get('SLURM_NTASKS', '1') if 'SLURM_STEP_NODELIST' in environment else '1'
    hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
    return Rendezvous() if coordinator or int(tasks) > 1 or len(hosts) > 1 else None
  host, colon, port = coordinator.rpartition(':')
  if not host or not colon or not port.isdigit():
    raise ValueError(f"--coordinator={coordinator} is not a valid address: give host:port of process 0, or 'auto'.")
  if num_processes is None or process_id is None:
    raise ValueError(f'--coordinator={coordinator} needs --num_processes and --process_id, too: give all three.')
  try:
    count, index = int(num_processes), int(process_id)
  except ValueError:
    count, index = 0, 0
  if not 0 <= index < count:
    raise ValueError(
      f'--num_processes={num_processes}, --process_id={process_id} are not valid: give a number of processes, and an '
      'index from 0 to one less.'
    )
  return Rendezvous(coordinator, count, index)
