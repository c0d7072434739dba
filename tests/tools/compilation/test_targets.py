"""Names of topologies, and the chips behind them."""

from __future__ import annotations

import importlib.util
import re

import jax
import pytest

from vdm_jax.tools.compilation.chips import GPUS, TPUS, chip_of, gpu_of_memory
from vdm_jax.tools.compilation.targets import open_target


@pytest.mark.parametrize('name', ['v4', 'v4:', 'v4:4x4', 'v5e:4x4x4', 'v4:4x0x8', 'v7:4x4x4', 'gpu:8x80', 'h100', ''])
def test_an_invalid_topology_is_an_error(name):
  with pytest.raises(ValueError, match=f'^--topology={re.escape(name)} .*v4:4x4x8.*v6e:2x4.*gpu:.*here'):
    open_target(name)


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is not None, reason='libtpu is here')
def test_without_libtpu_the_message_has_the_package_to_install():
  with pytest.raises(RuntimeError, match=r"--topology=v4:2x2x1 .*libtpu.*pip install 'vdm_jax\[tpu\]'"):
    open_target('v4:2x2x1')


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu')
def test_a_slice_has_its_chips():
  for name, chips in (('v4:2x2x4', 16), ('v4:1x1x1', 1), ('v5p:2x2x1', 4), ('v5e:4x4', 16), ('v6e:2x4', 8)):
    target = open_target(name)
    assert (len(target.devices), target.backend, target.chip) == (chips, 'tpu', TPUS[name.split(':')[0]])


def test_more_virtual_devices_than_jax_was_initialized_with_are_an_error():
  have = len(jax.devices())
  with pytest.raises(RuntimeError, match=f'--topology=gpu:2x{have}x80 needs {2 * have} .* {have}'):
    open_target(f'gpu:2x{have}x80')


def test_only_several_nodes_use_the_network():
  one = open_target('gpu:1x1x80')
  a100 = GPUS['A100 80GB']
  assert one.link_rate == a100.link_rate and one._replace(nodes=2).link_rate == a100.network_rate
  unknown = open_target('gpu:1x1x32')
  assert (unknown.chip, unknown.link_rate) == (None, None)


def test_the_memory_of_a_gpu_is_the_pool_of_the_launch_scripts():
  assert [open_target(f'gpu:1x1x{gb}').memory for gb in (32, 80)] == [29_440_000_000, 73_600_000_000]


def test_this_machine_is_a_target():
  target = open_target('here')
  assert (list(target.devices), target.backend) == (jax.devices(), 'cpu')
  assert (target.chip, target.memory) == (None, None)


@pytest.mark.parametrize(
  ('kind', 'chip'),
  [
    ('TPU v4', TPUS['v4']),
    ('TPU v5 lite', TPUS['v5e']),
    ('TPU v5e', TPUS['v5e']),
    ('TPU v5', TPUS['v5p']),
    ('TPU v5p', TPUS['v5p']),
    ('TPU v6 lite', TPUS['v6e']),
    ('NVIDIA A100-SXM4-40GB', GPUS['A100 40GB']),
    ('NVIDIA A100-SXM4-80GB', GPUS['A100 80GB']),
    ('NVIDIA H100 80GB HBM3', GPUS['H100']),
    ('NVIDIA H200', GPUS['H200']),
    ('cpu', None),
  ],
)
def test_chips_are_found_by_device_kind(kind, chip):
  assert chip_of(kind) == chip


def test_a_gpu_given_by_memory_is_the_slowest_of_that_size():
  assert (gpu_of_memory(80), gpu_of_memory(24)) == (GPUS['A100 80GB'], None)
