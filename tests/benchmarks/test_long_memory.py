"""Peak memory is that of the measured process, and a failure is reported with its output."""

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


def test_the_peak_is_that_of_the_process():
  """Measured from a small process, like the command: a child's peak starts at its parent's."""
  printed = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True).stdout
  large, small = map(int, printed.split())
  assert 95 << 20 < large - small < 105 << 20


def test_the_output_of_a_failing_process_is_shown():
  with pytest.raises(RuntimeError, match='no such model'):
    long_memory.peak_resident_set([sys.executable, '-c', 'raise SystemExit("no such model")'])
