"""What the library costs: model FLOPs from a program's jaxpr, and timings to run on your own machine."""

from vdm_jax.benchmarks.flops import model_flops

__all__ = ['model_flops']
