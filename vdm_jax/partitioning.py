"""Sharding of every array: one device mesh, and one table from logical axis names to mesh axes.

The mesh has three axes. `data` replicates the parameters and splits the batch; `fsdp` splits the batch and the
parameters; `tensor` splits the width of a layer. Networks name the axes of their parameters and activations by meaning
('embed', 'mlp', ...) and do not depend on the mesh. The caller that traces them sets it: `with jax.set_mesh(mesh)`.

Linen's own logical constraints are not used: inside `nn.logical_axis_rules` its multi-head layers, which initialize
their kernel flat, fail on the constraint of its final shape. `constrain` does the same from this table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from vdm_jax.names import unknown

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')

# Logical axis -> mesh axes; None is never split.
RULES: dict[str, tuple[str, ...] | str | None] = {
  'batch': BATCH,
  'embed': 'fsdp',
  'mlp': 'tensor',
  'heads': 'tensor',
  'layers': None,
}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Return the device mesh `(data, fsdp, tensor)`.

  Args:
    sizes: devices along each axis. An absent axis has size 1; one axis may be -1, all remaining devices.
    devices: the devices to arrange, `jax.devices()` by default.

  Raises:
    ValueError: an axis is unknown, a size is neither positive nor -1, two sizes are -1, the product is not the number
      of devices, or the axes do not fit the topology of a TPU slice.

  >>> dict(make_mesh({'data': -1}, jax.devices()[:1]).shape)
  {'data': 1, 'fsdp': 1, 'tensor': 1}
  """
  devices = list(jax.devices() if devices is None else devices)
  for name, size in sizes.items():
    if name not in AXES:
      raise ValueError(unknown('mesh axis', name, AXES))
    if size < 1 and size != -1:
      raise ValueError(
        f'mesh.{name}={size} is not a valid number of devices: give a positive number, or -1 for the rest.'
      )
  shape = [sizes.get(name, 1) for name in AXES]
  arithmetic = ' x '.join(f'mesh.{name}={size}' for name, size in zip(AXES, shape, strict=True))
  if shape.count(-1) > 1:
    raise ValueError(f'{arithmetic}: only one axis may be -1.')
  fixed = math.prod(size for size in shape if size != -1)
  if -1 in shape:
    if len(devices) % fixed:
      raise ValueError(
        f'{arithmetic}: {len(devices)} devices are not a multiple of {fixed}. '
        f'Choose sizes whose product divides {len(devices)}.'
      )
    shape[shape.index(-1)] = len(devices) // fixed
  elif fixed != len(devices):
    raise ValueError(
      f'{arithmetic} = {fixed} devices, but there are {len(devices)}. '
      f'Set one axis to -1 (the rest), or choose sizes whose product is {len(devices)}.'
    )
  try:
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
  except NotImplementedError as error:  # TPUs only
    topology = [max(places) + 1 for places in zip(*(device.coords for device in devices), strict=True)]
    raise ValueError(
      f'{arithmetic} does not fit the topology of this slice, {" x ".join(map(str, topology))} chips: each axis must '
      'be 1, one of these sizes, or a product of several.'
    ) from error


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding with a full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding whose leading axis is split over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(BATCH))


def param_shardings(mesh: Mesh, abstract: Any, logical_axes: Any) -> Any:
  """Return a NamedSharding for every parameter, from the names of its axes.

  An axis whose length is not divisible by its mesh axes is not split, which costs memory only.

  Args:
    mesh: from `make_mesh`.
    abstract: tree of arrays or ShapeDtypeStructs.
    logical_axes: the same tree with one logical name or None per axis, as tuples or PartitionSpecs. A parameter
      without names, () or None, is not split.

  Raises:
    ValueError: a name is not in RULES, names and axes differ in number, or two axes of one tensor would be split over
      the same mesh axis.
  """

  def sharding(path: Any, leaf: Any, names: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return NamedSharding(mesh, _spec(mesh, f"parameter '{name}'", leaf.shape, names))

  return jax.tree_util.tree_map_with_path(sharding, abstract, logical_axes)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Constrain the sharding of an activation by the logical names of its leading axes; the others are not split.

  Uses the mesh of `jax.set_mesh`; without one, x is returned unchanged. Raises ValueError as `param_shardings` does.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  names += (None,) * (x.ndim - len(names))
  return jax.lax.with_sharding_constraint(x, _spec(mesh, 'activation', x.shape, names))


def like_params(abstract: Any, params: Any, shardings: Any, default: NamedSharding) -> Any:
  """Return shardings for a tree that holds copies of the parameters: moments of any optimizer, averages.

  A leaf whose path ends in that of a parameter and that has the parameter's shape is split as the parameter is. All
  other leaves get `default`, such as an optimizer's factored moments.
  """
  paths = jax.tree_util.tree_leaves_with_path(params)
  found = {
    path: (leaf.shape, sharding) for (path, leaf), sharding in zip(paths, jax.tree.leaves(shardings), strict=True)
  }

  def place(path: Any, leaf: Any) -> NamedSharding:
    for start in range(len(path) + 1):  # the longest end first
      shape, sharding = found.get(path[start:], (None, None))
      if shape == leaf.shape:
        return sharding
    return default

  return jax.tree_util.tree_map_with_path(place, abstract)


def check_batch(batch_size: int, mesh: Mesh, accumulation: int = 1) -> None:
  """Raise ValueError unless the global batch splits evenly over mesh and micro-batches."""
  data, fsdp = (mesh.shape[name] for name in BATCH)
  parts = data * fsdp * accumulation
  if accumulation < 1 or batch_size < 1 or batch_size % parts:
    below, above = batch_size // max(parts, 1) * parts, -(-batch_size // max(parts, 1)) * parts
    raise ValueError(
      f'data.batch_size={batch_size} does not split into mesh.data={data} x mesh.fsdp={fsdp} x '
      f'training.accumulation_steps={accumulation} = {parts} equal parts. '
      f'Use {" or ".join(str(size) for size in sorted({below, above}) if size > 0)}, or change the mesh.'
    )


def batch_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
  """Return the rows of the global batch held by devices of this process, increasing: `rows` of `data.build`.

  They need not be contiguous: a mesh follows the topology of a slice, of which hosts are squares. Processes that share
  rows (a tensor axis across hosts) each load them. Raises ValueError for a batch that does not split.
  """
  check_batch(batch_size, mesh)
  parts, mine = _parts(mesh)
  size = batch_size // parts
  return tuple(part * size + row for part in mine for row in range(size))


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Return the `batch_rows` of this process (numpy, in that order) as global arrays, split by row."""
  sharding, (parts, mine) = batch_sharding(mesh), _parts(mesh)

  def put(x: Any) -> jax.Array:
    x = np.asarray(x)
    # JAX infers this shape only if all processes hold the same number of rows.
    shape = (len(x) * parts // len(mine), *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(put, batch)


def _parts(mesh: Mesh) -> tuple[int, list[int]]:
  """Return the number of parts a batch is split into, and those on devices of this process."""
  parts = mesh.devices.reshape(-1, mesh.shape['tensor'])
  mine = [i for i, part in enumerate(parts) if any(d.process_index == jax.process_index() for d in part)]
  return len(parts), mine


def _spec(mesh: Mesh | AbstractMesh, name: str, shape: tuple[int, ...], names: Any) -> PartitionSpec:
  names = (() if names is None else tuple(names)) or (None,) * len(shape)
  if len(names) != len(shape):
    raise ValueError(f'{name} of shape {shape} has {len(names)} axis names, {names}: give one per axis.')
  spec, taken = [], {}
  for axis, size in zip(names, shape, strict=True):
    if axis is not None and axis not in RULES:
      raise ValueError(unknown(f'logical axis of {name}', axis, RULES))
    rule = RULES.get(axis) if axis else None
    mesh_axes = () if rule is None else (rule,) if isinstance(rule, str) else rule
    for mesh_axis in mesh_axes:
      if mesh_axis in taken:
        raise ValueError(
          f"{name} {names}: '{taken[mesh_axis]}' and '{axis}' both map to the mesh axis '{mesh_axis}': set one of them "
          'to None.'
        )
      taken[mesh_axis] = axis
    divides = size % math.prod(mesh.shape[mesh_axis] for mesh_axis in mesh_axes) == 0
    spec.append(rule if mesh_axes and divides else None)
  return PartitionSpec(*spec)
