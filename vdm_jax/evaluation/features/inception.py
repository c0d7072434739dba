"""InceptionV3 as used for FID (Heusel et al. 2017): the graph of 2015-12-05, from which later releases differ.

Its average pools exclude padding, its last block has a max pool instead of an average pool, and it has 1008 classes.
Layer names are torchvision's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.evaluation.features.inference_layers import Conv, scaled
from vdm_jax.types import Array

SIZE = 299
EPSILON = 1e-3  # of its batch norms

STEM = (
  {'Conv2d_1a_3x3': (32, 3, 2, 'VALID'), 'Conv2d_2a_3x3': (32, 3, 1, 'VALID'), 'Conv2d_2b_3x3': (64, 3, 1, 'SAME')},
  {'Conv2d_3b_1x1': (80, 1, 1, 'VALID'), 'Conv2d_4a_3x3': (192, 3, 1, 'VALID')},
)
ROW, COLUMN = (1, 7), (7, 1)


class Inception(nn.Module):
  """Images to features and logits, with the output of every block.

  The logits have no bias: the original code of the Inception Score multiplies by the last layer's kernel only
  (Salimans et al. 2016).
  """

  classes: int = 1008
  width: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    """x float32 [b 299 299 3], (byte - 128)/128 -> outputs by name; 'pool' [b 2048], 'logits' [b classes]."""
    blocks = {}
    for group in STEM:
      for name, (channels, kernel, strides, padding) in group.items():
        x = Conv(scaled(channels, self.width), (kernel,) * 2, strides, padding, name=name)(x)
        blocks[name] = x
      x = nn.max_pool(x, (3, 3), (2, 2))
    for name, block, arguments in BLOCKS:
      x = blocks[name] = block(self.width, *arguments, name=name)(x)
    x = blocks['pool'] = x.mean((1, 2))
    blocks['logits'] = nn.Dense(self.classes, use_bias=False, precision='highest', name='fc')(x)
    return blocks


def _layers(width: float) -> Callable[..., Array]:
  """Return the function that adds a layer to the block being traced."""

  def conv(x: Array, name: str, channels: int, kernel: Any = (1, 1), strides: int = 1) -> Array:
    kernel = (kernel,) * 2 if isinstance(kernel, int) else kernel
    return Conv(scaled(channels, width), kernel, strides, 'VALID' if strides > 1 else 'SAME', name=name)(x)

  return conv


def _average(x: Array) -> Array:
  return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=False)


class BlockA(nn.Module):
  """1x1, 5x5, two 3x3 and a pool: x [b h w c] -> [b h w k]."""

  width: float
  pooled: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = _layers(self.width)
    alone = conv(x, 'branch1x1', 64)
    five = conv(conv(x, 'branch5x5_1', 48), 'branch5x5_2', 64, 5)
    double = conv(conv(x, 'branch3x3dbl_1', 64), 'branch3x3dbl_2', 96, 3)
    double = conv(double, 'branch3x3dbl_3', 96, 3)
    return jnp.concatenate((alone, five, double, conv(_average(x), 'branch_pool', self.pooled)), -1)


class BlockB(nn.Module):
  """Halves height and width: x [b h w c] -> [b h/2 w/2 k]."""

  width: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = _layers(self.width)
    three = conv(x, 'branch3x3', 384, 3, 2)
    double = conv(conv(x, 'branch3x3dbl_1', 64), 'branch3x3dbl_2', 96, 3)
    double = conv(double, 'branch3x3dbl_3', 96, 3, 2)
    return jnp.concatenate((three, double, nn.max_pool(x, (3, 3), (2, 2))), -1)


class BlockC(nn.Module):
  """1x1, chains of 1x7 and 7x1, and a pool: x [b h w c] -> [b h w k]."""

  width: float
  inner: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = _layers(self.width)
    alone = conv(x, 'branch1x1', 192)
    seven = conv(conv(x, 'branch7x7_1', self.inner), 'branch7x7_2', self.inner, ROW)
    seven = conv(seven, 'branch7x7_3', 192, COLUMN)
    double = conv(conv(x, 'branch7x7dbl_1', self.inner), 'branch7x7dbl_2', self.inner, COLUMN)
    double = conv(conv(double, 'branch7x7dbl_3', self.inner, ROW), 'branch7x7dbl_4', self.inner, COLUMN)
    double = conv(double, 'branch7x7dbl_5', 192, ROW)
    return jnp.concatenate((alone, seven, double, conv(_average(x), 'branch_pool', 192)), -1)


class BlockD(nn.Module):
  """Halves height and width: x [b h w c] -> [b h/2 w/2 k]."""

  width: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = _layers(self.width)
    three = conv(conv(x, 'branch3x3_1', 192), 'branch3x3_2', 320, 3, 2)
    seven = conv(conv(x, 'branch7x7x3_1', 192), 'branch7x7x3_2', 192, ROW)
    seven = conv(conv(seven, 'branch7x7x3_3', 192, COLUMN), 'branch7x7x3_4', 192, 3, 2)
    return jnp.concatenate((three, seven, nn.max_pool(x, (3, 3), (2, 2))), -1)


class BlockE(nn.Module):
  """1x1, two branches that fork into 1x3 and 3x1, and a pool: x [b h w c] -> [b h w k]."""

  width: float
  max_pool: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = _layers(self.width)
    alone = conv(x, 'branch1x1', 320)
    three = conv(x, 'branch3x3_1', 384)
    three = [conv(three, 'branch3x3_2a', 384, (1, 3)), conv(three, 'branch3x3_2b', 384, (3, 1))]
    double = conv(conv(x, 'branch3x3dbl_1', 448), 'branch3x3dbl_2', 384, 3)
    double = [conv(double, 'branch3x3dbl_3a', 384, (1, 3)), conv(double, 'branch3x3dbl_3b', 384, (3, 1))]
    pooled = nn.max_pool(x, (3, 3), padding='SAME') if self.max_pool else _average(x)
    return jnp.concatenate((alone, *three, *double, conv(pooled, 'branch_pool', 192)), -1)


BLOCKS = (
  ('Mixed_5b', BlockA, (32,)),
  ('Mixed_5c', BlockA, (64,)),
  ('Mixed_5d', BlockA, (64,)),
  ('Mixed_6a', BlockB, ()),
  ('Mixed_6b', BlockC, (128,)),
  ('Mixed_6c', BlockC, (160,)),
  ('Mixed_6d', BlockC, (160,)),
  ('Mixed_6e', BlockC, (192,)),
  ('Mixed_7a', BlockD, ()),
  ('Mixed_7b', BlockE, (False,)),
  ('Mixed_7c', BlockE, (True,)),
)
