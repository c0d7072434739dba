"""What would keep a configuration from training, found before it trains: settings, machine, clips, and eight of them
learnt by heart.
"""

from vdm_jax.tools.doctor.checks import device_bytes, parameters, problems, report, words
from vdm_jax.tools.doctor.overfitting import Findings, overfit

__all__ = ['Findings', 'device_bytes', 'overfit', 'parameters', 'problems', 'report', 'words']
