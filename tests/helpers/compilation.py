"""Compiling for speed: the tests' environment compiles without optimization, which suits programs that run once."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import jax
from packaging.version import Version

OPTIONS = {'xla_backend_optimization_level': 3}
if Version(importlib.metadata.version('jaxlib')) < Version('0.11'):
  OPTIONS['xla_cpu_use_fusion_emitters'] = True


def optimized(function: Callable) -> Callable:
  """Return `jax.jit(function)`, optimized: for programs that run for longer than they take to compile."""
  return jax.jit(function, compiler_options=OPTIONS)
