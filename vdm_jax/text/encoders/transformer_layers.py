"""What the layers of several frozen encoders compute alike."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm_jax.types import Array


def precision(dtype: Any) -> jax.lax.Precision | None:
  """Returns the precision of a matrix product: float32 means float32, not bfloat16 or TF32 as accelerators like."""
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def attend(
  query: Array, key: Array, value: Array, mask: Array, *, scale: float = 1.0, bias: Array | float = 0.0
) -> Array:
  """Attention over the tokens of a caption, with its softmax in float32.

  query, key, value [b l h d], mask bool [b l], some True in each row, bias float32 [h l l] -> [b l h*d].
  """
  exact = precision(value.dtype)
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, precision=exact, preferred_element_type=jnp.float32)
  logits = jnp.where(mask[:, None, None], logits * scale + bias, -jnp.inf)
  weights = jax.nn.softmax(logits).astype(value.dtype)
  attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value, precision=exact)
  return attended.reshape(*attended.shape[:2], -1)


class LayerNorm(nn.Module):
  """LayerNorm computed in float32, with the two-pass variance."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)
