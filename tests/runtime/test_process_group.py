"""Process group: rendezvous, exchange, and that no process is left waiting when another fails."""

from __future__ import annotations

import re
import signal
import time

import pytest
from helpers.process_group import ProcessGroup, group_commands

from vdm_jax import runtime
from vdm_jax.errors import ExitStatus
from vdm_jax.runtime import Rendezvous


@pytest.mark.parametrize(
  ('flags', 'environment', 'expected'),
  [
    ((None, None, None), {}, None),
    (('host:1234', '4', '3'), {}, Rendezvous('host:1234', 4, 3)),
    (('auto', None, None), {}, Rendezvous()),
    ((None, None, None), {'SLURM_NTASKS': '8', 'SLURM_STEP_NODELIST': 'node[1-2]'}, Rendezvous()),
    ((None, None, None), {'SLURM_NTASKS': '8'}, None),  # in the batch script, outside of any step
    ((None, None, None), {'SLURM_NTASKS': '1', 'SLURM_STEP_NODELIST': 'node1'}, None),
    ((None, None, None), {'TPU_WORKER_HOSTNAMES': 't-0,t-1'}, Rendezvous()),
    ((None, None, None), {'TPU_WORKER_HOSTNAMES': 't-0'}, None),
  ],
)
def test_the_rendezvous_comes_from_flags_or_the_environment(flags, environment, expected):
  assert runtime.find_rendezvous(*flags, environment=environment) == expected


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((None, '2', None), '--coordinator=host:port'),
    (('host:1', '2', None), '--coordinator=host:1 needs --num_processes and --process_id'),
    (('host', '2', '0'), '--coordinator=host is not a valid address'),
    (('host:1', '2', '2'), '--num_processes=2, --process_id=2'),
    (('host:1', 'two', '0'), '--num_processes=two, --process_id=0'),
  ],
)
def test_invalid_flags_are_named(flags, message):
  with pytest.raises(ValueError, match=message):
    runtime.find_rendezvous(*flags, environment={})


def test_a_single_process_exchanges_with_itself():
  assert runtime.exchange('anything', {'a': 1}) == [{'a': 1}]
  assert runtime.merge_problems(['one', 'two', 'one']) == ['one', 'two']
  with runtime.join_process_group(None):
    pass


TALK = """
with runtime.join_process_group(rendezvous, success=(0, 75)):
  print(runtime.exchange('number', index), runtime.exchange('number', 10 * index))
  print(runtime.merge_problems(['both', f'only {index}']))
  sys.exit(75)
"""

FAIL = """
import time
with runtime.join_process_group(rendezvous):
  runtime.exchange('here', True)
  if index == 1:
    raise OSError('the disk of this host is gone')
  time.sleep(100)
"""

STUCK = """
import time
with runtime.join_process_group(rendezvous):
  if index == 1:
    time.sleep(8)
  runtime.exchange('lunch', True, seconds=1)
"""


def test_exchanged_values_reach_all_and_statuses_are_kept(tmp_path):
  with ProcessGroup(tmp_path, group_commands(TALK), devices=1) as group:
    assert group.wait() == [75, 75], group.texts()
  for text in group.texts():
    assert '[0, 1] [0, 10]' in text
    assert "['both', 'process 0: only 0', 'process 1: only 1']" in text


def test_an_error_of_one_process_ends_all_with_its_reason(tmp_path):
  with ProcessGroup(tmp_path, group_commands(FAIL), devices=1) as group:
    started = time.monotonic()
    assert group.wait(60) == [1, 1], group.texts()
    assert time.monotonic() - started < 50, 'the other slept for 100 s'
  first, second = group.texts()
  assert 'error: process 1 failed: OSError: the disk of this host is gone' in first
  assert 'Traceback' in second and 'OSError: the disk of this host is gone' in second


@pytest.mark.slow
def test_a_process_absent_from_an_exchange_is_named(tmp_path):
  with ProcessGroup(tmp_path, group_commands(STUCK), devices=1) as group:
    assert group.wait(60) == [1, 1], group.texts()
  assert re.search("process 1 of 2 .*'lunch' within 1 s", group.texts()[0])


@pytest.mark.slow
def test_a_process_without_others_gives_up(tmp_path):
  script = 'with runtime.join_process_group(rendezvous, timeout=3): pass'
  with ProcessGroup(tmp_path, group_commands(script)[1:], devices=1) as group:
    (status,) = group.wait(60)
  assert status not in (0, None)
  assert 'DEADLINE_EXCEEDED' in group.texts()[0] or 'within 3 s' in group.texts()[0]


@pytest.mark.slow
@pytest.mark.parametrize('killed', [0, 1])
def test_the_others_end_when_one_is_killed(tmp_path, killed):
  """Within twenty seconds."""
  script = (
    'import time, jax, jax.numpy as jnp\n'
    'from jax.experimental import multihost_utils\n'
    'with runtime.join_process_group(rendezvous):\n'
    '  print("at work", flush=True)\n'
    '  while True:\n'
    '    multihost_utils.process_allgather(jnp.ones(3))\n'
  )
  with ProcessGroup(tmp_path, group_commands(script), devices=1) as group:
    for which in (0, 1):
      group.until('at work', which)
    time.sleep(2)
    group.processes[killed].send_signal(signal.SIGKILL)
    started = time.monotonic()
    group.processes[1 - killed].wait(60)
    assert time.monotonic() - started < 20
    # Process 0 holds the coordination service; without it JAX aborts.
    assert group.processes[1 - killed].returncode == (ExitStatus.PROCESS_LOST if killed else -signal.SIGABRT)
    text = group.texts()[1 - killed]
  reason = r'error: process 1 \(\S+, pid \d+\) of 2 has sent no heartbeat for \d+ s' if killed else 'leader task was'
  assert re.search(reason, text), text
