"""A frozen T5 encoder in Flax, reading Hugging Face's files without PyTorch (Raffel et al. 2020).

Snap Video conditions on the last hidden states of T5-11B (Menapace et al. 2024).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.text.encoders.t5_folder import T5Config
from vdm_jax.text.encoders.transformer_layers import attend, precision
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.types import Array


class T5Layer(nn.Module):
  """Self-attention and an MLP, each before it is added to the residual stream behind an RMS norm (pre-LN)."""

  config: T5Config
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array, bias: Array) -> tuple[Array, None]:
    """x float32 [b l c], mask bool [b l], bias [h l l] -> (float32 [b l c], None), as nn.scan wants it."""
    config = self.config
    dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(_RMSNorm, epsilon=config.layer_norm_epsilon, dtype=self.dtype)

    y = norm(name='attention_norm')(x)
    query, key, value = (
      dense(config.num_heads * config.d_kv, name=name)(y).reshape(*x.shape[:2], config.num_heads, config.d_kv)
      for name in ('query', 'key', 'value')
    )
    # No 1/sqrt(d): T5 has it in the weights.
    x = x + dense(config.d_model, name='attention_output')(attend(query, key, value, mask, bias=bias))

    y = norm(name='up_norm')(x)
    up = dense(config.d_ff, name='up')(y)
    up = up * nn.gelu(dense(config.d_ff, name='gate')(y), approximate=True) if config.gated else nn.relu(up)
    return x + dense(config.d_model, name='down')(up), None


class T5Encoder(nn.Module):
  """Token ids to the last hidden states; the residual stream is float32, for T5's grows large."""

  config: T5Config
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], some True in each row -> float32 [b l c], zero off the mask."""
    config = self.config
    buckets = relative_buckets(
      tokens.shape[1], config.relative_attention_num_buckets, config.relative_attention_max_distance
    )
    bias = nn.Embed(config.relative_attention_num_buckets, config.num_heads, name='relative')(buckets)
    bias = jnp.moveaxis(bias.astype(jnp.float32), -1, 0)
    x = nn.Embed(config.vocab_size, config.d_model, name='word')(tokens).astype(jnp.float32)
    layers = nn.scan(
      T5Layer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=config.num_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask, bias)
    x = _RMSNorm(epsilon=config.layer_norm_epsilon, dtype=jnp.float32, name='norm')(x)
    return jnp.where(mask[..., None], x, 0)


class _RMSNorm(nn.Module):
  """Division by the root mean square, in float32; no mean is taken off and no bias added."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
    return (x * scale).astype(self.dtype)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
  """Returns the bucket, int32 [l l], of the distance from query (row) to key (column) (section 2.1).

  Half of the buckets are for keys after the query. In each half the first half of the buckets holds one
  distance each; the others hold ranges whose bounds grow geometrically up to `max_distance`, the last one also
  all beyond.
  """
  half = buckets // 2
  exact = half // 2
  ranges = half - exact
  # Range k starts at exact * (max_distance / exact)^(k / ranges). Both sides are raised to the power `ranges`,
  # for in integers no rounding moves a distance that lies on the bound.
  bounds = [exact ** (ranges - k) * max_distance**k for k in range(1, ranges)]

  def bucket(distance: int) -> int:
    far = abs(distance)
    near = far if far < exact else exact + sum(far**ranges >= bound for bound in bounds)
    return near + half * (distance > 0)

  table = np.array([bucket(distance) for distance in range(1 - length, length)], np.int32)
  position = np.arange(length)
  return table[position - position[:, None] + length - 1]


class T5(FrozenEncoder):
  """The text function of a T5 folder: captions to the last hidden states of their word pieces and of `</s>`."""

  network = T5Encoder
