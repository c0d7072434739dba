"""Who keeps the others waiting is named within a bound: where it is stuck, frozen, or killed."""

from __future__ import annotations

import math
import re
import signal
import time

import pytest
from helpers.process_group import Company, met

from vdm_jax import runtime
from vdm_jax.runtime.watchdog import Place, silent, stalled

NAMES = {0: 'a, pid 10', 1: 'b, pid 20', 2: 'b, pid 30'}


def place(turn, seconds, what='waiting for step 7', bound=60.0):
  return Place(turn, what, seconds, bound)


@pytest.mark.parametrize(
  ('places', 'found'),
  [
    ({0: place(5, 59)}, None),
    ({0: place(5, 61)}, 'this process is stuck: waiting for step 7 for 61 s.'),
    ({0: place(5, 59), 1: place(5, 60)}, None),
    # The one that is behind counts, not those that wait for it, however long.
    ({0: place(9, 99), 1: place(8, 50), 2: place(9, 99)}, None),
    (
      {0: place(9, 99), 1: place(8, 70, 'loading the batch of step 9'), 2: place(9, 99)},
      'process 1 (b, pid 20) of 3 is stuck: loading the batch of step 9 for 70 s, and the others wait for it.',
    ),
    ({0: place(9, 99), 1: place(8, 70, 'saving', bound=3600.0)}, None),
    ({0: place(9, 99), 1: place(0, 1e6, 'at work', bound=math.inf)}, None),
    (
      {0: place(9, 99), 1: place(9, 98)},
      'all 2 processes are stuck: waiting for step 7 for 99 s. A device, or the network between them, does not answer.',
    ),
    (
      {0: place(9, 99), 1: place(8, 61), 2: place(8, 62)},
      'process 1 (b, pid 20), 2 (b, pid 30) of 3 is stuck: waiting for step 7 for 62 s, and the others wait for it.',
    ),
  ],
)
def test_the_one_behind_is_late_when_its_own_bound_is_over(places, found):
  assert stalled(places, NAMES) == found


def test_who_sends_no_pulse_is_named_with_what_it_was_at():
  heard = {0: place(3, 1), 1: place(3, 1, 'saving step 6')}
  assert silent({1: 79.0, 2: 80.0}, heard, NAMES, 80.0) is None
  assert silent({0: 0.0, 1: 81.0}, heard, NAMES, 80.0) == (
    'process 1 (b, pid 20) of 3 has not been heard of for 81 s, last seen saving step 6: it was killed, or its machine '
    'is frozen or cut off. The end of its output, or the log of its machine, may say why.'
  )
  # Before its first pulse neither its host nor its work is known.
  assert silent({1: 81.0}, {}, {}, 80.0).startswith('process 1 of 2 has not been heard of for 81 s: it was killed')


def test_a_watch_has_a_positive_bound_or_none():
  with pytest.raises(ValueError) as error, runtime.watched(-1.0):
    pass
  assert str(error.value) == ('a part of the work cannot take -1.0 seconds: give a positive number, or 0 for no watch.')


# Process 1 stops at its fourth step in the way that it is told; the others meet it at every step.
WORK = """
import os, signal, time
how, bound = arguments[0], float(arguments[1])
with runtime.joined(place), runtime.watched(bound, 'Raise the bound.') as note:
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
  """(statuses, outputs, seconds from the fault to the last end) of all but a process that is frozen."""
  with Company(tmp_path, met(WORK, how, bound, stuck, count=count), devices=1) as company:
    company.until('here it ends', stuck)
    started = time.monotonic()
    others = [p for i, p in enumerate(company.processes) if i != stuck or how == 'sleep']
    for process in others:
      process.wait(60 + bound)
    return [p.returncode for p in others], company.texts(), time.monotonic() - started


def test_a_process_that_lives_but_does_not_go_on_ends_all_and_is_named(tmp_path):
  """F07: with its own stacks, which show the line it is stuck at."""
  statuses, texts, seconds = ended(tmp_path, 'sleep', 3.0)
  assert statuses == [runtime.LOST] * 2, texts
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
  """F06, F07: process 0 frozen takes the place where all meet with it."""
  statuses, texts, seconds = ended(tmp_path, how, 6.0, stuck, count)
  assert statuses == [runtime.LOST] * (count - 1), texts
  assert seconds < 6.0 + 20
  for i, text in enumerate(texts):
    assert i == stuck or re.search(
      rf'error: process {stuck} \(\S+, pid \d+\) of {count} has not been heard of for \d+ s, last seen waiting for the '
      r'batch of step 4: it was killed, or its machine is frozen or cut off\. .* Raise the bound\.',
      text,
    ), text


@pytest.mark.slow
def test_who_was_suspended_itself_blames_nobody(tmp_path):
  """Ctrl-Z and `fg` of all processes at once."""
  with Company(tmp_path, met(WORK, 'sleep', 8.0, 9), devices=1) as company:
    company.until('', 0)
    time.sleep(8)
    for number, pause in ((signal.SIGSTOP, 12), (signal.SIGCONT, 6)):
      for process in company.processes:
        process.send_signal(number)
      time.sleep(pause)
    assert company.wait(0.1) == [None, None], company.texts()
