"""Attention layers of the factorized U-Net: among the pixels of a frame, among frames, and to a caption."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from vdm_jax.names import choose
from vdm_jax.networks.layers import GroupNorm, dense, named, zeros_init
from vdm_jax.types import Array

ATTENTIONS = ('xla', 'cudnn')
RELATIVE_POSITIONS = ('keys_values', 'keys', 'bias', 'none')


class SpatialAttention(nn.Module):
  """Residual self-attention among the pixels of each frame `[n h w c]`, without a feed-forward (VDM section 3)."""

  head_width: int
  norm_groups: int
  dtype: Any = jnp.float32
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: Array) -> Array:
    heads = count_heads(x.shape[-1], self.head_width)
    h = rearrange(GroupNorm(self.norm_groups, dtype=self.dtype, name='norm')(x), 'n h w c -> n (h w) c')
    qkv = dense((3, heads, self.head_width), ('embed', None, 'heads', None), dtype=self.dtype, name='qkv')(h)
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    if self.implementation == 'xla':
      h = _attend(q, k, v)
    else:
      h = jax.nn.dot_product_attention(q, k, v, implementation=self.implementation)
    return x + _project(x.shape[-1], self.dtype)(h).reshape(x.shape)


class TemporalAttention(nn.Module):
  """Residual self-attention among the video frames of each pixel: `[b f h w c] -> [b f h w c]` (VDM section 3).

  The first `num_video` frames attend to each other. The rest are independent images: their attention matrix is the
  identity, so only the value and output projections act on them (joint training, VDM section 4.3.1).

  Attributes:
    num_frames: frames T of the longest video; the relative tables have 2T - 1 rows.
    relative_positions: 'keys_values' (Shaw et al. 2018: k_j + r_K[j-i] and v_j + r_V[j-i]), 'keys' (the first of these
      alone), 'bias' (one logit per head and distance) or 'none'.
  """

  num_frames: int
  head_width: int
  norm_groups: int
  relative_positions: str = 'keys_values'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, num_video: int) -> Array:
    heads = count_heads(x.shape[-1], self.head_width)
    frames = x.shape[1]
    h = GroupNorm(self.norm_groups, dtype=self.dtype, name='norm')(rearrange(x, 'b f h w c -> (b f) h w c'))
    h = rearrange(h, '(b f) h w c -> b f (h w) c', f=frames)
    qkv = dense((3, heads, self.head_width), ('embed', None, 'heads', None), dtype=self.dtype, name='qkv')(h)
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    key_table, value_table, bias = self._relative(heads, num_video)

    logits = jnp.einsum('bipnd,bjpnd->bpnij', q[:, :num_video], k[:, :num_video])
    if key_table is not None:
      logits += jnp.einsum('bipnd,ijd->bpnij', q[:, :num_video], key_table)
    logits = logits.astype(jnp.float32) * self.head_width**-0.5 + bias
    attention = nn.softmax(logits).astype(self.dtype)
    out = jnp.einsum('bpnij,bjpnd->bipnd', attention, v[:, :num_video])
    images = v[:, num_video:]
    if value_table is not None:
      out += jnp.einsum('bpnij,ijd->bipnd', attention, value_table)
      images = images + value_table[0, 0]
    h = jnp.concatenate([out, images], axis=1)
    return x + _project(x.shape[-1], self.dtype)(h).reshape(x.shape)

  def _relative(self, heads: int, num_video: int) -> tuple[Array | None, Array | None, Array | float]:
    """Return r_K and r_V gathered to `[i j d]`, and the bias to `[n i j]`, by the distance `j - i`."""
    rows = 2 * self.num_frames - 1
    distance = jnp.arange(num_video) - jnp.arange(num_video)[:, None] + self.num_frames - 1

    def table(name: str) -> Array:
      # As large as the keys and values they are added to: with small tables frames t - 1 and t + 1 long look alike.
      values = self.param(name, named(nn.initializers.normal(1.0), None, None), (rows, self.head_width))
      return values[distance].astype(self.dtype)

    if self.relative_positions == 'keys_values':
      return table('relative_keys'), table('relative_values'), 0.0
    if self.relative_positions == 'keys':
      return table('relative_keys'), None, 0.0
    if self.relative_positions == 'bias':
      bias = self.param('relative_bias', named(nn.initializers.normal(1.0), None, 'heads'), (rows, heads))
      return None, None, jnp.moveaxis(bias[distance], -1, 0)
    return None, None, 0.0


class TextAttention(nn.Module):
  """Residual attention of the pixels of each frame `[n h w c]`, n = b f, to its segment's caption (Snap's U-Nets).

  Captions are tokens `[b s l e]` with a mask `valid`, bool `[b s l]`, for each of s segments; `segments` `[f]` is the
  segment of each frame. Every caption must have a valid token.
  """

  head_width: int
  norm_groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, tokens: Array, valid: Array, segments: Array) -> Array:
    split = (count_heads(x.shape[-1], self.head_width), self.head_width)
    h = rearrange(GroupNorm(self.norm_groups, dtype=self.dtype, name='norm')(x), 'n h w c -> n (h w) c')
    q = dense(split, ('embed', 'heads', None), dtype=self.dtype, name='query')(h)
    kv = dense((2, *split), ('embed', None, 'heads', None), dtype=self.dtype, name='key_value')(tokens)
    kv, valid = per_frame(kv, segments), per_frame(valid, segments)
    h = _attend(q, kv[..., 0, :, :], kv[..., 1, :, :], valid)
    return x + _project(x.shape[-1], self.dtype)(h).reshape(x.shape)


class AttentionPool(nn.Module):
  """Attention pooling of tokens `[... l c]` to `[... width]`, with their mean as the query.

  Zeros where the mask, bool `[... l]`, has no valid token. VDM section 4.3 leaves the form of pooling open.
  """

  width: int
  heads: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    if self.width % self.heads:
      raise ValueError(
        f'embedding_width={self.width} is not divisible by {self.heads} heads: choose a multiple of {self.heads}.'
      )
    valid = mask[..., None]
    mean = jnp.where(valid, tokens, 0).sum(-2) / jnp.maximum(valid.sum(-2), 1)
    split = (self.heads, self.width // self.heads)
    q, k, v = (
      dense(split, ('embed', 'heads', None), dtype=self.dtype, name=name)(inputs)
      for name, inputs in (('query', mean), ('key', tokens), ('value', tokens))
    )
    logits = jnp.einsum('...nd,...lnd->...nl', q, k).astype(jnp.float32) * split[1] ** -0.5
    attention = nn.softmax(jnp.where(mask[..., None, :], logits, -1e30)).astype(self.dtype)
    pooled = jnp.einsum('...nl,...lnd->...nd', attention, v)
    out = dense(self.width, ('heads', None, 'embed'), axis=(-2, -1), dtype=self.dtype, name='out')(pooled)
    return jnp.where(mask.any(-1, keepdims=True), out, 0)


def check_attention(implementation: str, dtype: str) -> None:
  """Raise ValueError unless the implementation is one of ATTENTIONS and runs on this machine in this dtype."""
  choose('model.attention', implementation, ATTENTIONS)
  if implementation == 'xla':
    return
  if dtype != 'bfloat16':
    raise ValueError(
      f'model.attention={implementation!r} requires bfloat16, but model.dtype={dtype!r}: set '
      '--config.model.dtype=bfloat16, or --config.model.attention=xla.'
    )
  if (where := jax.default_backend()) != 'gpu' or 'rocm' in jax.devices()[0].client.platform_version:
    where = where if where != 'gpu' else 'a GPU by another vendor'
    raise ValueError(
      f'model.attention={implementation!r} needs an NVIDIA GPU, but JAX runs on {where} here: set '
      '--config.model.attention=xla.'
    )


def count_heads(channels: int, head_width: int) -> int:
  """Return channels / head_width; raises ValueError with the valid widths if it does not divide."""
  if channels % head_width:
    fits = [width for width in range(1, channels + 1) if channels % width == 0]
    raise ValueError(f'{channels} channels are not divisible by head_width={head_width}: choose one of {fits}.')
  return channels // head_width


def per_frame(values: Array, segments: Array) -> Array:
  """Return for each frame the values of its segment: values `[b s ...]`, segments `[f]` -> `[(b f) ...]`.

  With s = 1 all frames share the one value.
  """
  values = jnp.asarray(values)[:, jnp.minimum(segments, values.shape[1] - 1)]
  return values.reshape(-1, *values.shape[2:])


def _attend(q: Array, k: Array, v: Array, valid: Array | None = None) -> Array:
  """Return `softmax(q k^T / sqrt(d)) v` per head: `[n i h d]` and twice `[n j h d]` -> `[n i h d]`; softmax in float32.

  Keys are masked by `valid` `[n j]`, at least one valid key for each n. The division by the softmax's sum comes last:
  it costs i d divisions instead of i j, and there are more pixels than channels.
  """
  logits = jnp.einsum('nihd,njhd->nhij', q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  if valid is not None:
    logits = jnp.where(valid[:, None, None], logits, -1e30)
  # The maximum cancels in the quotient, so it needs no gradient.
  weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
  total = jnp.moveaxis(weights.sum(-1), 1, 2)[..., None]
  return (jnp.einsum('nhij,njhd->nihd', weights.astype(v.dtype), v) / total).astype(v.dtype)


def _project(channels: int, dtype: Any) -> nn.DenseGeneral:
  """Return the zero-initialized projection from `[... heads width]` to the residual stream."""
  return dense(channels, ('heads', None, 'embed'), axis=(-2, -1), kernel_init=zeros_init, dtype=dtype, name='out')
