"""Peak rates and memory of chips, from their data sheets."""

from __future__ import annotations

import math
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
  """Data sheet of one device."""

  flops: float  # per second, bfloat16, dense
  memory: int  # bytes: available to a program on a TPU, total on a GPU
  memory_rate: float  # bytes per second
  link_rate: float  # bytes per second to other devices of the node or slice, one direction, all links together
  network_rate: float = math.inf  # bytes per second to other nodes, if over another network


# From Google's page on each generation. Memory is what the compiler lets a program use, up to 1.3 GiB less than the
# chip has. A v4 chip is one device (megacore).
TPUS = {
  'v4': Chip(275e12, int(30.75 * GIB), 1200e9, 300e9),
  'v5e': Chip(197e12, int(15.75 * GIB), 819e9, 200e9),
  'v5p': Chip(459e12, int(95.74 * GIB), 2765e9, 600e9),
  'v6e': Chip(918e12, int(31.25 * GIB), 1640e9, 400e9),
}
# From NVIDIA's data sheets; network as in a DGX.
GPUS = {
  'A100 40GB': Chip(312e12, 40 * 10**9, 1555e9, 300e9, 25e9),
  'A100 80GB': Chip(312e12, 80 * 10**9, 2039e9, 300e9, 25e9),
  'H100': Chip(989e12, 80 * 10**9, 3350e9, 450e9, 50e9),
  'H200': Chip(989e12, 141 * 10**9, 4800e9, 450e9, 50e9),
}
# Substrings of `jax.Device.device_kind`; the first match counts.
_KINDS = {
  'TPU v4': TPUS['v4'],
  'TPU v5 lite': TPUS['v5e'],
  'TPU v5e': TPUS['v5e'],
  'TPU v5': TPUS['v5p'],
  'TPU v6': TPUS['v6e'],
  'A100-SXM4-40GB': GPUS['A100 40GB'],
  'A100-PCIE-40GB': GPUS['A100 40GB'],
  'A100': GPUS['A100 80GB'],
  'H100': GPUS['H100'],
  'H200': GPUS['H200'],
}


def chip_of(device_kind: str) -> Chip | None:
  """Return the chip of a `jax.Device.device_kind` such as 'NVIDIA H200'; None if it is not in the tables."""
  return next((chip for name, chip in _KINDS.items() if name in device_kind), None)


def gpu_of_memory(gigabytes: int) -> Chip | None:
  """Return the slowest GPU with this much memory; None if there is none in the table."""
  chips = [chip for chip in GPUS.values() if chip.memory == gigabytes * 10**9]
  return min(chips, key=lambda chip: chip.flops, default=None)
