"""Sampling: guidance on denoisers, steps of the reverse process, and the scan that runs them."""

from vdm_jax.sampling.guidance import (
  classifier_free,
  clip,
  dynamic_threshold,
  oscillating,
  reconstruction,
  replacement,
)
from vdm_jax.sampling.sample import advance, begin, finish, sample
from vdm_jax.sampling.steps import ancestral, ddim, heun, langevin_corrected, redraw

__all__ = [
  'advance',
  'ancestral',
  'begin',
  'classifier_free',
  'clip',
  'ddim',
  'dynamic_threshold',
  'finish',
  'heun',
  'langevin_corrected',
  'oscillating',
  'reconstruction',
  'redraw',
  'replacement',
  'sample',
]
