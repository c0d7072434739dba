"""A frozen BERT encoder in Flax, reading Hugging Face's files without PyTorch (Devlin et al. 2018).

VDM conditions on the last hidden states of BERT-large (Ho et al. 2022, section 4.3).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.text.encoders.bert_folder import BertConfig
from vdm_jax.text.encoders.transformer_layers import LayerNorm, attend, precision
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.types import Array


class BertLayer(nn.Module):
  """Self-attention and a two-layer MLP, each followed by the norm of its residual sum (post-LN)."""

  config: BertConfig
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array) -> tuple[Array, None]:
    """x [b l c], mask bool [b l] -> ([b l c], None), as nn.scan wants it."""
    config, heads = self.config, self.config.num_attention_heads
    dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=self.dtype)

    query, key, value = (
      dense(config.hidden_size, name=name)(x).reshape(*x.shape[:2], heads, -1) for name in ('query', 'key', 'value')
    )
    attended = attend(query, key, value, mask, scale=1 / math.sqrt(query.shape[-1]))
    x = norm(name='attention_norm')(x + dense(config.hidden_size, name='attention_output')(attended))
    y = nn.gelu(dense(config.intermediate_size, name='up')(x), approximate=False)
    return norm(name='down_norm')(x + dense(config.hidden_size, name='down')(y)), None


class BertEncoder(nn.Module):
  """Token ids to the last hidden states."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], some True in each row -> float32 [b l c], zero off the mask."""
    config = self.config
    table = functools.partial(nn.Embed, features=config.hidden_size, dtype=self.dtype)
    position = table(config.max_position_embeddings, name='position')(jnp.arange(tokens.shape[1]))
    token_type = table(config.type_vocab_size, name='token_type')(jnp.zeros_like(tokens))
    x = table(config.vocab_size, name='word')(tokens) + position + token_type
    x = LayerNorm(epsilon=config.layer_norm_eps, dtype=self.dtype, name='norm')(x)
    layers = nn.scan(
      BertLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=config.num_hidden_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask)
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32)


class Bert(FrozenEncoder):
  """The text function of a BERT folder: captions to the last hidden states of `[CLS]`, word pieces and `[SEP]`."""

  network = BertEncoder
