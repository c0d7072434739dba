"""Pre-norm transformer layers of FIT: cross-attention, self-attention and feed-forward.

All act on the last two axes `[... tokens width]` and are residual. Matrices are Glorot uniform: one that starts at zero
would hardly move under LAMB, whose steps are proportional to the norm of the parameter.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vdm_jax.networks.attention import count_heads
from vdm_jax.networks.layers import Axes, dense, glorot_init, named, zeros_init
from vdm_jax.partitioning import constrain
from vdm_jax.types import Array


def LayerNorm(  # noqa: N802 (reads as the layer that it makes)
  dtype: Any, scale_init: nn.initializers.Initializer = nn.initializers.ones, name: str | None = None
) -> nn.LayerNorm:
  """Return a layer normalization with scale and bias, eps 1e-6, statistics in float32."""
  return nn.LayerNorm(
    epsilon=1e-6,
    dtype=dtype,
    scale_init=named(scale_init, 'embed'),
    bias_init=named(zeros_init, 'embed'),
    use_fast_variance=False,
    name=name,
  )


def linear(features: int | tuple[int, ...], axes: Axes, **settings: Any) -> nn.DenseGeneral:
  """Return a dense layer with bias, Glorot uniform."""
  return dense(features, axes, kernel_init=glorot_init, **settings)


class CrossAttention(nn.Module):
  """`x + Wo attention(Wq LN(x), Wk LN(y), Wv LN(y))`: `[... i c], [... j e] -> [... i c]`, biases everywhere.

  The inner width is the smaller of c and e. `valid`, bool `[... j]`, masks tokens of y; masked attention always uses
  XLA (captions are short).
  """

  head_width: int
  dtype: Any = jnp.float32
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: Array, y: Array, valid: Array | None = None) -> Array:
    inner = min(x.shape[-1], y.shape[-1])
    q, y = LayerNorm(self.dtype, name='norm')(x), LayerNorm(self.dtype, name='norm_other')(y)
    implementation = self.implementation if valid is None else 'xla'
    return x + _attention(
      q,
      y,
      inner_width=inner,
      head_width=self.head_width,
      dtype=self.dtype,
      implementation=implementation,
      valid=valid,
    )


class SelfAttention(nn.Module):
  """`x + Wo attention(Wq h, Wk h, Wv h)` with h = LN(x): `[... i c] -> [... i c]`, biases everywhere."""

  head_width: int
  dtype: Any = jnp.float32
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    h = LayerNorm(self.dtype, name='norm')(x)
    return x + _attention(
      h,
      h,
      inner_width=x.shape[-1],
      head_width=self.head_width,
      dtype=self.dtype,
      implementation=self.implementation,
    )


class FeedForward(nn.Module):
  """`x + W2 dropout(gelu(W1 LN(x)))` with four times the width inside and the exact gelu."""

  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    width = x.shape[-1]
    h = LayerNorm(self.dtype, name='norm')(x)
    h = linear(4 * width, ('embed', 'mlp'), dtype=self.dtype, name='expand')(h)
    h = nn.gelu(h, approximate=False)
    h = nn.Dropout(self.dropout, deterministic=not self.dropout)(h)
    return x + linear(width, ('mlp', 'embed'), dtype=self.dtype, name='contract')(h)


class TransformerLayer(nn.Module):
  """Self-attention, then a feed-forward with dropout: `[... i c] -> [... i c]`."""

  head_width: int
  dropout: float = 0.0
  dtype: Any = jnp.float32
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    attention = SelfAttention(
      head_width=self.head_width, dtype=self.dtype, implementation=self.implementation, name='attention'
    )
    x = constrain(attention(x), 'batch')
    return FeedForward(dropout=self.dropout, dtype=self.dtype, name='feed_forward')(x)


def _attention(
  q: Array,
  y: Array,
  *,
  inner_width: int,
  head_width: int,
  dtype: Any,
  implementation: str,
  valid: Array | None = None,
) -> Array:
  """Multi-head attention of q to y, projected back to the width of q; its parameters belong to the calling module."""
  lead, width, split = q.shape[:-2], q.shape[-1], (count_heads(inner_width, head_width), head_width)
  query, key, value = (
    linear(split, ('embed', 'heads', None), dtype=dtype, name=name)(inputs)
    for name, inputs in (('query', q), ('key', y), ('value', y))
  )
  query, key, value = (h.reshape(-1, *h.shape[-3:]) for h in (query, key, value))
  mask = None if valid is None else valid.reshape(-1, 1, 1, valid.shape[-1])
  # Softmax in float32.
  out = jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)
  out = out.reshape(*lead, *out.shape[-3:])
  return linear(width, ('heads', None, 'embed'), axis=(-2, -1), dtype=dtype, name='out')(out)
