"""Compilation targets: TPU slices that are not present, GPU nodes estimated on virtual CPU devices, this machine."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from vdm_jax.tools.compilation.chips import TPUS, Chip, chip_of, gpu_of_memory

# Fraction of GPU memory in JAX's pool under the launch scripts, which set XLA_CLIENT_MEM_FRACTION (0.75 otherwise). The
# rest is for the driver, cuDNN and NCCL.
GPU_POOL = 0.92
_DIMENSIONS = {'v4': 3, 'v5p': 3, 'v5e': 2, 'v6e': 2}
_FORMS = 'v4:4x4x8 or v5p:2x2x1 (three sizes), v5e:4x4 or v6e:2x4 (two), gpu:<nodes>x<per node>x<GB>, or here'


class Target(NamedTuple):
  """Devices to compile for; `chip` is None if the device is not in the tables."""

  name: str
  devices: Sequence[jax.Device]
  backend: str  # tpu, cpu_estimate, or this machine's platform
  chip: Chip | None
  memory: int | None  # bytes per device available to a program: by the compiler on a TPU, JAX's pool on a GPU
  nodes: int = 1

  @property
  def link_rate(self) -> float | None:
    """Bytes per second that a device exchanges with others over the slowest link between them."""
    if self.chip is None:
      return None
    return self.chip.network_rate if self.nodes > 1 else self.chip.link_rate


def open_target(name: str) -> Target:
  """Return the devices of a topology: 'v4:4x4x8', 'gpu:1x8x80' (nodes, GPUs per node, GB per GPU) or 'here'.

  Must be called before anything else uses JAX: except for 'here' it restricts JAX to the CPU, with one virtual device
  per GPU. A program may use the fraction GPU_POOL of a GPU's memory.

  Raises:
    ValueError: the name is not valid, or the compiler does not know the slice.
    RuntimeError: libtpu is not installed, or JAX is already initialized with fewer devices.
  """
  kind, _, text = name.partition(':')
  if name == 'here':
    return _here()
  sizes = [int(size) for size in text.split('x')] if re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', text) else []
  if len(sizes) != (3 if kind == 'gpu' else _DIMENSIONS.get(kind)):
    raise ValueError(f'--topology={name} is not a valid topology: give {_FORMS}.')
  return _gpus(name, *sizes) if kind == 'gpu' else _tpus(name, kind, sizes)


def _tpus(name: str, kind: str, sizes: Sequence[int]) -> Target:
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
      f"--topology={name} needs the compiler for TPUs, libtpu, which is not installed: pip install 'vdm_jax[tpu]'. "
      'It needs no TPU.'
    )
  # No TPU is present to query for metadata, and other processes may hold the library.
  os.environ.update(TPU_SKIP_MDS_QUERY='1', ALLOW_MULTIPLE_LIBTPU_LOAD='1')
  quiet = {'TPU_ACCELERATOR_TYPE': 'v4-8', 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_MIN_LOG_LEVEL': '3'}
  for key, value in quiet.items():  # avoids warnings about the missing TPU
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
    raise ValueError(f'--topology={name} is not a valid slice: {reason}. Give {_FORMS}.') from error
  return Target(name, devices, 'tpu', TPUS[kind], TPUS[kind].memory)


def _gpus(name: str, nodes: int, per_node: int, gigabytes: int) -> Target:
  count = nodes * per_node
  jax.config.update('jax_platforms', 'cpu')
  try:
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:  # JAX is already initialized
    if len(jax.devices('cpu')) < count:
      raise RuntimeError(
        f'--topology={name} needs {count} virtual devices, but JAX is already initialized with '
        f'{len(jax.devices("cpu"))}: compile in a separate process.'
      ) from None
  memory = round(GPU_POOL * gigabytes * 10**9)
  return Target(name, jax.devices('cpu')[:count], 'cpu_estimate', gpu_of_memory(gigabytes), memory, nodes)


def _here() -> Target:
  devices = jax.devices()
  memory = (devices[0].memory_stats() or {}).get('bytes_limit')
  chip = chip_of(devices[0].device_kind)
  return Target('here', devices, devices[0].platform, chip, memory, jax.process_count())
