"""What to compile for: TPU slices that are not there, GPU nodes estimated on virtual CPU devices, or this machine."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

GIB = 2**30


class Chip(NamedTuple):
  """One device by its data sheet, bytes and rates per device."""

  flops: float  # per second, bfloat16, dense
  memory: int  # bytes that a program may use
  memory_rate: float  # bytes per second
  link_rate: float  # bytes per second to other devices of the node or slice, one way, all links together
  network_rate: float = math.inf  # bytes per second to other nodes, where that is another wire


# Google's pages on each generation; memory is what the compiler grants, up to 1.3 GiB less than the chip has. A v4 chip
# is one device (megacore).
TPUS = {
  'v4': Chip(275e12, int(30.75 * GIB), 1200e9, 300e9),
  'v5e': Chip(197e12, int(15.75 * GIB), 819e9, 200e9),
  'v5p': Chip(459e12, int(95.74 * GIB), 2765e9, 600e9),
  'v6e': Chip(918e12, int(31.25 * GIB), 1640e9, 400e9),
}
# NVIDIA's data sheets by memory in GB, with the network of a DGX: A100, A100, H200. An H100 of 80 GB computes faster.
GPUS = {
  40: Chip(312e12, 40 * 10**9, 1555e9, 300e9, 25e9),
  80: Chip(312e12, 80 * 10**9, 2039e9, 300e9, 25e9),
  141: Chip(989e12, 141 * 10**9, 4800e9, 450e9, 50e9),
}
_DIMENSIONS = {'v4': 3, 'v5p': 3, 'v5e': 2, 'v6e': 2}
_FORMS = 'v4:4x4x8 or v5p:2x2x1 (three sizes), v5e:4x4 or v6e:2x4 (two), gpu:<nodes>x<per node>x<GB>, or here'


class Target(NamedTuple):
  """Devices to compile for; `chip` is None where the rates of the device are not in the tables."""

  name: str
  devices: Sequence[jax.Device]
  backend: str  # tpu, cpu_estimate, or this machine's platform
  chip: Chip | None
  memory: int | None  # bytes per device that a program may use
  nodes: int = 1

  @property
  def link_rate(self) -> float | None:
    """Bytes per second that a device exchanges with others, over the slowest wire between them."""
    if self.chip is None:
      return None
    return self.chip.network_rate if self.nodes > 1 else self.chip.link_rate


def open_target(name: str) -> Target:
  """The devices of a topology: 'v4:4x4x8', 'gpu:1x8x80' (nodes, GPUs of each, GB of each) or 'here'.

  To be called before anything else uses JAX: but for 'here' it restricts JAX to the CPU, of which it makes as many
  virtual devices as the nodes have GPUs.

  Raises ValueError for a name that is none of these or a slice that the compiler does not know, RuntimeError where
  libtpu is not installed or JAX already has fewer devices.
  """
  kind, _, text = name.partition(':')
  if name == 'here':
    return _here()
  sizes = [int(size) for size in text.split('x')] if re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', text) else []
  if len(sizes) != (3 if kind == 'gpu' else _DIMENSIONS.get(kind)):
    raise ValueError(f'--topology={name} is not understood: give {_FORMS}.')
  return _gpus(name, *sizes) if kind == 'gpu' else _tpus(name, kind, sizes)


def _tpus(name: str, kind: str, sizes: Sequence[int]) -> Target:
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
      f"--topology={name} needs the compiler for TPUs, libtpu, which is not installed: pip install 'vdm_jax[tpu]'. "
      'It needs no TPU.'
    )
  # There is no TPU whose metadata could be asked for, and other processes may hold the library.
  os.environ.update(TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1')
  quiet = {'TPU_ACCELERATOR_TYPE': 'v4-8', 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_MIN_LOG_LEVEL': '3'}
  for key, value in quiet.items():  # else it complains that it does not find the TPU it runs on
    os.environ.setdefault(key, value)
  jax.config.update('jax_platforms', 'cpu')
  bounds = [2 if size % 2 == 0 else 1 for size in sizes[:2]]
  settings = {'chips_per_host_bounds': (*bounds, 1), 'num_slices': 1}
  if kind == 'v4':
    settings['chip_config_name'] = 'megacore'
  try:
    devices = topologies.get_topology_desc(name, 'tpu', **settings).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).split(': ', 1)[-1].splitlines()[0]
    raise ValueError(f'--topology={name} is no slice that the compiler knows: {reason}. Try {_FORMS}.') from error
  return Target(name, devices, 'tpu', TPUS[kind], TPUS[kind].memory)


def _gpus(name: str, nodes: int, per_node: int, gigabytes: int) -> Target:
  count = nodes * per_node
  jax.config.update('jax_platforms', 'cpu')
  try:
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:  # JAX is in use already
    if len(jax.devices('cpu')) < count:
      raise RuntimeError(
        f'--topology={name} needs {count} virtual devices, but JAX already runs with {len(jax.devices("cpu"))}: '
        'compile in a process of its own.'
      ) from None
  return Target(
    name, jax.devices('cpu')[:count], 'cpu_estimate', GPUS.get(gigabytes), gigabytes * 10**9, nodes
  )


def _here() -> Target:
  devices = jax.devices()
  kinds = {'v4': 'TPU v4', 'v5e': 'TPU v5 lite', 'v5p': 'TPU v5', 'v6e': 'TPU v6 lite'}
  chips = {kind: TPUS[name] for name, kind in kinds.items()} | {'NVIDIA H200': GPUS[141], 'NVIDIA A100': GPUS[80]}
  names = [kind for kind in chips if devices[0].device_kind.startswith(kind)]
  memory = (devices[0].memory_stats() or {}).get('bytes_limit')
  chip = chips[max(names, key=len)] if names else None
  return Target('here', devices, devices[0].platform, chip, memory, jax.process_count())
