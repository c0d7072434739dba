"""A frozen CLIP text encoder in Flax, reading Hugging Face's files without PyTorch (Radford et al. 2021)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.text.encoders.clip_folder import PROJECTION, ClipConfig
from vdm_jax.text.encoders.encoder_folder import CONFIG
from vdm_jax.text.encoders.transformer_layers import LayerNorm, attend, precision
from vdm_jax.text.encoders.weight_files import open_weights
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.types import Array


class ClipLayer(nn.Module):
  """Self-attention and an MLP, each before it is added to the residual stream behind a norm (pre-LN).

  Both towers are stacks of it; `config` is a ClipConfig or has the same fields of a tower of images.
  """

  config: Any
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array, bias: Array) -> tuple[Array, None]:
    """x float32 [b l c], mask bool [b l], bias [1 l l] -> (float32 [b l c], None), as nn.scan wants it."""
    config, heads = self.config, self.config.num_attention_heads
    dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=self.dtype)

    y = norm(name='attention_norm')(x)
    query, key, value = (
      dense(config.hidden_size, name=name)(y).reshape(*x.shape[:2], heads, -1) for name in ('query', 'key', 'value')
    )
    attended = attend(query, key, value, mask, scale=1 / math.sqrt(query.shape[-1]), bias=bias)
    x = x + dense(config.hidden_size, name='attention_output')(attended)

    up = dense(config.intermediate_size, name='up')(norm(name='up_norm')(x))
    up = up * nn.sigmoid(1.702 * up) if config.hidden_act == 'quick_gelu' else nn.gelu(up, approximate=False)
    return x + dense(config.hidden_size, name='down')(up), None


class ClipEncoder(nn.Module):
  """Token ids to the last hidden states, behind the last norm; the residual stream is float32."""

  config: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], the first of each row True -> float32 [b l c], zero off the mask."""
    config, length = self.config, tokens.shape[1]
    position = nn.Embed(config.max_position_embeddings, config.hidden_size, name='position')(jnp.arange(length))
    x = nn.Embed(config.vocab_size, config.hidden_size, name='token')(tokens).astype(jnp.float32) + position
    causal = jnp.where(jnp.tri(length, dtype=bool), 0.0, -jnp.inf)[None]
    layers = nn.scan(
      ClipLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=config.num_hidden_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask, causal)
    x = LayerNorm(epsilon=config.layer_norm_eps, dtype=jnp.float32, name='norm')(x)
    return jnp.where(mask[..., None], x, 0)


def end(ids: np.ndarray, config: ClipConfig) -> np.ndarray:
  """Returns where a caption's hidden states are pooled, int [b], for token ids [b l]: at its first token of the end.

  Configurations from before that token was told mean the largest number by it.
  """
  return np.argmax(ids if config.ends_with_the_largest else ids == config.eos_token_id, axis=1)


class Clip(FrozenEncoder):
  """The text function of a CLIP folder: captions to the last hidden states of `<|startoftext|>`, pieces and end."""

  network = ClipEncoder

  def project(self, captions: Sequence[str]) -> np.ndarray:
    """Returns one embedding of each caption in the space CLIP shares with images, float32 [n d], not normalised.

    Raises ValueError where the folder has the text encoder without its projection.
    """
    hidden, mask = self(captions)
    ids = np.zeros(mask.shape, np.int32)
    for row, caption in zip(ids, captions, strict=True):
      read = self.ids(caption)
      row[: len(read)] = read
    pooled = hidden[np.arange(len(ids)), end(ids, self.config)]
    return pooled @ self._projection.T

  @functools.cached_property
  def _projection(self) -> np.ndarray:
    """float32 [d c]."""
    with open_weights(self.path, self.published.family.todays_name) as weights:
      if PROJECTION not in weights:
        raise ValueError(
          f'{self.path} has no tensor {PROJECTION}: its weights are of a text encoder without the projection to the '
          f'space of images; take them from {self.published.repository}'
        )
      projection = weights[PROJECTION].read().astype(np.float32)
    shape = (self.config.projection_dim, self.config.hidden_size)
    if projection.shape != shape:
      raise ValueError(f'{self.path}: tensor {PROJECTION} has shape {projection.shape}, {CONFIG} asks for {shape}')
    return projection
