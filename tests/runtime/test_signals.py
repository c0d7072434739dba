"""Signals during work in which Python does not handle them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from vdm_jax import partitioning, runtime
from vdm_jax.runtime import signals

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_work_that_may_be_given_up_is_given_up_at_once(number):
  begun, released = threading.Event(), threading.Event()

  def compile_for_long():
    begun.set()
    os.kill(os.getpid(), number)
    return released.wait(60)

  with runtime.stop_requested() as stop:
    since = time.monotonic()
    with pytest.raises(runtime.Stopped):
      stop.interruptible(compile_for_long)
    assert time.monotonic() - since < 10
    assert stop(3) and signals.abandoned()
  released.set()


def test_the_result_and_the_error_of_interruptible_work_are_those_of_the_work():
  mesh = partitioning.make_mesh({'data': -1})
  with runtime.stop_requested() as stop:
    with jax.set_mesh(mesh):
      assert stop.interruptible(jax.sharding.get_mesh) == mesh
    assert stop.interruptible(lambda: 3) == 3
    with pytest.raises(TimeoutError, match='of the work'):
      stop.interruptible(lambda: (_ for _ in ()).throw(TimeoutError('of the work')))
    assert not stop(1)


LOCKED = """
import ctypes, sys
from vdm_jax import runtime
with runtime.end_on_interrupt():
  if sys.argv[1] == 'run':
    stop = runtime.stop_requested()
    stop.__enter__()
  print('at work', flush=True)
  mutex = ctypes.create_string_buffer(64)
  lock = ctypes.CDLL(None).pthread_mutex_lock  # twice: waits forever, whatever signals arrive
  lock(mutex), lock(mutex)
"""


@pytest.mark.parametrize(('what', 'interrupts'), [('command', 1), ('run', 2)])
def test_ctrl_c_ends_a_process_that_is_stuck_in_c(what, interrupts):
  """A command at the first, a run, which must save, at the second."""
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  with subprocess.Popen(
    [sys.executable, '-c', LOCKED, what], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    process.stdout.readline()
    for number in range(interrupts):
      time.sleep(0.5 if number else 0.0)
      process.send_signal(signal.SIGINT)
    try:
      assert process.wait(30) == 130
    finally:
      process.kill()
