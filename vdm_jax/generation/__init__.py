"""Generation: samplers put to work on tasks."""

from vdm_jax.generation.cascade import make_cascade, make_upsampler
from vdm_jax.generation.generate import Generate, make_generator
from vdm_jax.generation.sampler import Sampler, make_sampler

__all__ = ['Generate', 'Sampler', 'make_cascade', 'make_generator', 'make_sampler', 'make_upsampler']
