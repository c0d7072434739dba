"""I3D: Inception-v1 with filters inflated to three dimensions (Carreira and Zisserman 2017), for the FVD.

The Fréchet video distance compares its 400 Kinetics logits, averaged over time (Unterthiner et al. 2018).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.evaluation.features.inference_layers import Conv, scaled
from vdm_jax.types import Array

SIZE = 224
MIN_FRAMES = 9  # the last pool spans two time steps of 8 frames
EPSILON = 1e-3  # of its batch norms

# Channels of the branches: 1x1x1; 1x1x1 then 3x3x3; the same again; pool then 1x1x1.
MIXED = {
  '3b': (64, 96, 128, 16, 32, 32),
  '3c': (128, 128, 192, 32, 96, 64),
  '4b': (192, 96, 208, 16, 48, 64),
  '4c': (160, 112, 224, 24, 64, 64),
  '4d': (128, 128, 256, 24, 64, 64),
  '4e': (112, 144, 288, 32, 64, 64),
  '4f': (256, 160, 320, 32, 128, 128),
  '5b': (256, 160, 320, 32, 128, 128),
  '5c': (384, 192, 384, 48, 128, 128),
}
POOLS = {'4b': (3, 2), '5b': (2, 2)}  # window and stride before a block


class Mixed(nn.Module):
  """Four branches, concatenated: x [b t h w c] -> [b t h w k]."""

  channels: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    alone, down1, wide1, down2, wide2, pooled = self.channels
    one, three = (1, 1, 1), (3, 3, 3)
    branch0 = Conv(alone, one, name='b0')(x)
    branch1 = Conv(wide1, three, name='b1b')(Conv(down1, one, name='b1a')(x))
    branch2 = Conv(wide2, three, name='b2b')(Conv(down2, one, name='b2a')(x))
    branch3 = Conv(pooled, one, name='b3b')(nn.max_pool(x, three, padding='SAME'))
    return jnp.concatenate((branch0, branch1, branch2, branch3), axis=-1)


class I3D(nn.Module):
  """Videos to logits, with the output of every block."""

  classes: int = 400
  width: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    """x float32 [b t 224 224 3] in [-1, 1], t >= 9 -> outputs by name; 'logits' [b classes]."""
    channels = [scaled(c, self.width) for c in (64, 64, 192)]
    blocks = {}
    x = blocks['Conv3d_1a'] = Conv(channels[0], (7, 7, 7), 2, name='Conv3d_1a')(x)
    x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), 'SAME')
    x = blocks['Conv3d_2b'] = Conv(channels[1], (1, 1, 1), name='Conv3d_2b')(x)
    x = blocks['Conv3d_2c'] = Conv(channels[2], (3, 3, 3), name='Conv3d_2c')(x)
    x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), 'SAME')
    for name, widths in MIXED.items():
      if name in POOLS:
        window, stride = POOLS[name]
        x = nn.max_pool(x, (window,) * 3, (stride,) * 3, 'SAME')
      block = Mixed(tuple(scaled(c, self.width) for c in widths), name=f'Mixed_{name}')
      x = blocks[f'Mixed_{name}'] = block(x)
    x = nn.avg_pool(x, (2, 7, 7), (1, 1, 1), 'VALID')
    logits = Conv(self.classes, (1, 1, 1), relu=False, name='logits')(x)
    blocks['logits'] = logits.mean((1, 2, 3))
    return blocks
