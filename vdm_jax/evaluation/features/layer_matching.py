"""Tensors of a file matched to the parameters of a network, with batch norms folded into convolutions.

The names of tensors depend on the code that wrote the file. Their order does not: a kernel, then its bias or the batch
norm after it. So tensors are matched by name if the names are known, otherwise by order and shape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from vdm_jax.tensor_files.stored_tensors import Stored

_ROLES = {
  'scale': ('weight', 'gamma', 'scale'),
  'bias': ('bias', 'beta', 'b'),
  'mean': ('running_mean', 'moving_mean', 'mean'),
  'variance': ('running_var', 'moving_variance', 'variance', 'var'),
}
_STATISTICS = ('running_mean', 'running_var')
_ROLE = {name: role for role, names in _ROLES.items() for name in names}

Path = tuple[str, ...]


class Unit(NamedTuple):
  """A kernel of a file, with the vectors that belong to it."""

  name: str  # of the kernel's tensor, with dots
  kernel: Stored
  vectors: dict[str, Stored]  # by role: 'scale', 'bias', 'mean', 'variance'


def units(tensors: Mapping[str, Stored]) -> list[Unit]:
  """Return the kernels of a file with their vectors, in order.

  Raises:
    ValueError: a vector of a kernel's length is neither a bias nor part of a batch norm, or statistics do not match the
      kernel before them.
  """
  found: list[Unit] = []
  for name, tensor in tensors.items():
    dotted = name.replace('/', '.')
    last = dotted.rpartition('.')[2]
    if len(tensor.shape) >= 2:
      found.append(Unit(dotted, tensor, {}))
    elif found and tensor.shape == found[-1].kernel.shape[:1]:
      role = _ROLE.get(last)
      if role is None or role in found[-1].vectors:
        raise ValueError(f'tensor {name} after {found[-1].name} is neither its bias nor part of its batch norm')
      found[-1].vectors[role] = tensor
    elif last in _STATISTICS:
      raise ValueError(f'tensor {name} has shape {tensor.shape}, which does not match the kernel before it')
  return found


def match(shapes: Mapping[Path, Sequence[int]], theirs: Sequence[Unit]) -> tuple[dict[Path, Unit], str]:
  """Return our layer -> unit of the file, and how they were matched: 'by names' or 'by order and shapes'.

  Args:
    shapes: path -> shape of our parameters, in order.
    theirs: the kernels of the file.

  Raises:
    ValueError: a layer has no match; the message names it and its shape in the file.
  """
  kernels = {path[:-1]: _in_file(shape) for path, shape in shapes.items() if path[-1] == 'kernel'}
  named = {layer: _by_name(layer, theirs) for layer in kernels}
  if all(len(candidates) == 1 for candidates in named.values()):
    matched, how = {layer: unit for layer, (unit,) in named.items()}, 'by names'
  else:
    matched, how, left = {}, 'by order and shapes', list(theirs)
    for layer, shape in kernels.items():
      fits = [i for i, unit in enumerate(left) if unit.kernel.shape == shape]
      if not fits:
        raise ValueError(f'there is no tensor of shape {shape} for its layer {_name(layer)}')
      matched[layer] = left.pop(fits[0])
      _check_block(layer, matched[layer], kernels)
  for layer, unit in matched.items():
    if unit.kernel.shape != kernels[layer]:
      raise ValueError(
        f'tensor {unit.name} has shape {unit.kernel.shape}, but its layer {_name(layer)} has {kernels[layer]}'
      )
  return matched, how


def read(
  shapes: Mapping[Path, Sequence[int]],
  matched: Mapping[Path, Unit],
  epsilon: float = 0.0,
  flattened: Mapping[str, Sequence[int]] | None = None,
) -> dict[Path, np.ndarray]:
  """Return path -> float32 of the parameters of all matched layers.

  Args:
    shapes: path -> shape of our parameters.
    matched: our layer -> unit of the file.
    epsilon: of the batch norms.
    flattened: layer -> shape [c ...] of a linear layer's input in the file, before it is flattened; ours is flattened
      with c last.

  Raises:
    ValueError: a layer has no bias in the file, or values are not finite floats.
  """
  params = {}
  for layer, unit in matched.items():
    kernel = _floats(unit.name, unit.kernel)
    if order := (flattened or {}).get(_name(layer)):
      kernel = np.moveaxis(kernel.reshape(len(kernel), *order), 1, -1).reshape(len(kernel), -1)
    vectors = {role: _floats(unit.name, vector) for role, vector in unit.vectors.items()}
    kernel, bias = fold(unit.name, kernel, vectors, epsilon)
    params[*layer, 'kernel'] = np.ascontiguousarray(np.moveaxis(kernel, (0, 1), (-1, -2)))
    if (*layer, 'bias') in shapes:
      if bias is None:
        raise ValueError(f'tensor {unit.name} has neither a bias nor a batch norm after it')
      params[*layer, 'bias'] = bias
  return params


def fold(
  name: str, kernel: np.ndarray, vectors: Mapping[str, np.ndarray], epsilon: float
) -> tuple[np.ndarray, np.ndarray | None]:
  """Return kernel [o ...] and bias [o] of a convolution with the batch norm after it folded in.

    y = (kernel * x - mean) scale / sqrt(variance + epsilon) + bias

  Without statistics, both are returned unchanged. A missing scale is 1, a missing bias 0.
  """
  if 'mean' not in vectors and 'variance' not in vectors:
    return kernel, vectors.get('bias')
  if 'mean' not in vectors or 'variance' not in vectors or vectors['variance'].min() < 0:
    raise ValueError(f'tensor {name}: its batch norm lacks a mean or a variance, or has a negative variance')
  wide = {role: vector.astype(np.float64) for role, vector in vectors.items()}
  factor = wide.get('scale', 1.0) / np.sqrt(wide['variance'] + epsilon)
  bias = wide.get('bias', 0.0) - wide['mean'] * factor
  kernel = kernel.astype(np.float64) * factor.reshape(-1, *(1,) * (kernel.ndim - 1))
  return kernel.astype(np.float32), bias.astype(np.float32)


def _floats(name: str, tensor: Stored) -> np.ndarray:
  if tensor.kind.kind != 'f' and tensor.kind != ml_dtypes.bfloat16:
    raise ValueError(f'tensor {name} has type {tensor.kind}, but must have floats')
  array = tensor.read().astype(np.float32)
  if not np.isfinite(array).all():
    raise ValueError(f'tensor {name} or its vectors contain NaN or infinity')
  return array


def _in_file(shape: Sequence[int]) -> tuple[int, ...]:
  return (shape[-1], shape[-2], *shape[:-2])


def _name(layer: Path) -> str:
  return '.'.join(part for part in layer if part != 'conv')


def _by_name(layer: Path, theirs: Sequence[Unit]) -> list[Unit]:
  pattern = re.compile(rf'(^|\.){re.escape(_name(layer))}($|[._])', re.IGNORECASE)
  return [unit for unit in theirs if pattern.search(unit.name)]


def _check_block(layer: Path, unit: Unit, kernels: Mapping[Path, Sequence[int]]) -> None:
  # The shapes of a file in another order could match by chance, but nearly all files use the same block names.
  block = layer[0].lower()
  elsewhere = {name[0].lower() for name in kernels} - {block}
  parts = {part.lower() for part in unit.name.split('.')}
  if parts & elsewhere:
    raise ValueError(f'tensor {unit.name} is where layer {_name(layer)} is expected, so the file has another order')
