"""The measurement of memory sees what a process allocates, and says why a process failed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vdm_jax.benchmarks import long_memory

PROGRAM = """
import sys
from vdm_jax.benchmarks import long_memory
for size in (300 << 20, 200 << 20):
  code = f'held = bytearray({size}); held[::4096] = b"x" * len(held[::4096])'
  print(long_memory.peak_resident_set([sys.executable, '-c', code]))
"""


def test_the_peak_is_the_process_own():
  """Measured from a small process, as by the command: a child's figure begins with its parent's."""
  printed = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True).stdout
  large, small = map(int, printed.split())
  assert 95 << 20 < large - small < 105 << 20


def test_a_process_that_fails_is_quoted():
  with pytest.raises(RuntimeError, match='no such model'):
    long_memory.peak_resident_set([sys.executable, '-c', 'raise SystemExit("no such model")'])
