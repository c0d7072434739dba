"""The factorized space-time U-Net of Video Diffusion Models (Ho et al. 2022, section 3 and appendix A).

Snap Video's U-Nets (Menapace et al. 2024, Table 7) are settings of it, whose pixels attend to the caption's tokens.
Frames are folded into the batch for everything spatial, so all convolutions are 2-D; only temporal attention mixes
frames.
"""

from __future__ import annotations

from typing import NamedTuple

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
)
from vdm_jax.networks.contract import VideoNetwork
from vdm_jax.networks.embeddings import (
  ConditionEmbedding,
  LogsnrEmbedding,
  ScalarEmbedding,
  TextTokens,
  check_low_resolution,
  check_scalars,
  sinusoid_input,
)
from vdm_jax.networks.layers import Conv3x3, GroupNorm, named, zeros_init
from vdm_jax.networks.residual import Downsample, ResidualBlock, Upsample
from vdm_jax.types import Array, Carry, Conditioning

MODULATIONS = ('film', 'add')
RESAMPLES = ('residual', 'conv')
TEXT_CONDITIONINGS = ('pool', 'cross_attention')


class _Context(NamedTuple):
  """What every layer of the trunk may read besides its features."""

  num_video: int  # video frames; the rest are independent images
  segments: Array  # int [f]: 0 for frames of the video, 1, 2, ... for the images
  rows: Array  # int [f]: the row of `embedding` that a frame reads
  embedding: Array  # [b s width], s segments, or frames if they have noise levels of their own, or 1
  text: tuple[Array, Array] | None  # tokens [b s l width] and their validity [b s l]
  train: bool


class UNet3D(VideoNetwork):
  """Factorized space-time U-Net: `(x [b f h w c], logsnr [b] or [b f], cond, carry) -> (output like x, carry)`.

  The carry is returned unchanged. With logsnr `[b f]` every frame reads the embedding of its own noise level. The last
  `n - 1` of the f frames are independent images, where n is the segment axis of `cond` (1 if it has none): they share
  the spatial layers but are excluded from temporal attention, so they and the video cannot influence each other.

  Attributes:
    num_frames: frames of the longest video, without appended images.
    channels: output channels, 3 for RGB.
    base_channels: channels of the first level.
    channel_multipliers: channels of each level, as multiples of `base_channels`; each level halves height and width.
    num_blocks: residual blocks per level.
    attention_resolutions: feature map widths in pixels at which spatial, then temporal attention follow each block.
    head_width: channels per attention head.
    embedding_width: width of the conditioning embedding and its MLP.
    embedding_layers: depth of that MLP.
    dropout: dropout rate within residual blocks.
    modulation: 'film' scales and shifts the second norm by the embedding; 'add' adds the embedding before it (VDM's
      description fits both).
    resample: 'residual' (resampling inside residual blocks) or 'conv' (strided convolution; nearest, then convolution).
    relative_positions: of temporal attention: 'keys_values' and 'keys' add learned vectors per distance (Shaw et al.
      2018), 'bias' a logit per head and distance; or 'none'.
    temporal_everywhere: temporal attention after every block, not only at `attention_resolutions`.
    norm_groups: groups of every group normalization.
    patch_size: each square of p x p pixels becomes the channels of one position at the input, and is restored at the
      output; 1 for none.
    position_embedding: learned vectors per pixel of the first level and per video frame. Relative positions alone also
      teach the order of frames, but later than a small run lasts.
    takes_text, vocabulary_size, text_length: see `ConditionEmbedding`.
    num_classes: number of class labels, for data with `data.labels=True`; 0 for none.
    text_conditioning: 'pool' adds the pooled caption to the embedding (VDM); with 'cross_attention' pixels attend to
      its tokens (`TextTokens`) between spatial and temporal attention (Snap).
    scalars: numbers added to the embedding, names of `embeddings.SCALARS`.
    takes_low_resolution: whether `cond.low_resolution` is concatenated to the channels of x (second stage).
    remat: recompute residual blocks and spatial attention in the backward pass: less memory, about a third more work.
    dtype: compute dtype of the layers, 'float32' or 'bfloat16'; parameters, norms and softmax stay float32.
    attention: implementation of spatial attention, 'xla' or 'cudnn' (fused; NVIDIA GPUs in bfloat16). Temporal
      attention, which is relative, and text attention, which is masked, always use XLA.

  Raises:
    ValueError: a setting is unknown, or x or the condition does not fit the network.

  >>> import jax
  >>> small = {'base_channels': 8, 'channel_multipliers': (1, 2), 'head_width': 8, 'norm_groups': 4}
  >>> network = UNet3D(num_frames=4, attention_resolutions=(4,), embedding_width=16, **small)
  >>> x, logsnr = jnp.zeros((2, 4, 8, 8, 3)), jnp.zeros(2)
  >>> (output, carry), variables = jax.eval_shape(
  ...   network.init_with_output, jax.random.key(0), x, logsnr, Conditioning()
  ... )
  >>> output.shape
  (2, 4, 8, 8, 3)
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

  takes_images = True
  takes_frame_logsnr = True
  remat_choices = (False, True)
  input_kernels = ('stem/kernel',)
  position_tables = ('position_embedding',)
  second_stage_layers = ('augmentation_logsnr',)

  @nn.compact
  def __call__(
    self, x: Array, logsnr: Array, cond: Conditioning, carry: Carry = None, *, train: bool = False
  ) -> tuple[Array, Carry]:
    num_video = self._check(x, logsnr, cond)
    frames, p = x.shape[1], self.patch_size
    segments = jnp.maximum(jnp.arange(frames) - num_video + 1, 0)
    embedding, text = self._embed(logsnr, cond, segments)
    rows = segments if logsnr.ndim == 1 else jnp.arange(frames)
    context = _Context(num_video, segments, rows, embedding, text, train)
    h = self._stem(x, cond, num_video)
    h, skips = self._down(h, context)
    h = self._middle(h, context)
    h = self._up(h, skips, context)
    h = nn.swish(GroupNorm(self.norm_groups, dtype=self.dtype, name='head_norm')(h))
    h = Conv3x3(p * p * self.channels, ('embed', None), kernel_init=zeros_init, dtype=self.dtype, name='head')(h)
    return rearrange(h, '(b f) h w (p q c) -> b f (h p) (w q) c', f=frames, p=p, q=p), carry

  def _stem(self, x: Array, cond: Conditioning, num_video: int) -> Array:
    """Fold patches into channels and frames into the batch: `[b f h w c] -> [(b f) h/p w/p base_channels]`."""
    inputs = [x, cond.low_resolution] if self.takes_low_resolution else [x]
    p = self.patch_size
    inputs = [rearrange(part, 'b f (h p) (w q) c -> (b f) h w (p q c)', p=p, q=p) for part in inputs]
    h = jnp.concatenate(inputs, axis=-1).astype(self.dtype)
    h = Conv3x3(self.base_channels, dtype=self.dtype, name='stem')(h)
    return self._add_positions(h, num_video, x.shape[1]) if self.position_embedding else h

  def _down(self, h: Array, context: _Context) -> tuple[Array, list[Array]]:
    """Run the downsampling path; returns its output and the features that the way up reads."""
    skips = [h]
    for k, multiplier in enumerate(self.channel_multipliers):
      for i in range(self.num_blocks):
        h = self._block(h, context, self.base_channels * multiplier, name=f'down_{k}_{i}')
        h = self._attend(h, context, name=f'down_{k}_{i}')
        skips.append(h)
      if k < len(self.channel_multipliers) - 1:
        h = self._resample(h, context, 'down', name=f'down_{k}_resample')
        skips.append(h)
    return h, skips

  def _middle(self, h: Array, context: _Context) -> Array:
    h = self._block(h, context, h.shape[-1], name='middle_0')
    h = self._attend(h, context, name='middle', everywhere=True)
    return self._block(h, context, h.shape[-1], name='middle_1')

  def _up(self, h: Array, skips: list[Array], context: _Context) -> Array:
    """Run the upsampling path, which consumes the skips from the last to the first."""
    for k, multiplier in reversed(list(enumerate(self.channel_multipliers))):
      for i in range(self.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._block(h, context, self.base_channels * multiplier, name=f'up_{k}_{i}')
        h = self._attend(h, context, name=f'up_{k}_{i}')
      if k > 0:
        h = self._resample(h, context, 'up', name=f'up_{k}_resample')
    return h

  def _block(self, h: Array, context: _Context, features: int, *, name: str, resample: str = 'none') -> Array:
    block = self._rematerialized(ResidualBlock)(
      features=features,
      resample=resample,
      modulation=self.modulation,
      dropout=self.dropout if context.train else 0.0,
      norm_groups=self.norm_groups,
      dtype=self.dtype,
      name=name,
    )
    return block(h, context.embedding, context.rows)

  def _resample(self, h: Array, context: _Context, direction: str, *, name: str) -> Array:
    """Halve ('down') or double ('up') the resolution."""
    if self.resample == 'residual':
      return self._block(h, context, h.shape[-1], name=name, resample=direction)
    return {'down': Downsample, 'up': Upsample}[direction](dtype=self.dtype, name=name)(h)

  def _attend(self, h: Array, context: _Context, *, name: str, everywhere: bool = False) -> Array:
    """Attention among the pixels of a frame, to the caption and in time, where this resolution has it."""
    settings = {'head_width': self.head_width, 'norm_groups': self.norm_groups, 'dtype': self.dtype}
    attends = everywhere or h.shape[2] in self.attention_resolutions
    if attends:
      layer = self._rematerialized(SpatialAttention)
      h = layer(**settings, implementation=self.attention, name=f'{name}_space')(h)
      if context.text is not None:
        tokens, valid = context.text
        h = self._rematerialized(TextAttention)(**settings, name=f'{name}_text')(h, tokens, valid, context.segments)
    if attends or self.temporal_everywhere:
      h = rearrange(h, '(b f) h w c -> b f h w c', f=len(context.segments))
      layer = TemporalAttention(
        num_frames=self.num_frames, relative_positions=self.relative_positions, **settings, name=f'{name}_time'
      )
      h = rearrange(layer(h, context.num_video), 'b f h w c -> (b f) h w c')
    return h

  def _rematerialized(self, kind: type[nn.Module]) -> type[nn.Module]:
    return nn.remat(kind) if self.remat else kind

  def _embed(self, logsnr: Array, cond: Conditioning, segments: Array) -> tuple[Array, tuple[Array, Array] | None]:
    """Return the conditioning embedding `[b s width]` (`_Context`), and the `TextTokens` to attend to, if any."""
    width, batch, text = self.embedding_width, logsnr.shape[0], None
    embedding = LogsnrEmbedding(
      features=self.base_channels, width=width, num_layers=self.embedding_layers, dtype=self.dtype, name='logsnr'
    )(logsnr.reshape(-1)).reshape(batch, -1, width)
    for name in self.scalars:
      layer = ScalarEmbedding(features=self.base_channels, width=width, dtype=self.dtype, name=name)
      embedding += layer(sinusoid_input(cond, name), batch)[:, None]
    captions = {'vocabulary_size': self.vocabulary_size, 'text_length': self.text_length, 'dtype': self.dtype}
    if self.takes_text and self.text_conditioning == 'cross_attention':
      text = TextTokens(width=width, **captions, name='text')(cond, batch)
      cond = cond._replace(text=None)  # not pooled as well
    condition = ConditionEmbedding(
      width=width, takes_text=self.takes_text, num_classes=self.num_classes, **captions, name='condition'
    )(cond)
    if condition is not None and logsnr.ndim == 2:
      condition = condition[:, jnp.minimum(segments, condition.shape[1] - 1)]
    return (embedding if condition is None else embedding + condition), text

  def _add_positions(self, h: Array, num_video: int, frames: int) -> Array:
    """Add learned positions in space, and in time to video frames alone: `[(b f) h w c]`."""
    init = nn.initializers.normal(1.0)
    where = self.param('position_embedding', named(init, None, None, 'embed'), h.shape[1:])
    when = self.param('frame_embedding', named(init, None, 'embed'), (self.num_frames, h.shape[-1]))
    when = jnp.pad(when[:num_video], ((0, frames - num_video), (0, 0)))
    place = (where + when[:, None, None]).astype(h.dtype)
    return (rearrange(h, '(b f) h w c -> b f h w c', f=frames) + place).reshape(h.shape)

  def _check(self, x: Array, logsnr: Array, cond: Conditioning) -> int:
    """Return the number of video frames in x; raises ValueError where settings or sizes do not fit the network."""
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
        f'x has {cond.num_images()} appended images, but a second stage takes none: set data.num_images=0.'
      )
    factor = self.patch_size * 2 ** (len(self.channel_multipliers) - 1)
    frames, height, width = x.shape[1:4]
    if height % factor or width % factor:
      raise ValueError(
        f'frames of {height}x{width} are not divisible by {factor}: patches of {self.patch_size} pixels are halved '
        f'{len(self.channel_multipliers) - 1} times. Make height and width multiples of {factor}.'
      )
    if logsnr.shape not in (x.shape[:1], x.shape[:2]):
      raise ValueError(f'logsnr has shape {logsnr.shape}, but x {x.shape}: give a level per example, or per frame.')
    num_video = frames - cond.num_images()
    if not 1 <= num_video <= self.num_frames:
      raise ValueError(
        f'x has {frames} frames, {cond.num_images()} of them appended images: {num_video} video frames, but the '
        f'network was built for 1 to num_frames={self.num_frames}. Sample longer videos block by block.'
      )
    return num_video
