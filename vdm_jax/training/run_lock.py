"""The lock of a workdir: two jobs never write to the same run.

The lock itself is `filelock`'s, on `workdir/.flock`. The kernel releases it however its process ends, so a job that was
killed, or a machine that restarted, leaves nothing to clean up. `workdir/run.lock` names the holder and is touched
every HEARTBEAT_SECONDS, because some file systems do not share locks between machines.

| file system | the same machine | another machine |
|---|---|---|
| local, NFS 4, Lustre (mounted with `flock`), GPFS, CephFS | the lock | the lock |
| buckets (gcsfuse, s3fs), Lustre with `localflock` | the lock | the heartbeat, stale after STALE_SECONDS |
| without locks (NFS without its lock daemon, Lustre without `flock`) | the heartbeat | the heartbeat |
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from vdm_jax.runtime.atomic_files import write_text

LOCK, HOLDER = '.flock', 'run.lock'
HEARTBEAT_SECONDS = 15.0
# A holder whose lock cannot be seen and whose file was not touched for this long is dead.
STALE_SECONDS = 120.0


class InUse(RuntimeError):
  """Another job holds the workdir.

  >>> import tempfile
  >>> workdir = Path(tempfile.mkdtemp())
  >>> with hold(workdir), hold(workdir):
  ...   pass
  Traceback (most recent call last):
  ...
  vdm_jax.training.run_lock.InUse: ... is in use by process ... on ...: stop that job, or use another --workdir.
  """


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
  """Hold the lock of a workdir; refuse at once if another job has it.

  Raises:
    InUse: another job holds it, on this machine or another; the message names its process and host.
  """
  with contextlib.ExitStack() as stack:
    locked = _lock(workdir, stack)
    _check_heartbeat(workdir, locked)
    mine = {'host': socket.gethostname(), 'pid': os.getpid()}
    write_text(workdir / HOLDER, json.dumps(mine))
    stack.callback(_release, workdir, mine)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(workdir / HOLDER, stop), daemon=True)
    heart.start()
    stack.callback(heart.join)
    stack.callback(stop.set)
    yield


def check(workdir: Path) -> None:
  """Raise InUse if another job holds the lock of a workdir, which need not exist."""
  if (workdir / LOCK).exists():
    with contextlib.ExitStack() as stack:
      _check_heartbeat(workdir, _lock(workdir, stack))


def _lock(workdir: Path, stack: contextlib.ExitStack) -> bool:
  """Take the kernel's lock until the stack closes; return whether the file system has locks."""
  try:
    stack.enter_context(filelock.FileLock(workdir / LOCK, timeout=0, fallback_to_soft=False))
  except filelock.Timeout:
    raise _in_use(workdir, _holder(workdir)) from None
  except OSError:  # no locks on this file system
    return False
  return True


def _check_heartbeat(workdir: Path, locked: bool) -> None:
  """Raise InUse if a holder whose lock would not be seen here has touched its file lately."""
  holder = _holder(workdir)
  if not holder or (locked and holder['host'] == socket.gethostname()):
    return
  with tempfile.NamedTemporaryFile(dir=workdir) as now:  # both times by the file system's clock: machines disagree
    age = os.stat(now.name).st_mtime - (workdir / HOLDER).stat().st_mtime
  if age <= STALE_SECONDS:
    raise _in_use(workdir, holder)


def _holder(workdir: Path) -> dict[str, Any]:
  """Return host and pid of the last holder; {} if it released the lock or was killed while writing them."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    holder = json.loads((workdir / HOLDER).read_text())
    return {'host': holder['host'], 'pid': holder['pid']}
  return {}


def _in_use(workdir: Path, holder: dict[str, Any]) -> InUse:
  who = f'process {holder["pid"]} on {holder["host"]}' if holder else 'another job'
  return InUse(f'{workdir} is in use by {who}: stop that job, or use another --workdir.')


def _release(workdir: Path, mine: dict[str, Any]) -> None:
  if _holder(workdir) == mine:  # else another machine took over while this one was suspended
    write_text(workdir / HOLDER, '')


def _beat(path: Path, stop: threading.Event) -> None:
  while not stop.wait(HEARTBEAT_SECONDS):
    with contextlib.suppress(OSError):
      os.utime(path)
