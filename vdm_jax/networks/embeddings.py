"""Embeddings of everything a network is conditioned on: noise level, scalars, captions and class labels."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vdm_jax.names import choose
from vdm_jax.networks.attention import AttentionPool
from vdm_jax.networks.layers import dense, glorot_init, named, sinusoidal, zeros_init
from vdm_jax.types import Array, Conditioning


def cosine_time(logsnr: Array) -> Array:
  """Return the time of the cosine schedule, u = (2 / pi) atan(exp(-logsnr / 2)) in [0, 1], float32."""
  return jnp.arctan(jnp.exp(-0.5 * jnp.asarray(logsnr, jnp.float32))) * (2 / jnp.pi)


# Scalar fields of a `Conditioning` that a network may read, each with the argument of its sinusoids.
SCALARS = {
  'frame_interval': lambda seconds: 1000.0 * seconds,
  'resolution': lambda pixels: pixels,
  'augmentation_logsnr': lambda logsnr: 1000.0 * cosine_time(logsnr),
}
# Choices for the argument of the sinusoids of FIT's noise level.
NOISE_FEATURES = {
  'log': lambda logsnr: -125.0 * logsnr,  # 1000 times EDM's ln(sigma) / 4, of sigma / alpha
  'log_unscaled': lambda logsnr: -0.125 * logsnr,
  'angle': lambda logsnr: 1000.0 * cosine_time(logsnr),
}


class LogsnrEmbedding(nn.Module):
  """Noise level embedding `[b] -> [b width]`: `features` sinusoids of 1000 u, then dense layers with swish between.

  u is the cosine schedule's time (VDM section 3, as in the code of Salimans & Ho 2022).
  """

  features: int
  width: int
  num_layers: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, logsnr: Array) -> Array:
    h = sinusoidal(1000.0 * cosine_time(logsnr), self.features).astype(self.dtype)
    for i in range(self.num_layers):
      h = dense(self.width, ('embed', 'mlp'), dtype=self.dtype, name=f'dense_{i}')(h if i == 0 else nn.swish(h))
    return h


class ScalarEmbedding(nn.Module):
  """Embedding of one number per example `[b]`, or several `[b k]`, as `[b width]`: sinusoids, dense, swish, dense.

  Several numbers get an equal share of the `features` sinusoids each. Sinusoids are standardized over channels; for
  None, an unknown number, they are zeros.
  """

  features: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, value: Array | None, batch: int) -> Array:
    if value is None:
      h = jnp.zeros((batch, self.features))
    else:
      value = jnp.reshape(value, (batch, -1))
      h = sinusoidal(value, self.features // value.shape[1]).reshape(batch, self.features)
      h = (h - h.mean(-1, keepdims=True)) / (h.std(-1, keepdims=True) + 1e-6)
    layer = functools.partial(dense, self.width, kernel_init=glorot_init, dtype=self.dtype)
    h = layer(('embed', 'mlp'), name='dense_0')(h.astype(self.dtype))
    return layer(('mlp', 'embed'), name='dense_1')(nn.swish(h))


class WordEncoder(nn.Module):
  """Learned word vectors plus learned positions: ids int32 `[... l]` -> tokens `[... l width]`, l <= `max_length`."""

  vocabulary_size: int
  max_length: int
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, ids: Array) -> Array:
    if ids.shape[-1] > self.max_length:
      raise ValueError(
        f'captions of {ids.shape[-1]} tokens exceed text_length={self.max_length}: raise it, or shorten them.'
      )
    init = named(nn.initializers.normal(1.0), None, 'embed')
    words = self.param('embedding', init, (self.vocabulary_size, self.width))
    positions = self.param('position_embedding', init, (self.max_length, self.width))
    return (words[ids] + positions[: ids.shape[-1]]).astype(self.dtype)


class TextTokens(nn.Module):
  """Captions as tokens for cross-attention `[b n l width]`, and their mask, bool `[b n l]`.

  Word ids pass through a `WordEncoder`, then all tokens through a dense layer. The null caption, for a dropped or
  absent text, is one token: the bias of that layer (as in the reference FIT).
  """

  width: int
  vocabulary_size: int = 0
  text_length: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, cond: Conditioning, batch: int) -> tuple[Array, Array]:
    bias = self.param('bias', named(zeros_init, 'embed'), (self.width,)).astype(self.dtype)
    if cond.text is None:
      return jnp.broadcast_to(bias, (batch, 1, 1, self.width)), jnp.ones((batch, 1, 1), bool)
    mask = jnp.ones(cond.text.shape[:3], bool) if cond.text_mask is None else cond.text_mask
    tokens = cond.text
    if self.vocabulary_size:
      tokens = _word_encoder(self)(tokens)
    kernel = self.param('kernel', named(glorot_init, 'mlp', 'embed'), (tokens.shape[-1], self.width))
    if cond.drop is not None:
      drop = jnp.asarray(cond.drop)[..., None]
      tokens = jnp.where(drop[..., None], 0, tokens)
      mask = jnp.where(drop, jnp.arange(mask.shape[-1]) == 0, mask)
    return tokens.astype(self.dtype) @ kernel.astype(self.dtype) + bias, mask


class ConditionTokens(nn.Module):
  """Conditioning tokens of FIT `[b k width]`, and their mask, bool `[b k]` (Snap section 3.4).

  One token for the noise level, one for each of `scalars` (names of SCALARS), one for the class label if the network
  has classes, and those of the caption.
  """

  width: int
  scalars: tuple[str, ...]
  noise_features: str
  takes_text: bool
  vocabulary_size: int = 0
  text_length: int = 0
  num_classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, logsnr: Array, cond: Conditioning) -> tuple[Array, Array]:
    check_conditions(cond, takes_text=self.takes_text, num_classes=self.num_classes)
    batch = logsnr.shape[0]
    numbers = {'logsnr': NOISE_FEATURES[self.noise_features](jnp.asarray(logsnr, jnp.float32))}
    numbers |= {name: sinusoid_input(cond, name) for name in self.scalars}
    layer = functools.partial(ScalarEmbedding, features=self.width // 4, width=self.width, dtype=self.dtype)
    tokens = [layer(name=name)(value, batch)[:, None] for name, value in numbers.items()]
    if self.num_classes:
      init = named(nn.initializers.truncated_normal(0.02), None, 'embed')
      table = self.param('label_embedding', init, (self.num_classes, self.width)).astype(self.dtype)
      label = jnp.zeros((batch, 1, self.width), self.dtype) if cond.label is None else table[cond.label]
      tokens.append(label if cond.drop is None else jnp.where(jnp.asarray(cond.drop)[..., None], 0, label))
    mask = jnp.ones((batch, len(tokens)), bool)
    if self.takes_text:
      text, valid = TextTokens(
        width=self.width,
        vocabulary_size=self.vocabulary_size,
        text_length=self.text_length,
        dtype=self.dtype,
        name='text',
      )(cond, batch)
      tokens.append(text[:, 0])
      mask = jnp.concatenate([mask, valid[:, 0]], axis=1)
    return jnp.concatenate(tokens, axis=1), mask


def _word_encoder(module: Any) -> WordEncoder:
  """Return the `WordEncoder` of a module that reads captions; its parameters belong to the calling module."""
  return WordEncoder(
    vocabulary_size=module.vocabulary_size,
    max_length=module.text_length,
    width=module.width,
    dtype=module.dtype,
    name='words',
  )


def sinusoid_input(cond: Conditioning, name: str) -> Array | None:
  """Return the argument of the sinusoids of a scalar in SCALARS; None if the condition does not have it."""
  value = getattr(cond, name)
  return None if value is None else SCALARS[name](jnp.asarray(value, jnp.float32))


def check_conditions(cond: Conditioning, *, takes_text: bool, num_classes: int) -> None:
  """Raise ValueError if the condition has a label or caption that the network was not built for."""
  if cond.label is not None and not num_classes:
    raise ValueError('a class label was given to a network without classes: set model.num_classes, or give no label.')
  if cond.text is not None and not takes_text:
    raise ValueError('a caption was given to a network without text: set data.text, or give no caption.')


def check_scalars(names: tuple[str, ...]) -> None:
  """Raise ValueError for a name that is not in SCALARS."""
  for name in names:
    choose('model.scalars', name, SCALARS)


def check_low_resolution(cond: Conditioning, takes: bool) -> None:
  """Raise ValueError if a low-resolution video is given to a network that takes none, or missing for one that does."""
  if cond.low_resolution is None and takes:
    raise ValueError('this network needs a low-resolution video, as model.upsampling is above 1: give one.')
  if cond.low_resolution is not None and not takes:
    raise ValueError('this network takes no low-resolution video, as model.upsampling is 1: leave it out.')


class ConditionEmbedding(nn.Module):
  """Embedding of text and class label, one vector per segment `[b n width]`; None if the condition has neither.

  A segment is the video or one appended image. Dropped conditions are zeros (VDM, below Eq. 6). Captions arrive as ids
  for a `WordEncoder` (`vocabulary_size > 0`) or as a frozen encoder's embeddings; both are pooled by attention.

  Raises:
    ValueError: the condition has a label or caption that the network was not built for.
  """

  width: int
  takes_text: bool
  vocabulary_size: int = 0
  text_length: int = 0
  num_classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, cond: Conditioning) -> Array | None:
    check_conditions(cond, takes_text=self.takes_text, num_classes=self.num_classes)
    vectors = []
    if cond.text is not None:
      vectors.append(self._text(cond))
    if cond.label is not None:
      init = named(nn.initializers.normal(1.0), None, 'embed')
      table = self.param('label_embedding', init, (self.num_classes, self.width))
      vectors.append(table[cond.label].astype(self.dtype))
    if not vectors:
      return None
    total = sum(vectors)
    return total if cond.drop is None else jnp.where(cond.drop[..., None], 0, total)

  def _text(self, cond: Conditioning) -> Array:
    tokens = cond.text
    mask = jnp.ones(tokens.shape[:3], bool) if cond.text_mask is None else cond.text_mask
    if self.vocabulary_size:
      tokens = _word_encoder(self)(tokens)
    return AttentionPool(width=self.width, dtype=self.dtype, name='pool')(tokens.astype(self.dtype), mask)
