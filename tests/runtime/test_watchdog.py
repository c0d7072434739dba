"""Hang detection: a process that is late, frozen or killed is named within a bound."""

from __future__ import annotations

import math
import re
import signal
import time

import pytest
from helpers.process_group import ProcessGroup, group_commands

from vdm_jax import runtime
from vdm_jax.errors import ExitStatus
from vdm_jax.runtime.watchdog import Phase, describe_lost, describe_stuck

NAMES = {0: 'a, pid 10', 1: 'b, pid 20', 2: 'b, pid 30'}


def phase(number, seconds, what='waiting for step 7', limit=60.0):
  return Phase(number, what, seconds, limit)


@pytest.mark.parametrize(
  ('phases', 'parts'),
  [
    ({0: phase(5, 59)}, None),
    ({0: phase(5, 61)}, ['this process is stuck', 'waiting for step 7 for 61 s']),
    ({0: phase(5, 59), 1: phase(5, 60)}, None),
    # The process behind counts; the others wait for it, however long.
    ({0: phase(9, 99), 1: phase(8, 50), 2: phase(9, 99)}, None),
    (
      {0: phase(9, 99), 1: phase(8, 70, 'loading the batch of step 9'), 2: phase(9, 99)},
      ['process 1 (b, pid 20) of 3 is stuck', 'loading the batch of step 9 for 70 s', 'the others wait'],
    ),
    ({0: phase(9, 99), 1: phase(8, 70, 'saving', limit=3600.0)}, None),
    ({0: phase(9, 99), 1: phase(0, 1e6, 'at work', limit=math.inf)}, None),
    ({0: phase(9, 99), 1: phase(9, 98)}, ['all 2 processes are stuck', 'waiting for step 7 for 99 s']),
    (
      {0: phase(9, 99), 1: phase(8, 61), 2: phase(8, 62)},
      ['process 1 (b, pid 20), 2 (b, pid 30) of 3 is stuck', 'waiting for step 7 for 62 s', 'the others wait'],
    ),
  ],
)
def test_the_process_behind_is_stuck_after_its_own_limit(phases, parts):
  found = describe_stuck(phases, NAMES)
  assert (found is None) == (parts is None)
  assert all(part in found for part in parts or ())


def test_a_process_without_heartbeats_is_named_with_its_last_phase():
  known = {0: phase(3, 1), 1: phase(3, 1, 'saving step 6')}
  assert describe_lost({1: 79.0, 2: 80.0}, known, NAMES, 80.0) is None
  found = describe_lost({0: 0.0, 1: 81.0}, known, NAMES, 80.0)
  assert found.startswith('process 1 (b, pid 20) of 3 has sent no heartbeat for 81 s, last seen saving step 6: ')
  # Before its first heartbeat neither its host nor its phase is known.
  assert describe_lost({1: 81.0}, {}, {}, 80.0).startswith('process 1 of 2 has sent no heartbeat for 81 s: ')


def test_a_negative_time_limit_is_an_error():
  with pytest.raises(ValueError, match='-1.0'), runtime.detect_hangs(-1.0):
    pass


# One process stops at its fourth step in the given way; all others exchange with it at every step.
WORK = """
import os, signal, time
how, bound = arguments[0], float(arguments[1])
with runtime.join_process_group(rendezvous), runtime.detect_hangs(bound, 'Raise the bound.') as note:
  for step in range(1, 1000):
    note(f'waiting for the batch of step {step}')
    if step == 4 and index == int(arguments[2]):
      print('here it ends', flush=True)
      if how == 'sleep':
        time.sleep(300)
      time.sleep(2.5)  # longer than from pulse to pulse
      os.kill(os.getpid(), getattr(signal, how))
    note(f'waiting for step {step}')
    runtime.exchange('step', step)
    time.sleep(0.1)
"""


def ended(tmp_path, how, bound, stuck=1, count=2):
  """Return statuses, outputs, and seconds from the fault to the last end, of all but a frozen process."""
  with ProcessGroup(tmp_path, group_commands(WORK, how, bound, stuck, count=count), devices=1) as group:
    group.until('here it ends', stuck)
    started = time.monotonic()
    others = [p for i, p in enumerate(group.processes) if i != stuck or how == 'sleep']
    for process in others:
      process.wait(60 + bound)
    return [p.returncode for p in others], group.texts(), time.monotonic() - started


def test_a_stuck_process_ends_all_and_is_named(tmp_path):
  """With its stacks, which show the line where it is stuck."""
  statuses, texts, seconds = ended(tmp_path, 'sleep', 3.0)
  assert statuses == [ExitStatus.PROCESS_LOST] * 2, texts
  assert seconds < 15
  for text in texts:
    assert re.search(
      r'error: process 1 \(\S+, pid \d+\) of 2 is stuck: waiting for the batch of step 4 for \d+ s, and the others '
      r'wait for it\. Raise the bound\.',
      text,
    ), text
    assert 'Current thread' in text and 'Thread 0x' in text
  assert 'File "<string>", line ' in texts[1]


@pytest.mark.slow
@pytest.mark.parametrize(('how', 'stuck', 'count'), [('SIGSTOP', 1, 3), ('SIGKILL', 1, 3), ('SIGSTOP', 0, 3)])
def test_a_frozen_or_killed_process_is_named_by_all_others(tmp_path, how, stuck, count):
  """If process 0 freezes, so does the coordination service."""
  statuses, texts, seconds = ended(tmp_path, how, 6.0, stuck, count)
  assert statuses == [ExitStatus.PROCESS_LOST] * (count - 1), texts
  assert seconds < 6.0 + 20
  for i, text in enumerate(texts):
    assert i == stuck or re.search(
      rf'error: process {stuck} \(\S+, pid \d+\) of {count} has sent no heartbeat for \d+ s, last seen waiting for the '
      r'batch of step 4: .* Raise the bound\.',
      text,
    ), text


@pytest.mark.slow
def test_processes_that_were_all_suspended_continue(tmp_path):
  """Ctrl-Z and `fg` of all processes at once."""
  with ProcessGroup(tmp_path, group_commands(WORK, 'sleep', 8.0, 9), devices=1) as group:
    group.until('', 0)
    time.sleep(8)
    for number, pause in ((signal.SIGSTOP, 12), (signal.SIGCONT, 6)):
      for process in group.processes:
        process.send_signal(number)
      time.sleep(pause)
    assert group.wait(0.1) == [None, None], group.texts()
