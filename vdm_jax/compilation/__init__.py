"""Compiling ahead of time: what a configuration needs of machines that are not there."""

from vdm_jax.compilation.report import report

__all__ = ['report']
