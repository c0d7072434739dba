"""The factorized space-time U-Net of Video Diffusion Models (Ho et al. 2022, section 3 and appendix A).

Snap Video's U-Nets (Menapace et al. 2024, table 7) are settings of it: its pixels attend to the caption's tokens.
Frames are folded into the batch for everything spatial, so all convolutions are 2-D; time is mixed by temporal
attention alone.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from vdm_jax.names import choose
from vdm_jax.networks.attention import (
  RELATIVE_POSITIONS,
  SpatialAttention,
  TemporalAttention,
  TextAttention,
  check_attention,
  of_frames,
)
from vdm_jax.networks.embeddings import (
  ConditionEmbedding,
  LogsnrEmbedding,
  ScalarEmbedding,
  TextTokens,
  check_low_resolution,
  check_scalars,
  scalar,
)
from vdm_jax.networks.layers import Conv3x3, GroupNorm, dense, named, zeros_init
from vdm_jax.types import Array, Carry, Conditioning

MODULATIONS = ('film', 'add')
RESAMPLES = ('residual', 'conv')
TEXT_CONDITIONINGS = ('pool', 'cross_attention')


class UNet3D(nn.Module):
  """`(x [b f h w c], logsnr [b], cond, carry) -> (output like x, carry)`; the carry passes through unused.

  The last `n - 1` of the f frames are independent images, where n is the segment axis of `cond` (1 when it has none):
  they share the spatial layers and take no part in temporal attention, so they and the video cannot influence each
  other.

  Attributes:
    num_frames: frames of the longest video, without appended images.
    channels: of the output, 3 for RGB.
    base_channels, channel_multipliers, num_blocks: width, width per level, residual blocks per level.
    attention_resolutions: feature widths in pixels at which spatial, then temporal attention follow each block.
    head_width: channels per attention head.
    embedding_width, embedding_layers: of the conditioning embedding's MLP.
    dropout: within residual blocks.
    modulation: 'film' scales and shifts the second norm by the embedding; 'add' adds it before (VDM's words fit both).
    resample: 'residual' (resampling inside residual blocks) or 'conv' (strided convolution; nearest, then convolution).
    relative_positions: of temporal attention, see `TemporalAttention`.
    temporal_everywhere: temporal attention after every block, not only at `attention_resolutions`.
    norm_groups: groups of every group normalisation.
    patch_size: pixels of a p x p square become channels first, and are put back last (1: none).
    position_embedding: learned vectors per pixel of the first level and per video frame; relative positions alone teach
      the order of frames too, but late, and small runs are over by then.
    takes_text, vocabulary_size, text_length, num_classes: see `ConditionEmbedding`.
    text_conditioning: 'pool' adds the caption, pooled, to the embedding (VDM); with 'cross_attention' pixels attend to
      its tokens, see `TextTokens`, between spatial and temporal attention (Snap).
    scalars: further numbers that are added to the embedding, names of `embeddings.SCALARS`.
    takes_low_resolution: whether `cond.low_resolution` is stacked on the channels of x (the second stage).
    remat: recompute residual blocks and attention within frames in the backward pass: less memory, about a third more
      work.
    dtype: what layers compute in, 'float32' or 'bfloat16'; parameters, norms and softmax stay float32.
    attention: what computes attention among the pixels of a frame, 'xla' or 'cudnn' (fused; NVIDIA GPUs in bfloat16).
      Attention in time, which is relative, and to captions, which are masked, is left to XLA.
  """

  num_frames: int
  channels: int = 3
  base_channels: int = 128
  channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
  num_blocks: int = 2
  attention_resolutions: tuple[int, ...] = (8, 16, 32)
  head_width: int = 64
  embedding_width: int = 1024
  embedding_layers: int = 4
  dropout: float = 0.0
  modulation: str = 'film'
  resample: str = 'residual'
  relative_positions: str = 'keys_values'
  temporal_everywhere: bool = False
  norm_groups: int = 32
  patch_size: int = 1
  position_embedding: bool = False
  takes_text: bool = False
  vocabulary_size: int = 0
  text_length: int = 0
  num_classes: int = 0
  text_conditioning: str = 'pool'
  scalars: tuple[str, ...] = ()
  takes_low_resolution: bool = False
  remat: bool = False
  dtype: str = 'float32'
  attention: str = 'xla'

  @nn.compact
  def __call__(
    self, x: Array, logsnr: Array, cond: Conditioning, carry: Carry = None, *, train: bool = False
  ) -> tuple[Array, Carry]:
    num_video = self._check(x, cond)
    frames, p = x.shape[1], self.patch_size
    segments = jnp.maximum(jnp.arange(frames) - num_video + 1, 0)  # 0 is the video, then each image has its own
    embedding, text = self._embed(logsnr, cond)

    def spatial(kind: type[nn.Module]) -> type[nn.Module]:
      return nn.remat(kind) if self.remat else kind

    def block(h: Array, features: int, name: str, resample: str = 'none') -> Array:
      return spatial(ResidualBlock)(
        features, resample, self.modulation, self.dropout if train else 0.0, self.norm_groups, self.dtype, name=name
      )(h, embedding, segments)

    def resample(h: Array, name: str, way: str) -> Array:
      if self.resample == 'residual':
        return block(h, h.shape[-1], name, way)
      return {'down': Downsample, 'up': Upsample}[way](self.dtype, name=name)(h)

    def attend(h: Array, name: str, listed: bool | None = None) -> Array:
      listed = h.shape[2] in self.attention_resolutions if listed is None else listed
      settings = (self.head_width, self.norm_groups)
      if listed:
        h = spatial(SpatialAttention)(*settings, self.dtype, self.attention, name=f'{name}_space')(h)
        if text is not None:
          h = spatial(TextAttention)(*settings, self.dtype, name=f'{name}_text')(h, *text, segments)
      if listed or self.temporal_everywhere:
        h = rearrange(h, '(b f) h w c -> b f h w c', f=frames)
        h = TemporalAttention(self.num_frames, *settings, self.relative_positions, self.dtype, name=f'{name}_time')(
          h, num_video
        )
        h = rearrange(h, 'b f h w c -> (b f) h w c')
      return h

    inputs = [x, cond.low_resolution] if self.takes_low_resolution else [x]
    inputs = [rearrange(part, 'b f (h p) (w q) c -> (b f) h w (p q c)', p=p, q=p) for part in inputs]
    h = jnp.concatenate(inputs, axis=-1).astype(self.dtype)
    h = Conv3x3(self.base_channels, dtype=self.dtype, name='stem')(h)
    if self.position_embedding:
      h = self._place(h, num_video, frames)

    skips = [h]
    levels = list(enumerate(self.channel_multipliers))
    for k, multiplier in levels:
      for i in range(self.num_blocks):
        h = attend(block(h, self.base_channels * multiplier, f'down_{k}_{i}'), f'down_{k}_{i}')
        skips.append(h)
      if k < len(levels) - 1:
        h = resample(h, f'down_{k}_resample', 'down')
        skips.append(h)

    h = block(h, h.shape[-1], 'middle_0')
    h = attend(h, 'middle', listed=True)
    h = block(h, h.shape[-1], 'middle_1')

    for k, multiplier in reversed(levels):
      for i in range(self.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = attend(block(h, self.base_channels * multiplier, f'up_{k}_{i}'), f'up_{k}_{i}')
      if k > 0:
        h = resample(h, f'up_{k}_resample', 'up')

    h = nn.swish(GroupNorm(self.norm_groups, self.dtype, name='head_norm')(h))
    h = Conv3x3(p * p * self.channels, ('embed', None), kernel_init=zeros_init, dtype=self.dtype, name='head')(h)
    return rearrange(h, '(b f) h w (p q c) -> b f (h p) (w q) c', f=frames, p=p, q=p), carry

  def _embed(self, logsnr: Array, cond: Conditioning) -> tuple[Array, tuple[Array, Array] | None]:
    """The conditioning embedding, `[b n width]` or one for all segments, and the `TextTokens` to attend to, if any."""
    width, batch, text = self.embedding_width, logsnr.shape[0], None
    embedding = LogsnrEmbedding(self.base_channels, width, self.embedding_layers, self.dtype, name='logsnr')(logsnr)
    for name in self.scalars:
      embedding += ScalarEmbedding(self.base_channels, width, self.dtype, name=name)(scalar(cond, name), batch)
    if self.takes_text and self.text_conditioning == 'cross_attention':
      text = TextTokens(width, self.vocabulary_size, self.text_length, self.dtype, name='text')(cond, batch)
      cond = cond._replace(text=None)  # not pooled as well
    condition = ConditionEmbedding(
      width, self.takes_text, self.vocabulary_size, self.text_length, self.num_classes, self.dtype, name='condition'
    )(cond)
    embedding = embedding[:, None]
    return (embedding if condition is None else embedding + condition), text

  def _place(self, h: Array, num_video: int, frames: int) -> Array:
    """Adds where each pixel is, and when: `[(b f) h w c]`. Appended images have no place in time."""
    init = nn.initializers.normal(1.0)
    where = self.param('position_embedding', named(init, None, None, 'embed'), h.shape[1:])
    when = self.param('frame_embedding', named(init, None, 'embed'), (self.num_frames, h.shape[-1]))
    when = jnp.pad(when[:num_video], ((0, frames - num_video), (0, 0)))
    place = (where + when[:, None, None]).astype(h.dtype)
    return (rearrange(h, '(b f) h w c -> b f h w c', f=frames) + place).reshape(h.shape)

  def _check(self, x: Array, cond: Conditioning) -> int:
    """The number of video frames in x; raises ValueError where sizes do not fit the network."""
    for name, allowed in (
      ('modulation', MODULATIONS),
      ('resample', RESAMPLES),
      ('relative_positions', RELATIVE_POSITIONS),
      ('text_conditioning', TEXT_CONDITIONINGS),
    ):
      choose(f'model.{name}', getattr(self, name), allowed)
    check_scalars(self.scalars)
    check_attention(self.attention, self.dtype)
    check_low_resolution(cond, self.takes_low_resolution)
    if self.takes_low_resolution and cond.num_images():
      raise ValueError(
        f'{cond.num_images()} appended images were given with a low-resolution video, which has none: set '
        'data.num_images=0.'
      )
    factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
    frames, height, width = x.shape[1:4]
    if height % factor or width % factor:
      raise ValueError(
        f'frames of {height}x{width} do not halve {len(self.channel_multipliers) - 1} times in patches of '
        f'{self.patch_size}: height and width must be multiples of {factor}.'
      )
    num_video = frames - cond.num_images()
    if not 1 <= num_video <= self.num_frames:
      raise ValueError(
        f'x has {frames} frames, {cond.num_images()} of them appended images: {num_video} video frames, but the '
        f'network was built for 1 to num_frames={self.num_frames}. Sample longer videos block by block.'
      )
    return num_video


class ResidualBlock(nn.Module):
  """norm, swish, [resample], convolve, modulate by the embedding, swish, dropout, convolve; plus a shortcut.

  x `[n h w c]` with n = b f frames, embedding `[b s width]`, segments `[f]` -> `[n h' w' features]`. The second
  convolution starts at zero, so a block starts as its shortcut.
  """

  features: int
  resample: str
  modulation: str
  dropout: float
  norm_groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, embedding: Array, segments: Array) -> Array:
    resample = {'none': lambda h: h, 'down': average_pool, 'up': nearest}[self.resample]
    film = self.modulation == 'film'
    width = self.features * (2 if film else 1)
    modulation = dense(width, ('embed', 'mlp'), dtype=self.dtype, name='modulation')(nn.swish(embedding))
    modulation = of_frames(modulation, segments)

    h = nn.swish(GroupNorm(self.norm_groups, self.dtype, name='norm_0')(x))
    h = Conv3x3(self.features, dtype=self.dtype, name='conv_0')(resample(h))
    norm = GroupNorm(self.norm_groups, self.dtype, name='norm_1')
    h = norm(h, *jnp.split(modulation, 2, axis=-1)) if film else norm(h + modulation[:, None, None])
    h = nn.Dropout(self.dropout, deterministic=not self.dropout)(nn.swish(h))
    h = Conv3x3(self.features, ('mlp', 'embed'), kernel_init=zeros_init, dtype=self.dtype, name='conv_1')(h)

    x = resample(x)
    if x.shape[-1] != self.features:
      x = dense(self.features, ('embed', 'mlp'), dtype=self.dtype, name='shortcut')(x)
    return x + h


class Downsample(nn.Module):
  """A 3x3 convolution of stride 2 on `[n h w c]`, width kept."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv3x3(x.shape[-1], stride=2, dtype=self.dtype, name='conv')(x)


class Upsample(nn.Module):
  """Nearest-neighbour doubling, then a 3x3 convolution, on `[n h w c]`, width kept."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return Conv3x3(x.shape[-1], dtype=self.dtype, name='conv')(nearest(x))


def average_pool(x: Array) -> Array:
  """`[n 2h 2w c] -> [n h w c]`, the mean of each 2x2 square."""
  return rearrange(x, 'n (h p) (w q) c -> n h p w q c', p=2, q=2).mean((2, 4))


def nearest(x: Array) -> Array:
  """`[n h w c] -> [n 2h 2w c]`, every pixel twice each way."""
  n, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)
