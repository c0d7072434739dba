"""Layers shared by all networks, whose parameters carry logical axis names.

The names are those of `vdm_jax.partitioning.RULES`: 'embed' is the width of the residual stream, 'mlp' and 'heads' are
inner widths. Parameters are float32; `dtype` is the compute dtype.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vdm_jax.types import Array

Axes = tuple[str | None, ...]
zeros_init = nn.initializers.zeros_init()
glorot_init = nn.initializers.glorot_uniform()


def named(init: nn.initializers.Initializer, *axes: str | None) -> nn.initializers.Initializer:
  """Return the initializer with one logical axis name per dimension attached to its parameter."""
  return nn.with_logical_partitioning(init, axes)


def dense(
  features: int | Sequence[int],
  axes: Axes,
  *,
  axis: int | Sequence[int] = -1,
  kernel_init: nn.initializers.Initializer | None = None,
  dtype: Any = jnp.float32,
  name: str | None = None,
) -> nn.DenseGeneral:
  """Return a dense layer with bias over `axis`, LeCun normal by default; `axes` names the kernel's dimensions."""
  features = (features,) if isinstance(features, int) else tuple(features)
  return nn.DenseGeneral(
    features,
    axis=axis,
    dtype=dtype,
    kernel_init=named(kernel_init or nn.initializers.lecun_normal(), *axes),
    bias_init=named(zeros_init, *axes[-len(features) :]),
    name=name,
  )


class Conv3x3(nn.Module):
  """3x3 convolution with bias on `[n h w c]`, zero padded to the same size (half of it at stride 2)."""

  features: int
  axes: tuple[str | None, str | None] = ('embed', 'mlp')
  stride: int = 1
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = self.param('kernel', named(self.kernel_init, None, None, *self.axes), (3, 3, x.shape[-1], self.features))
    bias = self.param('bias', named(zeros_init, self.axes[-1]), (self.features,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return _convolve(self.stride, x, kernel) + bias


class GroupNorm(nn.Module):
  """Group normalization of each frame of `[n h w c]` over pixels and channel group, then an affine modulation.

  x is read twice: once for the sums, once to apply normalization, affine and modulation folded into one. Statistics
  are float32 and never span frames, which would mix independent images with the video (VDM's joint training).
  """

  num_groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, scale: Array | float = 0.0, shift: Array | float = 0.0) -> Array:
    """Returns `norm(x) (1 + scale) + shift`; scale and shift are `[n c]` (FiLM) or absent."""
    channels = x.shape[-1]
    if channels % self.num_groups:
      raise ValueError(
        f'{channels} channels are not divisible by norm_groups={self.num_groups}: '
        f'choose a divisor of {channels}, or other widths.'
      )
    gain = self.param('scale', named(nn.initializers.ones_init(), 'embed'), (channels,))
    bias = self.param('bias', named(zeros_init, 'embed'), (channels,))

    y = x.astype(jnp.float32)
    moments = jnp.stack([y.mean((1, 2)), jnp.square(y).mean((1, 2))])  # [2 n c]
    grouped = moments.reshape(*moments.shape[:2], self.num_groups, -1).mean(-1)
    mean, square = jnp.repeat(grouped, channels // self.num_groups, axis=-1)
    inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + 1e-6)
    scale, shift = (jnp.asarray(m, jnp.float32) for m in (scale, shift))  # a bfloat16 1 + scale loses small scales
    a = inverse * gain * (1 + scale)
    b = jnp.broadcast_to(bias * (1 + scale) + shift, mean.shape)
    return ((y - mean[:, None, None]) * a[:, None, None] + b[:, None, None]).astype(self.dtype)


def sinusoidal(position: Array, width: int, max_period: float = 1e4) -> Array:
  """Return `[sin, cos](position f_i)`, f_i = max_period^(-i / (width/2 - 1)): `[...]` -> float32 `[... width]`."""
  half = width // 2
  frequency = jnp.exp(-jnp.log(max_period) * jnp.arange(half) / max(half - 1, 1))
  angle = jnp.asarray(position, jnp.float32)[..., None] * frequency
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _native(stride: int, x: Array, kernel: Array) -> Array:
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _by_example(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
  """Return `function` of a batch `[n ...]` and a kernel with a vmap rule that keeps copies of an example adjacent.

  JAX's own rule puts the whole first copy before the second; a batch that is sharded over devices would have to be
  gathered for that (the two branches of classifier-free guidance).
  """
  mapped = jax.custom_batching.custom_vmap(function)

  @mapped.def_vmap
  def rule(copies: int, batched: Sequence[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
    if not batched[0] or batched[1]:
      return jax.vmap(function, tuple(0 if axis else None for axis in batched))(x, kernel), True
    y = mapped(x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), kernel)
    return y.reshape(-1, copies, *y.shape[1:]).swapaxes(0, 1), True

  return mapped


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(stride: int, x: Array, kernel: Array) -> Array:
  """Return `_native`'s value, with an input gradient that stays fast inside a loop on CPU (guidance in the sampler)."""
  return _by_example(functools.partial(_native, stride))(x, kernel)


def _convolve_forward(stride: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _by_example(functools.partial(_native, stride))(x, kernel), (x, kernel)


def _convolve_backward(stride: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
  x, kernel = residuals

  def native(dy: Array, kernel: Array) -> Array:
    like_x = jax.ShapeDtypeStruct((len(dy), *x.shape[1:]), x.dtype)
    return jax.linear_transpose(lambda x: _native(stride, x, kernel), like_x)(dy)[0]

  def flipped(dy: Array, kernel: Array) -> Array:
    """Input gradient as a forward convolution: the kernel rotated by 180 degrees, channels swapped."""
    return _native(1, dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

  def input_gradient(dy: Array, kernel: Array) -> Array:
    return jax.lax.platform_dependent(dy, kernel, cpu=flipped if stride == 1 else native, default=native)

  dx = _by_example(input_gradient)(dy, kernel)
  (dkernel,) = jax.linear_transpose(lambda kernel: _native(stride, x, kernel), kernel)(dy)
  return dx, dkernel


_convolve.defvjp(_convolve_forward, _convolve_backward)
