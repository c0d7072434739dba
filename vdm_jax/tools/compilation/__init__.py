"""Ahead-of-time compilation: memory, work and time that a configuration needs on machines that are not present."""

from vdm_jax.tools.compilation.flops import model_flops
from vdm_jax.tools.compilation.ideal import ideal_step_seconds
from vdm_jax.tools.compilation.report import report

__all__ = ['ideal_step_seconds', 'model_flops', 'report']
