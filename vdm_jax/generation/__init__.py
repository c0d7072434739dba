"""Generation: samplers put to work on tasks."""

from vdm_jax.generation.sampler import Sampler, make_sampler

__all__ = ['Sampler', 'make_sampler']
