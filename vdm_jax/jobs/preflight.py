"""Mode `preflight`: whether all processes of a job have the same devices, code, configuration and folder.

Half a minute before a long job. Every check is a collective of the processes that would train.
"""

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
from vdm_jax.tools import doctor
from vdm_jax.training import run_folder

PREFLIGHT_SECONDS = 30.0
TOKEN = '.preflight'
# What must be equal on all processes: how to say what one has, and the fix.
SAME = {
  'devices': ('sees {} devices in total', 'start every host of the slice, and no other job on them'),
  'local_devices': ('has {} local devices', 'give every process the same number'),
  'code': ('runs code {}', 'check out the same commit on every host'),
  'jax': ('runs JAX {}', 'install the same version on every host'),
  'config': ('has configuration {}', 'start every host with the same --config and overrides'),
}


def preflight(config: ConfigDict, workdir: str, *, allow_change: bool = False) -> int:
  """Print in one sentence that the processes are ready to train and return 0.

  Checks that number of devices, code, JAX version and configuration are equal; that the workdir is the same folder and
  writable from everywhere, and training would not refuse the run that it holds; that the batch splits over the mesh and
  the rows that each process makes are those that its devices receive; and that an all-reduce over all devices is
  correct.

  Raises:
    InvalidInput: a check fails; one message per reason.
  """
  started = time.perf_counter()
  facts = runtime.exchange('facts', _facts(config), seconds=PREFLIGHT_SECONDS)
  found = differences(facts) or runtime.merge_problems(_try_folder(workdir))
  found = found or runtime.merge_problems(_try_run(config, workdir, allow_change))
  found = found or runtime.merge_problems(_try_batch(config)) or runtime.merge_problems(_try_sum())
  if found:
    raise InvalidInput(*found)
  if jax.process_index() == 0:
    hosts = len({fact['host'] for fact in facts})
    print(
      f'preflight: {_count(len(facts), "process", "processes")} on {_count(hosts, "host", "hosts")} with '
      f'{_count(facts[0]["devices"], "device", "devices")} ({jax.devices()[0].device_kind}) agree on code '
      f'{facts[0]["code"]} and configuration {facts[0]["config"]}, share {workdir} and all-reduce correctly: ready '
      f'after {time.perf_counter() - started:.1f} s.'
    )
  return 0


def differences(facts: list[dict[str, Any]]) -> list[str]:
  """Return how the facts of other processes differ from those of process 0, one sentence per key of SAME."""
  found = []
  for name, (phrase, fix) in SAME.items():
    first = facts[0][name]
    if others := [(i, fact) for i, fact in enumerate(facts) if fact[name] != first]:
      i, fact = others[0]
      more = f' (as do {len(others) - 1} more)' if len(others) > 1 else ''
      found.append(
        f'process {i} on {fact["host"]} {phrase.format(fact[name])}{more}, but process 0 on {facts[0]["host"]} '
        f'{phrase.format(first)}: {fix}.'
      )
  return found


def _facts(config: ConfigDict) -> dict[str, Any]:
  """What this process sees."""
  return {
    'host': socket.gethostname(),
    'devices': jax.device_count(),
    'local_devices': jax.local_device_count(),
    'code': code_hash(Path(vdm_jax.__file__).parent),
    'jax': jax.__version__,
    'config': _hash(json.dumps(configuration.to_dict(config), sort_keys=True).encode()),
  }


def code_hash(package: Path) -> str:
  """Return a hash of all source files of the package."""
  files = sorted(package.rglob('*.py'))
  return _hash(b''.join(f'{f.relative_to(package)}\0'.encode() + f.read_bytes() + b'\0' for f in files))


def _hash(content: bytes) -> str:
  """Twelve hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()[:12]


def _try_folder(workdir: str) -> list[str]:
  """Check that this process can write to the folder and finds what process 0 wrote; return the problems."""
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
      f'--workdir={workdir} on {socket.gethostname()} is not the folder that process 0 writes to: name a folder on a '
      'file system that all hosts share.'
    )
  runtime.exchange('seen', True, seconds=PREFLIGHT_SECONDS)
  if jax.process_index() == 0:
    path.unlink(missing_ok=True)
  return problems


def _try_run(config: ConfigDict, workdir: str, allow_change: bool) -> list[str]:
  """Check that training would continue the run of the workdir, if it holds one; return the problems."""
  found: list[str] = []
  doctor.attempt(found, lambda: doctor.check_workdir(config, workdir, allow_change=allow_change))
  return found


def _appears(path: Path, text: str, seconds: float = 5.0) -> bool:
  """Whether a file has this text within some seconds, since a network file system may show it late."""
  deadline = time.monotonic() + seconds
  while not (path.exists() and path.read_text() == text):
    if time.monotonic() > deadline:
      return False
    time.sleep(0.1)
  return True


def _try_batch(config: ConfigDict) -> list[str]:
  """Check that the batch splits over the mesh and that its row k is row k on the devices; return the problems."""
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
    f'{int(misplaced)} of the {size} rows of a batch arrive at the wrong devices: restart every process, so that all '
    'see the devices in the same order.'
  ]


def _try_sum() -> list[str]:
  """Check that the numbers 1 to n, one per device, sum to n (n + 1) / 2 everywhere; return the problems."""
  mesh = partitioning.make_mesh({'data': -1})
  count = jax.device_count()
  numbers = np.arange(1, count + 1, dtype=np.float32)
  parts = jax.make_array_from_callback((count,), partitioning.batch_sharding(mesh), lambda index: numbers[index])
  total = float(jax.jit(jnp.sum, out_shardings=partitioning.replicated(mesh))(parts))
  expected = count * (count + 1) / 2
  if total == expected:
    return []
  return [f'an all-reduce over {count} devices gave {total:g}, not {expected:g}: check the hosts and their network.']


def _count(number: int, one: str, many: str) -> str:
  return f'{number} {one if number == 1 else many}'
