"""Several processes as one: how they meet, what they tell each other, and that none is left waiting for another."""

from __future__ import annotations

import re
import signal
import time

import pytest
from helpers.process_group import Company, met

from vdm_jax import runtime
from vdm_jax.runtime import Meeting


@pytest.mark.parametrize(
  ('flags', 'environment', 'expected'),
  [
    ((None, None, None), {}, None),
    (('host:1234', '4', '3'), {}, Meeting('host:1234', 4, 3)),
    (('auto', None, None), {}, Meeting()),
    ((None, None, None), {'SLURM_NTASKS': '8', 'SLURM_STEP_NODELIST': 'node[1-2]'}, Meeting()),
    ((None, None, None), {'SLURM_NTASKS': '8'}, None),  # in the batch script, outside of any step
    ((None, None, None), {'SLURM_NTASKS': '1', 'SLURM_STEP_NODELIST': 'node1'}, None),
    ((None, None, None), {'TPU_WORKER_HOSTNAMES': 't-0,t-1'}, Meeting()),
    ((None, None, None), {'TPU_WORKER_HOSTNAMES': 't-0'}, None),
  ],
)
def test_where_processes_meet_comes_from_flags_or_the_environment(flags, environment, expected):
  assert runtime.meeting(*flags, environment=environment) == expected


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (
      (None, '2', None),
      '--num_processes and --process_id need --coordinator=host:port, the address of process 0: give all three.',
    ),
    (
      ('host:1', '2', None),
      '--coordinator=host:1 alone does not say who meets there: give --num_processes and --process_id too.',
    ),
    (('host', '2', '0'), "--coordinator=host is no address: give host:port of process 0, or 'auto'."),
    (
      ('host:1', '2', '2'),
      '--num_processes=2, --process_id=2: processes are numbered from 0 to one less than their number.',
    ),
    (
      ('host:1', 'two', '0'),
      '--num_processes=two, --process_id=0: processes are numbered from 0 to one less than their number.',
    ),
  ],
)
def test_flags_that_do_not_go_together_are_named(flags, message):
  with pytest.raises(ValueError) as error:
    runtime.meeting(*flags, environment={})
  assert str(error.value) == message


def test_a_process_alone_has_only_itself_to_talk_to():
  assert runtime.exchange('anything', {'a': 1}) == [{'a': 1}]
  assert runtime.agreed(['one', 'two', 'one']) == ['one', 'two']
  with runtime.joined(None):
    pass


TALK = """
with runtime.joined(place, good=(0, 75)):
  print(runtime.exchange('number', index), runtime.exchange('number', 10 * index))
  print(runtime.agreed(['both', f'only {index}']))
  sys.exit(75)
"""

FAIL = """
import time
with runtime.joined(place):
  runtime.exchange('here', True)
  if index == 1:
    raise OSError('the disk of this host is gone')
  time.sleep(100)
"""

STUCK = """
import time
with runtime.joined(place):
  if index == 1:
    time.sleep(8)
  runtime.exchange('lunch', True, seconds=1)
"""


def test_what_processes_say_reaches_all_and_they_part_with_their_status(tmp_path):
  with Company(tmp_path, met(TALK), devices=1) as company:
    assert company.wait() == [75, 75], company.texts()
  for text in company.texts():
    assert '[0, 1] [0, 10]' in text
    assert "['both', 'process 0: only 0', 'process 1: only 1']" in text


def test_an_error_of_one_process_ends_all_with_its_reason(tmp_path):
  with Company(tmp_path, met(FAIL), devices=1) as company:
    started = time.monotonic()
    assert company.wait(60) == [1, 1], company.texts()
    assert time.monotonic() - started < 50, 'the other slept for 100 s'
  first, second = company.texts()
  assert 'error: process 1 failed: OSError: the disk of this host is gone' in first
  assert 'Traceback' in second and 'OSError: the disk of this host is gone' in second


@pytest.mark.slow
def test_who_does_not_come_is_named(tmp_path):
  with Company(tmp_path, met(STUCK), devices=1) as company:
    assert company.wait(60) == [1, 1], company.texts()
  assert "process 1 of 2 did not come to 'lunch' within 1 s" in company.texts()[0]


@pytest.mark.slow
def test_a_process_that_nobody_meets_does_not_wait_for_ever(tmp_path):
  script = 'with runtime.joined(place, patience=3): pass'
  with Company(tmp_path, met(script)[1:], devices=1) as company:
    (status,) = company.wait(60)
  assert status not in (0, None)
  assert 'DEADLINE_EXCEEDED' in company.texts()[0] or 'have not met within 3 s' in company.texts()[0]


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_the_others_end_when_one_is_killed(tmp_path, killed):
  """F06: within twenty seconds, without anybody's help."""
  script = (
    'import time, jax, jax.numpy as jnp\n'
    'from jax.experimental import multihost_utils\n'
    'with runtime.joined(place):\n'
    '  print("at work", flush=True)\n'
    '  while True:\n'
    '    multihost_utils.process_allgather(jnp.ones(3))\n'
  )
  with Company(tmp_path, met(script), devices=1) as company:
    for which in (0, 1):
      company.until('at work', which)
    time.sleep(2)
    company.processes[killed].send_signal(signal.SIGKILL)
    started = time.monotonic()
    company.processes[1 - killed].wait(60)
    assert time.monotonic() - started < 20
    # Process 0 takes the coordination service with it, at which JAX aborts.
    assert company.processes[1 - killed].returncode == (runtime.LOST if killed else -signal.SIGABRT)
    text = company.texts()[1 - killed]
  reason = r'error: process 1 \(\S+, pid \d+\) of 2 has not been heard of for \d+ s' if killed else 'leader task was'
  assert re.search(reason, text), text
