"""Generation: samplers, generators of videos, cascades, and long videos along a plan."""

from vdm_jax.generation.cascade import make_cascade, make_upsampler
from vdm_jax.generation.conditional import Observed
from vdm_jax.generation.generate import Generate, make_generator
from vdm_jax.generation.long_video import make_long_generator
from vdm_jax.generation.plan import Plan, Window, extension, hierarchy, interpolation, super_resolution
from vdm_jax.generation.sampler import Sampler, make_sampler

__all__ = [
  'Generate',
  'Observed',
  'Plan',
  'Sampler',
  'Window',
  'extension',
  'hierarchy',
  'interpolation',
  'make_cascade',
  'make_generator',
  'make_long_generator',
  'make_sampler',
  'make_upsampler',
  'super_resolution',
]
