"""What a command reports to its user: invalid input, and exit statuses."""

from __future__ import annotations

import enum


class ExitStatus(enum.IntEnum):
  """Exit statuses of every command; 0 is success."""

  CANNOT_TRAIN = 1  # `vdm_jax.data inspect`: these clips are not enough to train on
  INVALID_INPUT = 2
  PROCESS_LOST = 70  # a process died or hangs; starting again may help
  STOPPED = 75  # stopped on request; the same command resumes


class InvalidInput(Exception):
  """Invalid user input: one message per argument, each naming the input, the reason and the fix.

  Commands print the messages and exit with `ExitStatus.INVALID_INPUT`; nothing else should catch it.
  """
