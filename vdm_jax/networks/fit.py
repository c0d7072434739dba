"""FIT, the far-reaching interleaved transformer of Snap Video (Menapace et al. 2024, section 3.4 and appendix A).

A video is cut into patch tokens, and these into groups. A small set of latent tokens reads from the condition and,
group by group, from the patches; the large layers run among the latents alone; then every group reads back from its
latents. Blocks are repeated by one scan, so that compile time and program size do not grow with depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from vdm_jax.names import choose
from vdm_jax.networks.attention import check_attention
from vdm_jax.networks.contract import VideoNetwork
from vdm_jax.networks.embeddings import NOISE_FEATURES, ConditionTokens, check_low_resolution, check_scalars
from vdm_jax.networks.fit_block import Block, scanned, transformer_layers
from vdm_jax.networks.layers import named
from vdm_jax.networks.patches import Layout, divide, main_effect, make_layout, regroup
from vdm_jax.networks.transformer import FeedForward, LayerNorm, linear
from vdm_jax.partitioning import constrain
from vdm_jax.types import Array, Carry, Conditioning

POSITIONS = ('token', 'group', 'axial')
CONDITION_READS = ('before', 'after')
REMAT = ('none', 'tokens', 'block')


class FIT(VideoNetwork):
  """Far-reaching interleaved transformer: `(x [b t h w c], logsnr [b], cond, carry) -> (output like x, carry)`.

  The carry is the latents `[b num_latents latent_width]` of an earlier evaluation (self-conditioning); None equals
  zeros. Images are videos of one repeated frame at frame interval 0; there are no appended images. The noise level is a
  token that all latents read, and a group holds patches of several frames: frames share a level.

  Attributes:
    num_frames: frames of the video; its size is fixed.
    height, width: of the video, in pixels.
    channels: of the video, 3 for RGB.
    patch_size: frames, rows and columns of a patch. Snap: one frame each.
    group_size: patches of a group over the same axes. Snap: all frames.
    patch_width: channels of patch tokens.
    latent_width: channels of latent tokens.
    condition_width: channels of condition tokens.
    num_latents: latent tokens, shared equally among the groups.
    num_blocks: blocks, each of which reads from the patches, runs its layers, and writes back.
    num_global_layers: layers among all latents in each block.
    num_local_layers: layers among the patches of a group, before every read and once after the last write (vanilla
      FIT; Snap has none).
    patch_head_width: channels per head of cross-attention and local attention.
    latent_head_width: channels per head of the global layers.
    cross_feed_forward: a feed-forward after each cross-attention (Snap's replacement for local layers).
    condition_read: the condition is read 'before' the patches (Snap, as RIN), or 'after' (vanilla FIT).
    self_conditioning: whether latents are carried from one evaluation to the next.
    positions: learned positions, one per 'token', one per token of a 'group', or 'axial', a sum over the three axes.
    init_std: standard deviation of positions and latents at initialization. The reference's 0.02 is small against what
      they are added to until training has raised it; with 1 the network uses positions sooner, which small runs need.
    noise_features: argument of the noise level's sinusoids: 'log' (1000 times EDM's c_noise), 'log_unscaled' (EDM's
      c_noise), or 'angle' (1000 times the time of the cosine schedule).
    scalars: scalars the network is conditioned on, names of `embeddings.SCALARS`.
    dropout: dropout rate within the feed-forwards that follow self-attention.
    takes_text, vocabulary_size, text_length: see `ConditionTokens`.
    num_classes: number of class labels, for data with `data.labels=True`; 0 for none.
    takes_low_resolution: whether `cond.low_resolution` is concatenated to the channels of x (second stage).
    remat: what the backward pass recomputes: 'none', 'tokens' (everything as wide as the patches: most of the memory at
      high resolution), or 'block' (everything but the inputs of blocks).
    dtype: compute dtype of the layers, 'float32' or 'bfloat16'; parameters, norms and softmax stay float32.
    attention: implementation of attention among latents and patches, 'xla' or 'cudnn' (fused; NVIDIA GPUs in bfloat16).
      Attention to the condition, which is masked, always uses XLA.

  Raises:
    ValueError: sizes do not divide (the message has the nearest ones that do), a setting is unknown, or x or the
      condition does not fit the network.

  >>> import jax
  >>> widths = {'patch_width': 16, 'latent_width': 16, 'condition_width': 16}
  >>> heads = {'patch_head_width': 8, 'latent_head_width': 8}
  >>> network = FIT(num_frames=4, height=8, width=8, group_size=(4, 1, 2), num_latents=8, **widths, **heads)
  >>> network.layout().groups
  (1, 2, 1)
  >>> x, logsnr = jnp.zeros((2, 4, 8, 8, 3)), jnp.zeros(2)
  >>> (output, carry), variables = jax.eval_shape(
  ...   network.init_with_output, jax.random.key(0), x, logsnr, Conditioning()
  ... )
  >>> output.shape, carry.shape
  ((2, 4, 8, 8, 3), (2, 8, 16))
  """

  num_frames: int
  height: int
  width: int
  channels: int = 3
  patch_size: tuple[int, int, int] = (1, 4, 4)
  group_size: tuple[int, int, int] = (16, 5, 4)
  patch_width: int = 768
  latent_width: int = 1024
  condition_width: int = 768
  num_latents: int = 512
  num_blocks: int = 6
  num_global_layers: int = 4
  num_local_layers: int = 0
  patch_head_width: int = 48
  latent_head_width: int = 64
  cross_feed_forward: bool = True
  condition_read: str = 'before'
  self_conditioning: bool = True
  positions: str = 'token'
  init_std: float = 0.02
  noise_features: str = 'log'
  scalars: tuple[str, ...] = ('frame_interval', 'resolution')
  dropout: float = 0.0
  takes_text: bool = False
  vocabulary_size: int = 0
  text_length: int = 0
  num_classes: int = 0
  takes_low_resolution: bool = False
  remat: str = 'none'
  dtype: str = 'float32'
  attention: str = 'xla'

  remat_choices = REMAT
  input_kernels = ('patch/kernel',)
  position_tables = (
    'position_embedding',
    'frame_position_embedding',
    'row_position_embedding',
    'column_position_embedding',
  )
  second_stage_layers = ('condition/augmentation_logsnr',)
  stage_invariants = ('noise_features',)

  @nn.compact
  def __call__(
    self, x: Array, logsnr: Array, cond: Conditioning, carry: Carry = None, *, train: bool = False
  ) -> tuple[Array, Carry]:
    layout = self.layout()
    self._check(x, logsnr, cond)
    condition, valid = self._condition(logsnr, cond)
    # The compiler may otherwise gather the batch where the same devices split parameters and batch.
    condition = constrain(condition, 'batch')
    tokens = constrain(self._tokens(x, cond, layout), 'batch')
    latents = constrain(self._latents(carry, x.shape[0]), 'batch')

    dropout = self.dropout if train else 0.0
    (tokens, latents), _ = self._blocks(dropout)((tokens, latents), condition, valid)
    if self.num_local_layers:
      tokens = transformer_layers(
        self.num_local_layers,
        head_width=self.patch_head_width,
        dropout=dropout,
        dtype=self.dtype,
        implementation=self.attention,
        remat=self.remat != 'none',
        name='final_layers',
      )(tokens)

    tokens = LayerNorm(self.dtype, name='head_norm')(layout.join(tokens))
    size = math.prod(self.patch_size) * self.channels
    out = linear(size, ('embed', None), dtype=self.dtype, name='head')(tokens)
    return layout.unpatchify(out), latents if self.self_conditioning else carry

  def starting_rules(self, first: VideoNetwork) -> dict[str, Callable[[Mapping[str, Array]], Array]]:
    """Return how latents and axial positions start from a first stage, see `VideoNetwork.starting_rules`.

    Latents belong to groups. Where a second stage divides those of the first, they go to the groups at the same place;
    in the order in which they are stored, a part of them only would. Axial tables start from the means of a table of
    tokens, resampled along their axis.
    """
    rules = {}
    if not isinstance(first, FIT):
      return rules
    groups, finer = first.layout().groups, self.layout().groups
    if groups != finer and not any(fine % coarse for fine, coarse in zip(finer, groups, strict=True)):
      rules['latents'] = lambda tensors: regroup(tensors['latents'], groups, finer)
    if (first.positions, self.positions) == ('token', 'axial'):
      for axis, name in enumerate(('frame', 'row', 'column')):
        shape = (self.layout().grid[axis], self.patch_width)
        rules[f'{name}_position_embedding'] = lambda tensors, axis=axis, shape=shape: jax.image.resize(
          main_effect(tensors['position_embedding'], axis), shape, 'linear'
        )
    return rules

  def layout(self) -> Layout:
    """Return how the video is cut; raises ValueError if sizes do not divide or a setting is unknown."""
    layout = make_layout((self.num_frames, self.height, self.width), self.patch_size, self.group_size)
    arithmetic = ' x '.join(map(str, layout.groups))
    divide('model.num_latents', self.num_latents, f'{arithmetic} groups', math.prod(layout.groups))
    # A quarter of the width are sinusoids, of which two numbers share sine and cosine.
    divide('model.condition_width', self.condition_width, 'parts of its sinusoids', 16)
    divide('model.latent_width', self.latent_width, 'model.latent_head_width', self.latent_head_width)
    for name in ('patch_width', 'condition_width'):
      inner = min(getattr(self, name), self.latent_width)
      divide(f'min(model.{name}, model.latent_width)', inner, 'model.patch_head_width', self.patch_head_width)
    for name, least in (('num_blocks', 1), ('num_global_layers', 1), ('num_local_layers', 0)):
      if getattr(self, name) < least:
        raise ValueError(f'model.{name}={getattr(self, name)} must be {least} or more.')
    for name, allowed in (
      ('positions', POSITIONS),
      ('condition_read', CONDITION_READS),
      ('remat', REMAT),
      ('noise_features', tuple(NOISE_FEATURES)),
    ):
      choose(f'model.{name}', getattr(self, name), allowed)
    check_scalars(self.scalars)
    return layout

  def _condition(self, logsnr: Array, cond: Conditioning) -> tuple[Array, Array]:
    return ConditionTokens(
      width=self.condition_width,
      scalars=self.scalars,
      noise_features=self.noise_features,
      takes_text=self.takes_text,
      vocabulary_size=self.vocabulary_size,
      text_length=self.text_length,
      num_classes=self.num_classes,
      dtype=self.dtype,
      name='condition',
    )(logsnr, cond)

  def _blocks(self, dropout: float) -> nn.Module:
    block = nn.remat(Block, prevent_cse=False) if self.remat == 'block' else Block
    return scanned(block, self.num_blocks, num_inputs=2)(
      num_global_layers=self.num_global_layers,
      num_local_layers=self.num_local_layers,
      patch_head_width=self.patch_head_width,
      latent_head_width=self.latent_head_width,
      cross_feed_forward=self.cross_feed_forward,
      condition_read=self.condition_read,
      dropout=dropout,
      remat=self.remat,
      dtype=self.dtype,
      attention=self.attention,
      name='blocks',
    )

  def _tokens(self, x: Array, cond: Conditioning, layout: Layout) -> Array:
    """Return the embedded patches with their positions, in groups: `[b groups tokens d]`."""
    inputs = [x, cond.low_resolution] if self.takes_low_resolution else [x]
    patches = jnp.concatenate([layout.patchify(part) for part in inputs], axis=-1).astype(self.dtype)
    tokens = linear(self.patch_width, (None, 'embed'), dtype=self.dtype, name='patch')(patches)
    tokens = LayerNorm(self.dtype, name='patch_norm')(tokens)

    init = nn.initializers.truncated_normal(self.init_std)

    def table(name: str, *shape: int) -> Array:
      axes = (None,) * len(shape) + ('embed',)
      return self.param(f'{name}_embedding', named(init, *axes), (*shape, self.patch_width)).astype(self.dtype)

    if self.positions == 'group':
      return layout.split(tokens) + rearrange(table('position', *layout.group), 't h w d -> (t h w) d')
    if self.positions == 'token':
      return layout.split(tokens + table('position', *layout.grid))
    t, h, w = layout.grid
    frames, rows, columns = table('frame_position', t), table('row_position', h), table('column_position', w)
    return layout.split(tokens + frames[:, None, None] + rows[:, None] + columns)

  def _latents(self, carry: Carry, batch: int) -> Array:
    """Return the learned latents plus a projection of the previous evaluation's: `[b num_latents latent_width]`."""
    init = named(nn.initializers.truncated_normal(self.init_std), None, 'embed')
    latents = self.param('latents', init, (self.num_latents, self.latent_width))
    latents = jnp.broadcast_to(latents.astype(self.dtype), (batch, *latents.shape))
    if not self.self_conditioning:
      return latents
    previous = jnp.zeros_like(latents) if carry is None else jnp.asarray(carry, self.dtype)
    previous = FeedForward(dtype=self.dtype, name='self_condition')(previous)
    # The scale starts at zero: a new network does not depend on its carry.
    return latents + LayerNorm(self.dtype, nn.initializers.zeros, name='self_condition_norm')(previous)

  def _check(self, x: Array, logsnr: Array, cond: Conditioning) -> None:
    """Raise ValueError if x or the condition does not fit the network."""
    if cond.num_images():
      raise ValueError(
        f'x has {cond.num_images()} appended images, but FIT takes none, as its groups would mix them with the video: '
        'set data.num_images=0, and data.image_rate to train on images as videos.'
      )
    if logsnr.shape != x.shape[:1]:
      raise ValueError(
        f'logsnr has shape {logsnr.shape}, but FIT reads one noise level per video, as a token that all its latents '
        "share: give [b]. For levels of single frames set model.network='unet3d'."
      )
    expected = (self.num_frames, self.height, self.width)
    if x.shape[1:4] != expected:
      raise ValueError(
        f'x has {x.shape[1]} frames of {x.shape[2]}x{x.shape[3]}, but FIT was built for {expected[0]} of '
        f'{expected[1]}x{expected[2]}: its positions are learned. Sample longer videos block by block.'
      )
    check_low_resolution(cond, self.takes_low_resolution)
    check_attention(self.attention, self.dtype)
