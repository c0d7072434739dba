"""Checks before training: settings, machine and clips, and overfitting on eight clips."""

from vdm_jax.tools.doctor.captions import remarks
from vdm_jax.tools.doctor.checks import device_bytes, parameters, problems, report, words
from vdm_jax.tools.doctor.overfitting import Findings, overfit

__all__ = ['Findings', 'device_bytes', 'overfit', 'parameters', 'problems', 'remarks', 'report', 'words']
