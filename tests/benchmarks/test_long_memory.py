"""The measurement of memory sees what a process allocates, and says why a process failed."""

from __future__ import annotations

import sys

import pytest

from vdm_jax.benchmarks import long_memory


def test_the_peak_is_the_process_own():
  allocate = 'held = bytearray({}); held[::4096] = b"x" * len(held[::4096]); del held'
  sizes = (1000 << 20, 600 << 20)  # above that of this process, which a child's figure begins with
  large, small = (long_memory.peak_resident_set([sys.executable, '-c', allocate.format(size)]) for size in sizes)
  assert 390 << 20 < large - small < 410 << 20


def test_a_process_that_fails_is_quoted():
  with pytest.raises(RuntimeError, match='no such model'):
    long_memory.peak_resident_set([sys.executable, '-c', 'raise SystemExit("no such model")'])
