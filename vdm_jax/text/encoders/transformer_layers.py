"""Transformer layers that several frozen encoders share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vdm_jax.types import Array

# Hugging Face's names of activations, as published encoders have them in config.json.
_TANH_GELU = functools.partial(nn.gelu, approximate=True)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'gelu': functools.partial(nn.gelu, approximate=False),
  'gelu_python': functools.partial(nn.gelu, approximate=False),
  'gelu_new': _TANH_GELU,
  'gelu_fast': _TANH_GELU,
  'gelu_pytorch_tanh': _TANH_GELU,
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),
  'relu': nn.relu,
  'silu': nn.silu,
  'swish': nn.silu,
}


def check_activation(setting: str, name: Any) -> None:
  """Raise ValueError unless `name`, the value of `setting` in config.json, is one of ACTIVATIONS."""
  if name not in ACTIVATIONS:
    raise ValueError(f'{setting}={name!r} is not supported, only {", ".join(ACTIVATIONS)}')


def precision(dtype: Any) -> jax.lax.Precision | None:
  """Return the precision of matrix products: true float32 for float32, not an accelerator's bfloat16 or TF32."""
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def attend(
  query: Array, key: Array, value: Array, mask: Array, *, scale: float = 1.0, bias: Array | float = 0.0
) -> Array:
  """Attention over the tokens of a caption, with the softmax in float32.

  Args:
    query: [b l h d], as are `key` and `value`.
    key: see `query`.
    value: see `query`.
    mask: bool [b l], the tokens to attend to; at least one per row.
    scale: multiplies the logits.
    bias: added to the scaled logits, float32 [h l l].

  Returns:
    [b l h*d] in the type of `value`.
  """
  exact = precision(value.dtype)
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, precision=exact, preferred_element_type=jnp.float32)
  logits = jnp.where(mask[:, None, None], logits * scale + bias, -jnp.inf)
  weights = jax.nn.softmax(logits).astype(value.dtype)
  attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value, precision=exact)
  return attended.reshape(*attended.shape[:2], -1)


class LayerNorm(nn.Module):
  """LayerNorm computed in float32 with the two-pass variance."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    centered = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    return (centered * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)
