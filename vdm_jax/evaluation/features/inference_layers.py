"""Layers of the convolutional feature networks, in float32.

There are no batch norms: at inference one is a factor and an offset, which `layer_matching` folds
into the kernel and bias before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array, Params


class Conv(nn.Module):
  """Convolution, bias and ReLU: x [b ... c] -> [b ... features]."""

  features: int
  kernel: Sequence[int]
  strides: int = 1
  padding: str = 'SAME'  # as in TensorFlow: of an odd padding, the extra row is at the end
  relu: bool = True

  @nn.compact
  def __call__(self, x: Array) -> Array:
    strides = (self.strides,) * len(self.kernel)
    x = nn.Conv(self.features, self.kernel, strides, self.padding, precision='highest', name='conv')(x)
    return nn.relu(x) if self.relu else x


def scaled(channels: int, width: float) -> int:
  """Return the channels of a layer in a network `width` times as wide as the published one."""
  return max(1, round(channels * width))


def parameter_shapes(network: nn.Module, shape: Sequence[int]) -> dict[tuple[str, ...], tuple[int, ...]]:
  """Return path -> shape of every parameter, in the order of the computation, for inputs of `shape`."""
  order: dict[tuple[str, ...], tuple[int, ...]] = {}

  def trace(x: Array) -> None:
    tree = network.init(jax.random.key(0), x)['params']

    def visit(node: Any, path: tuple[str, ...]) -> None:
      if hasattr(node, 'shape'):
        order[path] = node.shape
        return
      for name, child in node.items():
        visit(child, (*path, name))

    visit(tree, ())

  jax.eval_shape(trace, jax.ShapeDtypeStruct(tuple(shape), jnp.float32))
  return order


def random_params(shapes: dict[tuple[str, ...], tuple[int, ...]], seed: int) -> dict[tuple[str, ...], np.ndarray]:
  """Return path -> random value: kernels that preserve the variance under ReLU, zero biases.

  Each value depends only on the seed and its path.
  """
  params: dict[tuple[str, ...], Params] = {}
  for path, shape in shapes.items():
    if path[-1] in ('kernel', 'embedding'):
      rng = np.random.default_rng([seed, *'/'.join(path).encode()])
      inputs = np.prod(shape[:-1]) if path[-1] == 'kernel' else shape[-1]
      params[path] = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / inputs))
    else:
      params[path] = np.full(shape, path[-1] == 'scale', np.float32)
  return params
