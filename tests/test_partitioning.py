"""The mesh and the axis table. Tests that need several devices run in a process with four virtual ones."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.process_group import virtual
from jax.sharding import NamedSharding, PartitionSpec

from vdm_jax import partitioning
from vdm_jax.types import Batch, Conditioning


def on_four_devices(code: str) -> str:
  run = subprocess.run([sys.executable, '-c', code], env=virtual(4), capture_output=True, text=True, timeout=240)
  assert run.returncode == 0, run.stdout + run.stderr
  return run.stdout


def one_device_mesh():
  return partitioning.make_mesh({'data': -1}, jax.devices()[:1])


def test_minus_one_is_all_remaining_devices():
  out = on_four_devices(
    'from vdm_jax.partitioning import make_mesh\n'
    "for sizes in ({'data': -1}, {'data': 2, 'fsdp': -1}, {'data': 1, 'fsdp': -1, 'tensor': 2}):\n"
    '  mesh = make_mesh(sizes)\n'
    '  print(tuple(mesh.shape.items()), {t.name for t in mesh.axis_types})\n'
  )
  assert out.splitlines() == [
    "(('data', 4), ('fsdp', 1), ('tensor', 1)) {'Auto'}",
    "(('data', 2), ('fsdp', 2), ('tensor', 1)) {'Auto'}",
    "(('data', 1), ('fsdp', 2), ('tensor', 2)) {'Auto'}",
  ]


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'data': 2, 'fsdp': 2, 'tensor': 1}, 'mesh.data=2 x mesh.fsdp=2 x mesh.tensor=1 = 4 devices, .* 6'),
    ({'data': -1, 'fsdp': 4}, 'mesh.data=-1 x mesh.fsdp=4 x mesh.tensor=1: 6 devices .* 4'),
    ({'data': -1, 'fsdp': -1}, 'mesh.data=-1 x mesh.fsdp=-1 x mesh.tensor=1'),
    ({'data': 0}, 'mesh.data=0 '),
    ({'tensors': 2}, "'tensors' .*data, fsdp, tensor.*'tensor'"),
  ],
)
def test_a_mesh_that_does_not_fit_shows_the_arithmetic(sizes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.make_mesh(sizes, jax.devices() * 6)


def test_parameters_are_sharded_by_the_table():
  out = on_four_devices(
    'import jax\n'
    'from jax.sharding import PartitionSpec as P\n'
    'from vdm_jax.partitioning import make_mesh, param_shardings\n'
    "mesh = make_mesh({'data': 1, 'fsdp': 2, 'tensor': 2})\n"
    "axes = {'a': P('embed', 'heads', None), 'b': ('layers', 'embed'), 'odd': ('embed', 'mlp')}\n"
    "axes |= {'whole': None, 'unnamed': P()}\n"
    "shapes = {'a': (4, 6, 8), 'b': (3, 4), 'odd': (3, 4), 'whole': (4, 4), 'unnamed': (4, 4)}\n"
    'shapes = {name: jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()}\n'
    'for name, sharding in param_shardings(mesh, shapes, axes).items():\n'
    '  print(name, tuple(sharding.spec), sharding.shard_shape(shapes[name].shape))\n'
  )
  assert out.splitlines() == [
    "a ('fsdp', 'tensor', None) (2, 3, 8)",
    "b (None, 'fsdp') (3, 2)",
    "odd (None, 'tensor') (3, 2)",  # 3 is not divided by 2: whole
    'unnamed (None, None) (4, 4)',
    'whole (None, None) (4, 4)',
  ]


@pytest.mark.parametrize(
  ('axes', 'message'),
  [
    (('embed', 'embed'), "'block/kernel' .*'embed' and 'embed' .*'fsdp'"),
    (('mlp', 'heads'), "'block/kernel' .*'mlp' and 'heads' .*'tensor'"),
    (('batch', 'embed'), "'block/kernel' .*'batch' and 'embed' .*'fsdp'"),
    (('embedd', None), "'block/kernel'='embedd' .*Did you mean 'embed'"),
    (('embed',), r"'block/kernel' of shape \(4, 4\) has 1 axis names, \('embed',\)"),
  ],
)
def test_axes_that_cannot_be_sharded_are_errors_on_any_mesh(axes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.param_shardings(
      one_device_mesh(), {'block': {'kernel': jnp.zeros((4, 4))}}, {'block': {'kernel': axes}}
    )


def test_copies_of_the_parameters_in_another_tree_have_their_shardings():
  mesh = one_device_mesh()
  params = {'a': jnp.zeros(4), 'b': {'c': jnp.zeros((2, 2))}}
  shardings = partitioning.param_shardings(mesh, params, {'a': ('mlp',), 'b': {'c': ('embed', None)}})
  state = {'count': jnp.zeros(()), 'moments': (params, params), 'sums': {'a': jnp.zeros(3)}}
  whole = partitioning.replicated(mesh)
  assert partitioning.like_params(state, params, shardings, whole) == {
    'count': whole,
    'moments': (shardings, shardings),
    'sums': {'a': whole},
  }


def test_each_device_holds_its_rows_of_the_batch_whatever_the_mesh():
  out = on_four_devices(
    'import numpy as np\n'
    'from vdm_jax.partitioning import batch_rows, make_mesh, put_batch\n'
    "for sizes in ({'data': 4}, {'fsdp': 4}, {'data': 2, 'fsdp': 2}, {'data': 2, 'tensor': 2}):\n"
    '  mesh = make_mesh(sizes)\n'
    '  x = put_batch(np.arange(8.0)[:, None], mesh)\n'
    '  rows = sorted(np.ravel(s.data).astype(int).tolist() for s in x.addressable_shards)\n'
    '  print(batch_rows(mesh, 8) == tuple(range(8)), rows)\n'
  )
  quarters = 'True [[0, 1], [2, 3], [4, 5], [6, 7]]'
  halves = 'True [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]'
  assert out.splitlines() == [quarters, quarters, quarters, halves]


@pytest.mark.parametrize(
  ('processes', 'tensor', 'expected'),
  [
    ([0, 0, 1, 1], 1, [(0, 1, 2, 3), (4, 5, 6, 7)]),
    ([0, 1, 1, 0], 1, [(0, 1, 6, 7), (2, 3, 4, 5)]),
    ([0, 0, 0, 0, 1, 1, 1, 1], 2, [(0, 1, 2, 3), (4, 5, 6, 7)]),
    ([0, 0, 1, 1, 2, 2, 3, 3], 4, [(0, 1, 2, 3)] * 2 + [(4, 5, 6, 7)] * 2),  # two processes share each row
    ([0, 1, 0, 1, 0, 1, 0, 1], 2, [tuple(range(8))] * 2),  # both hold a part of every row's layers
    ([0, 0, 0, 1, 1, 1, 1, 1], 2, [(0, 1, 2, 3), (2, 3, 4, 5, 6, 7)]),  # unevenly
  ],
)
def test_processes_feed_the_rows_their_devices_hold(monkeypatch, processes, tensor, expected):
  devices = np.array([SimpleNamespace(process_index=p) for p in processes]).reshape(-1, 1, tensor)
  shape = dict(zip(partitioning.AXES, devices.shape, strict=True))
  for process, rows in enumerate(expected):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    assert partitioning.batch_rows(SimpleNamespace(devices=devices, shape=shape), 8) == rows


@dataclasses.dataclass(frozen=True)
class Chip:
  """The attributes of a TPU device that `make_mesh` reads."""

  id: int
  coords: tuple[int, int, int]
  process_index: int
  device_kind: str
  platform: str = 'tpu'
  core_on_chip: int = 0
  client: None = None


def chips_of(kind: str, *sizes: int) -> list[Chip]:
  """The chips of a slice, numbered as by libtpu; hosts are squares of four."""
  chips = []
  for number, (z, y, x) in enumerate(np.ndindex(sizes[::-1])):
    host = x // 2 + sizes[0] // 2 * (y // 2 + sizes[1] // 2 * z)
    chips.append(Chip(number, (x, y, z), host, f'TPU {kind}'))
  return chips


@pytest.mark.parametrize(
  ('chips', 'sizes', 'first'),
  [
    (chips_of('v4', 4, 4, 8), {'data': -1}, (0, 8, 32, 40)),
    (chips_of('v4', 4, 4, 8), {'data': -1, 'fsdp': 16}, (0, 1, 4, 5)),
    (chips_of('v4', 4, 4, 8), {'fsdp': -1}, (0, 8, 32, 40)),
    (chips_of('v4', 4, 4, 8), {'data': -1, 'fsdp': 4}, (0, 1, 32, 33)),
    (chips_of('v4', 2, 2, 2), {'fsdp': -1}, (0, 2, 4, 6)),
    (chips_of('v5', 4, 4, 4), {'data': -1}, (0, 4, 16, 20)),
    (chips_of('v5 lite', 4, 8, 1), {'data': -1}, (0, 1, 8, 9)),
  ],
)
def test_the_rows_of_a_host_follow_the_topology_of_the_slice(monkeypatch, chips, sizes, first):
  """The expected rows of the first host were recorded with libtpu."""
  mesh = partitioning.make_mesh(sizes, chips)
  holds = partitioning.batch_sharding(mesh).devices_indices_map((2 * len(chips),))
  made = []
  for host in range(len(chips) // 4):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    rows = partitioning.batch_rows(mesh, 2 * len(chips))
    assert set(rows) == {
      row
      for chip, (part,) in holds.items()
      if chip.process_index == host
      for row in range(part.start or 0, part.stop or len(chips))
    }
    assert host or rows[::2] == tuple(2 * row for row in first)
    made += rows
  assert sorted(made) == list(range(2 * len(chips)))


def test_a_mesh_that_does_not_fit_the_topology_is_an_error():
  with pytest.raises(ValueError, match='mesh.data=-1 x mesh.fsdp=1 x mesh.tensor=2 .* 4 x 4 x 8'):
    partitioning.make_mesh({'data': -1, 'tensor': 2}, chips_of('v4', 4, 4, 8))


def test_hosts_that_share_a_layer_load_the_same_rows(monkeypatch):
  """mesh.tensor=4 on v4:4x4x8: lines of four chips span two hosts."""
  mesh = partitioning.make_mesh({'data': -1, 'tensor': 4}, chips_of('v4', 4, 4, 8))
  made = []
  for host in range(32):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    made.append(partitioning.batch_rows(mesh, 32))
  assert made[0] == (0, 8) and all(made.count(rows) == 2 for rows in made)
  assert sorted(row for rows in made for row in rows) == [row for row in range(32) for _ in range(2)]


def test_a_batch_is_unchanged_by_placing_it():
  batch = Batch(np.arange(6.0, dtype=np.float32).reshape(3, 2), Conditioning(label=np.arange(3)[:, None]))
  mesh = one_device_mesh()
  placed = partitioning.put_batch(batch, mesh)
  assert placed.x.sharding == NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
  assert placed.cond.text is None
  jax.tree.map(np.testing.assert_array_equal, placed, batch)


def test_a_batch_that_does_not_split_shows_the_arithmetic():
  mesh = partitioning.make_mesh({'data': 1})
  partitioning.check_batch(12, mesh, accumulation=4)
  arithmetic = 'data.batch_size=10 .* mesh.data=1 x mesh.fsdp=1 x training.accumulation_steps=4 = 4 .* 8 or 12'
  with pytest.raises(ValueError, match=arithmetic):
    partitioning.check_batch(10, mesh, accumulation=4)


def test_constraints_act_only_under_a_mesh():
  def network(x):
    return 2 * partitioning.constrain(x, 'batch')

  assert jax.jit(network).lower(jnp.zeros((4, 4))).as_text().count('sharding_constraint') == 0
  with jax.set_mesh(one_device_mesh()):
    assert jax.jit(network).lower(jnp.zeros((4, 4))).as_text().count('sharding_constraint') == 1
    with pytest.raises(ValueError, match="activation='bach'"):
      partitioning.constrain(jnp.zeros((4, 4)), 'bach')


def test_a_constraint_splits_the_axes_it_names():
  out = on_four_devices(
    'import jax, jax.numpy as jnp\n'
    'from vdm_jax.partitioning import constrain, make_mesh\n'
    "with jax.set_mesh(make_mesh({'data': 2, 'tensor': 2})):\n"
    "  x = jax.jit(lambda: constrain(jnp.zeros((4, 6, 8)), 'batch', None, 'heads'))()\n"
    'print(x.addressable_shards[0].data.shape)\n'
  )
  assert out == '(2, 6, 4)\n'
