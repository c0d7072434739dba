"""Sampling: guidance on denoisers, steps of the reverse process, and the loop over a log-SNR grid."""

from vdm_jax.sampling.corrections import langevin_corrected, redraw
from vdm_jax.sampling.guidance import (
  classifier_free,
  clip,
  dynamic_threshold,
  given_frames,
  oscillating,
  reconstruction,
  replacement,
)
from vdm_jax.sampling.sample import State, advance, begin, finish, sample
from vdm_jax.sampling.steps import ancestral, ddim, dpm_solver, heun, memoryless
from vdm_jax.types import Step

__all__ = [
  'State',
  'Step',
  'advance',
  'ancestral',
  'begin',
  'classifier_free',
  'clip',
  'ddim',
  'dpm_solver',
  'dynamic_threshold',
  'finish',
  'given_frames',
  'heun',
  'langevin_corrected',
  'memoryless',
  'oscillating',
  'reconstruction',
  'redraw',
  'replacement',
  'sample',
]
