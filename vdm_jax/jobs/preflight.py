"""Preflight, half a minute before a long job: all processes see the same devices, code, configuration and folder."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import vdm_jax
from vdm_jax import configuration, partitioning, runtime
from vdm_jax.errors import InvalidInput
from vdm_jax.training import run_folder

PREFLIGHT_SECONDS = 30.0
TOKEN = '.preflight'
DIGITS = 12  # of hashes, in messages
# What must be equal on all processes: how a message states the value, and the fix.
SAME = {
  'devices': ('sees {} devices in all', 'start every host of the slice, and no other job on them'),
  'local_devices': ('has {} local devices', 'give every process the same number'),
  'code': ('runs the code {}', 'bring every host to the same commit'),
  'jax': ('runs JAX {}', 'install the same version on every host'),
  'config': ('has the configuration {}', 'start every host with the same --config and overrides'),
}


def preflight(config: ConfigDict, workdir: str) -> int:
  """Check whether all processes can start, and print one sentence if they can.

  Checked are the number of devices, the code, JAX and the configuration; that the workdir is writable and the same
  folder for all; that the batch splits over the mesh, and every process makes the rows of its devices; and that a sum
  over all devices is correct.

  Raises:
    InvalidInput: a message for each problem.
  """
  started = time.perf_counter()
  facts = runtime.exchange('facts', _facts(config), seconds=PREFLIGHT_SECONDS)
  found = differences(facts) or runtime.merge_problems(_try_folder(workdir))
  found = found or runtime.merge_problems(_try_batch(config)) or runtime.merge_problems(_try_sum())
  if found:
    raise InvalidInput(*found)
  if jax.process_index() == 0:
    hosts = len({fact['host'] for fact in facts})
    print(
      f'preflight: {_count(len(facts), "process", "processes")} on {_count(hosts, "host", "hosts")} with '
      f'{_count(facts[0]["devices"], "device", "devices")} ({jax.devices()[0].device_kind}) agree on the code '
      f'{facts[0]["code"]} and the configuration {facts[0]["config"]}, share {workdir} and all-reduce correctly: '
      f'ready after {time.perf_counter() - started:.1f} s.'
    )
  return 0


def differences(facts: list[dict[str, Any]]) -> list[str]:
  """Return how the facts of processes differ from those of process 0, a sentence for each kind."""
  found = []
  for name, (states, fix) in SAME.items():
    first = facts[0][name]
    if others := [(i, fact) for i, fact in enumerate(facts) if fact[name] != first]:
      i, fact = others[0]
      more = f' (and {len(others) - 1} more)' if len(others) > 1 else ''
      found.append(
        f'process {i} on {fact["host"]} {states.format(fact[name])}{more}, but process 0 on {facts[0]["host"]} '
        f'{states.format(first)}: {fix}.'
      )
  return found


def _facts(config: ConfigDict) -> dict[str, Any]:
  return {
    'host': socket.gethostname(),
    'devices': jax.device_count(),
    'local_devices': jax.local_device_count(),
    'code': code_hash(Path(vdm_jax.__file__).parent),
    'jax': jax.__version__,
    'config': hashlib.sha256(json.dumps(configuration.to_dict(config), sort_keys=True).encode()).hexdigest()[:DIGITS],
  }


def code_hash(package: Path) -> str:
  """Return twelve hexadecimal digits that change with any source file of the package."""
  total = hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    with open(path, 'rb') as file:
      total.update(f'{path.relative_to(package)} {hashlib.file_digest(file, "sha256").hexdigest()}\n'.encode())
  return total.hexdigest()[:DIGITS]


def _try_folder(workdir: str) -> list[str]:
  """Check that this process can write to the workdir and finds the file that process 0 wrote."""
  problems, token, path = [], secrets.token_hex(8), Path(workdir) / TOKEN
  try:
    run_folder.prepare(workdir)
    if jax.process_index() == 0:
      path.write_text(token)
  except (OSError, ValueError) as error:
    problems.append(str(error))
  written = runtime.exchange('token', token, seconds=PREFLIGHT_SECONDS)[0]
  if not problems and not _appears(path, written):
    problems.append(
      f'--workdir={workdir} on {socket.gethostname()} is not the folder that process 0 writes to: choose one on a '
      'file system that all hosts share.'
    )
  runtime.exchange('seen', True, seconds=PREFLIGHT_SECONDS)
  if jax.process_index() == 0:
    path.unlink(missing_ok=True)
  return problems


def _appears(path: Path, text: str, seconds: float = 5.0) -> bool:
  """Wait until a file has this text: network file systems may show it late."""
  deadline = time.monotonic() + seconds
  while not (path.exists() and path.read_text() == text):
    if time.monotonic() > deadline:
      return False
    time.sleep(0.1)
  return True


def _try_batch(config: ConfigDict) -> list[str]:
  """Check that the batch splits over the mesh, and that its row k is row k on the devices."""
  size = config.data.batch_size
  try:
    mesh = partitioning.make_mesh(config.mesh)
    partitioning.check_batch(size, mesh, config.training.accumulation_steps)
  except ValueError as error:
    return [str(error)]
  numbers = partitioning.put_batch(np.array(partitioning.batch_rows(mesh, size), np.int32), mesh)
  misplaced = jax.jit(lambda x: jnp.sum(x != jnp.arange(size)), out_shardings=partitioning.replicated(mesh))(numbers)
  if not misplaced:
    return []
  return [
    f'{int(misplaced)} of the {size} rows of a batch are on other devices than expected: restart every process, so '
    'that all see the devices in the same order.'
  ]


def _try_sum() -> list[str]:
  """Check that the numbers 1 to n, one on each device, sum to n (n + 1) / 2 everywhere."""
  mesh = partitioning.make_mesh({'data': -1})
  count = jax.device_count()
  numbers = np.arange(1, count + 1, dtype=np.float32)
  parts = jax.make_array_from_callback((count,), partitioning.batch_sharding(mesh), lambda index: numbers[index])
  total = float(jax.jit(jnp.sum, out_shardings=partitioning.replicated(mesh))(parts))
  expected = count * (count + 1) / 2
  if total == expected:
    return []
  return [f'a sum over {count} devices gave {total:g}, not {expected:g}: replace the hosts, or test their network.']


def _count(number: int, one: str, many: str) -> str:
  return f'{number} {one if number == 1 else many}'
