"""The lock of a workdir: a second job is refused, and a dead job does not hold it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from vdm_jax.training import InUse, run_lock

REPOSITORY = Path(__file__).resolve().parents[2]

HOLD = """
import sys, time
from pathlib import Path
from vdm_jax.training import run_lock
with run_lock.hold(Path(sys.argv[1])):
  print('held', flush=True)
  time.sleep(60)
"""


@contextlib.contextmanager
def held_by_another_process(workdir):
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  command = [sys.executable, '-c', HOLD, str(workdir)]
  with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout.readline() == 'held\n'
    try:
      yield process
    finally:
      process.send_signal(signal.SIGKILL)


def test_a_second_job_is_refused_within_5_seconds_and_a_killed_one_holds_nothing(tmp_path):
  with held_by_another_process(tmp_path) as process:
    started = time.monotonic()
    with (
      pytest.raises(InUse, match=f'{tmp_path} is in use by process {process.pid} on {socket.gethostname()}:'),
      run_lock.hold(tmp_path),
    ):
      pass
    assert time.monotonic() - started < 5
  with run_lock.hold(tmp_path):
    pass


def test_a_process_cannot_hold_it_twice_but_can_hold_it_again(tmp_path):
  refused = pytest.raises(InUse, match=f'process {os.getpid()} ')
  with run_lock.hold(tmp_path), refused, run_lock.hold(tmp_path):
    pass
  with run_lock.hold(tmp_path):
    holder = json.loads((tmp_path / 'run.lock').read_text())
  assert holder == {'host': socket.gethostname(), 'pid': os.getpid()}
  assert (tmp_path / 'run.lock').read_text() == ''


def write_holder(workdir, host, age):
  """Write the file that a killed holder leaves, last touched `age` seconds ago; old versions add two keys."""
  path = workdir / 'run.lock'
  path.write_text(json.dumps({'host': host, 'pid': 1, 'boot': '', 'process_start': '1'}))
  then = path.stat().st_mtime - age
  os.utime(path, (then, then))


def test_a_killed_job_or_restarted_machine_holds_nothing(tmp_path):
  """Its file is fresh, but the kernel has released its lock."""
  write_holder(tmp_path, socket.gethostname(), age=1)
  with run_lock.hold(tmp_path):
    pass


@pytest.mark.parametrize(('age', 'stale'), [(10, False), (600, True)])
@pytest.mark.parametrize('host', ['elsewhere', socket.gethostname()])
def test_where_locks_are_not_shared_a_heartbeat_holds_it(tmp_path, monkeypatch, host, age, stale):
  """Another machine on a bucket; and any process on a file system without locks."""
  if host == socket.gethostname():

    def no_locks(*arguments, **options):
      raise OSError(37, 'No locks available')

    monkeypatch.setattr(filelock.FileLock, 'acquire', no_locks)
  write_holder(tmp_path, host, age)
  with contextlib.ExitStack() as stack:
    if not stale:
      stack.enter_context(pytest.raises(InUse, match=f'process 1 on {host}'))
    stack.enter_context(run_lock.hold(tmp_path))


def test_the_holder_sends_heartbeats(tmp_path, monkeypatch):
  monkeypatch.setattr(run_lock, 'HEARTBEAT_SECONDS', 0.01)
  with run_lock.hold(tmp_path):
    os.utime(tmp_path / 'run.lock', (0, 0))
    for _ in range(500):
      if (tmp_path / 'run.lock').stat().st_mtime > 0:
        return
      time.sleep(0.01)
  raise AssertionError('the file was never touched')


def test_a_holder_that_lost_the_lock_does_not_release_that_of_another(tmp_path):
  """A machine was suspended until its heartbeat was stale, and another took over."""
  with run_lock.hold(tmp_path):
    write_holder(tmp_path, 'elsewhere', age=0)
  assert json.loads((tmp_path / 'run.lock').read_text())['host'] == 'elsewhere'


def test_an_incomplete_file_holds_nothing(tmp_path):
  (tmp_path / 'run.lock').write_text('{"host": "el')
  with run_lock.hold(tmp_path):
    pass
