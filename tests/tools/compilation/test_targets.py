"""Names of topologies, and what is said where they cannot be compiled for."""

from __future__ import annotations

import importlib.util

import jax
import pytest

from vdm_jax.tools.compilation.chips import GPUS, TPUS, chip_of, gpu_of_memory
from vdm_jax.tools.compilation.targets import open_target

FORMS = 'v4:4x4x8 or v5p:2x2x1 (three sizes), v5e:4x4 or v6e:2x4 (two), gpu:<nodes>x<per node>x<GB>, or here'


@pytest.mark.parametrize('name', ['v4', 'v4:', 'v4:4x4', 'v5e:4x4x4', 'v4:4x0x8', 'v7:4x4x4', 'gpu:8x80', 'h100', ''])
def test_a_name_that_is_no_topology_is_refused(name):
  with pytest.raises(ValueError) as error:
    open_target(name)
  assert str(error.value) == f'--topology={name} is not understood: give {FORMS}.'


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is not None, reason='libtpu is here')
def test_without_libtpu_it_says_what_to_install():
  with pytest.raises(RuntimeError) as error:
    open_target('v4:2x2x1')
  assert str(error.value) == (
    "--topology=v4:2x2x1 needs the compiler for TPUs, libtpu, which is not installed: pip install 'vdm_jax[tpu]'. It "
    'needs no TPU.'
  )


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs libtpu')
def test_a_slice_has_its_chips_and_an_impossible_one_is_refused():
  for name, chips in (('v4:2x2x4', 16), ('v4:1x1x1', 1), ('v5p:2x2x1', 4), ('v5e:4x4', 16), ('v6e:2x4', 8)):
    target = open_target(name)
    assert (len(target.devices), target.backend, target.chip) == (chips, 'tpu', TPUS[name.split(':')[0]])


def test_more_virtual_devices_than_jax_started_with_are_refused():
  have = len(jax.devices())
  with pytest.raises(RuntimeError) as error:
    open_target(f'gpu:2x{have}x80')
  assert str(error.value) == (
    f'--topology=gpu:2x{have}x80 needs {2 * have} virtual devices, but JAX already runs with {have}: compile in a '
    'process of its own.'
  )


def test_nodes_talk_over_the_network_and_gpus_of_one_node_do_not():
  one = open_target('gpu:1x1x80')
  a100 = GPUS['A100 80GB']
  assert one.link_rate == a100.link_rate and one._replace(nodes=2).link_rate == a100.network_rate
  unknown = open_target('gpu:1x1x32')
  assert (unknown.chip, unknown.link_rate) == (None, None)


def test_a_gpu_grants_what_the_launch_scripts_ask_for():
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
def test_a_device_is_known_by_what_it_calls_itself(kind, chip):
  assert chip_of(kind) == chip


def test_a_gpu_known_by_its_memory_alone_is_the_slowest_of_that_size():
  assert (gpu_of_memory(80), gpu_of_memory(24)) == (GPUS['A100 80GB'], None)
