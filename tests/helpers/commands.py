"""`python -m vdm_jax.main` without its imports: each command runs in a fork of one process that has done them."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HANGS = 240  # seconds; a cold machine under load takes less than half

_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload(['vdm_jax.main'])


def vdm(*arguments: str, env: Mapping[str, str] = os.environ, patience: float = HANGS) -> subprocess.CompletedProcess:
  """Run a command in the repository; one that hangs fails the test with the stacks of its threads.

  Variables that JAX reads when it is imported have no effect.
  """
  with tempfile.TemporaryDirectory() as folder:
    out, err = Path(folder, 'out'), Path(folder, 'err')
    process = _FORKS.Process(target=_run, args=(arguments, str(out), str(err), dict(env)))
    process.start()
    process.join(patience)
    if hangs := process.is_alive():
      os.kill(process.pid, signal.SIGABRT)
      process.join()
    if hangs:
      pytest.fail(f'{arguments} did not end within {patience} s:\n{err.read_text()}')
    return subprocess.CompletedProcess(list(arguments), process.exitcode, out.read_text(), err.read_text())


def _run(arguments: Sequence[str], out: str, err: str, env: Mapping[str, str]) -> None:
  from vdm_jax import main

  for path, number in ((out, 1), (err, 2)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
  faulthandler.enable()
  os.chdir(REPOSITORY)
  os.environ.clear()
  os.environ.update(env)
  sys.argv = ['vdm_jax', *arguments]
  main.run()
