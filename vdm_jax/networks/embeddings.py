"""Embeddings of what conditions a network: the noise level, the words of a caption, a class label."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vdm_jax.networks.attention import AttentionPool
from vdm_jax.networks.layers import dense, named, sinusoidal
from vdm_jax.types import Array, Conditioning


class LogsnrEmbedding(nn.Module):
  """logsnr `[b]` -> `[b width]`: `features` sinusoids of 1000 u, then `num_layers` dense layers with swish between.

  u = (2 / pi) atan(exp(-logsnr / 2)) in [0, 1] is the cosine schedule's time (VDM section 3; diffusion_distillation).
  """

  features: int
  width: int
  num_layers: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, logsnr: Array) -> Array:
    u = jnp.arctan(jnp.exp(-0.5 * jnp.asarray(logsnr, jnp.float32))) * (2 / jnp.pi)
    h = sinusoidal(1000.0 * u, self.features).astype(self.dtype)
    for i in range(self.num_layers):
      h = dense(self.width, ('embed', 'mlp'), dtype=self.dtype, name=f'dense_{i}')(h if i == 0 else nn.swish(h))
    return h


class WordEncoder(nn.Module):
  """Trainable word vectors plus learned positions: ids int32 `[... l]` -> tokens `[... l width]`, l <= `max_length`."""

  vocabulary_size: int
  max_length: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids: Array) -> Array:
    if ids.shape[-1] > self.max_length:
      raise ValueError(
        f'captions of {ids.shape[-1]} tokens exceed text_length={self.max_length}; raise it or shorten them.'
      )
    init = named(nn.initializers.normal(1.0), None, 'embed')
    words = self.param('embedding', init, (self.vocabulary_size, self.width))
    positions = self.param('position_embedding', init, (self.max_length, self.width))
    return (words[ids] + positions[: ids.shape[-1]]).astype(self.dtype)


class ConditionEmbedding(nn.Module):
  """Text and class label as one vector per segment, `[b n width]`; None when the condition has neither.

  A segment is the video or one appended image. Dropped conditions are zeros (VDM below Eq. 6). Captions arrive as ids
  for a `WordEncoder` (`vocabulary_size > 0`) or as a frozen encoder's embeddings; both are pooled by attention.

  Raises ValueError when a condition arrives that the network was not built for.
  """

  width: int
  takes_text: bool
  vocabulary_size: int = 0
  text_length: int = 0
  num_classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, cond: Conditioning) -> Array | None:
    vectors = []
    if cond.text is not None:
      vectors.append(self._text(cond))
    if cond.label is not None:
      if not self.num_classes:
        raise ValueError(
          'a class label was given to a network without classes: set model.num_classes, or give no label.'
        )
      init = named(nn.initializers.normal(1.0), None, 'embed')
      table = self.param('label_embedding', init, (self.num_classes, self.width))
      vectors.append(table[cond.label].astype(self.dtype))
    if not vectors:
      return None
    total = sum(vectors)
    return total if cond.drop is None else jnp.where(cond.drop[..., None], 0, total)

  def _text(self, cond: Conditioning) -> Array:
    if not self.takes_text:
      raise ValueError('a caption was given to a network without text: set data.text, or give no caption.')
    tokens = cond.text
    mask = jnp.ones(tokens.shape[:3], bool) if cond.text_mask is None else cond.text_mask
    if self.vocabulary_size:
      encoder = WordEncoder(self.vocabulary_size, self.text_length, self.width, dtype=self.dtype, name='words')
      tokens = encoder(tokens)
    return AttentionPool(self.width, dtype=self.dtype, name='pool')(tokens.astype(self.dtype), mask)
