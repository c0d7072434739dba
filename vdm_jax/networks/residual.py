"""The convolutions of the factorized U-Net: residual blocks and changes of resolution."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from vdm_jax.networks.attention import per_frame
from vdm_jax.networks.layers import Conv3x3, GroupNorm, dense, zeros_init
from vdm_jax.types import Array


class ResidualBlock(nn.Module):
  """norm, swish, [resample], convolution, modulation, swish, dropout, convolution; plus a shortcut.

  x `[n h w c]` with n = b f frames, embedding `[b s width]`, segments `[f]` -> `[n h' w' features]`. The second
  convolution is initialized to zero, so a new block equals its shortcut.
  """

  features: int
  resample: str
  modulation: str
  dropout: float
  norm_groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, embedding: Array, segments: Array) -> Array:
    resample = {'none': lambda h: h, 'down': average_pool, 'up': nearest}[self.resample]
    film = self.modulation == 'film'
    width = self.features * (2 if film else 1)
    modulation = dense(width, ('embed', 'mlp'), dtype=self.dtype, name='modulation')(nn.swish(embedding))
    modulation = per_frame(modulation, segments)

    h = nn.swish(GroupNorm(self.norm_groups, dtype=self.dtype, name='norm_0')(x))
    h = Conv3x3(self.features, dtype=self.dtype, name='conv_0')(resample(h))
    norm = GroupNorm(self.norm_groups, dtype=self.dtype, name='norm_1')
    h = norm(h, *jnp.split(modulation, 2, axis=-1)) if film else norm(h + modulation[:, None, None])
    h = nn.Dropout(self.dropout, deterministic=not self.dropout)(nn.swish(h))
    h = Conv3x3(self.features, ('mlp', 'embed'), kernel_init=zeros_init, dtype=self.dtype, name='conv_1')(h)

    x = resample(x)
    if x.shape[-1] != self.features:
      x = dense(self.features, ('embed', 'mlp'), dtype=self.dtype, name='shortcut')(x)
    return x + h


class Downsample(nn.Module):
  """A 3x3 convolution of stride 2 on `[n h w c]` that keeps the width."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv3x3(x.shape[-1], stride=2, dtype=self.dtype, name='conv')(x)


class Upsample(nn.Module):
  """Nearest-neighbor doubling, then a 3x3 convolution, on `[n h w c]`; keeps the width."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv3x3(x.shape[-1], dtype=self.dtype, name='conv')(nearest(x))


def average_pool(x: Array) -> Array:
  """Return the mean of each 2x2 square: `[n 2h 2w c] -> [n h w c]`."""
  return rearrange(x, 'n (h p) (w q) c -> n h p w q c', p=2, q=2).mean((2, 4))


def nearest(x: Array) -> Array:
  """Repeat every pixel twice along both axes: `[n h w c] -> [n 2h 2w c]`."""
  n, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
