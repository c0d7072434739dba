"""Where processes meet: from flags, or from what a scheduler says in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


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
