"""Checks before training: settings, machine and clips, and overfitting on eight clips."""

from vdm_jax.tools.doctor.captions import remarks
from vdm_jax.tools.doctor.checks import (
  attempt,
  check_workdir,
  device_bytes,
  parameters,
  problems,
  report,
  unknown_words,
  words,
)
from vdm_jax.tools.doctor.overfitting import Findings, overfit

__all__ = [
  'Findings',
  'attempt',
  'check_workdir',
  'device_bytes',
  'overfit',
  'parameters',
  'problems',
  'remarks',
  'report',
  'unknown_words',
  'words',
]
