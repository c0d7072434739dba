"""FIT, the far-reaching interleaved transformer of Snap Video (Menapace et al. 2024, section 3.4 and appendix A).

A video is cut into patch tokens, and these into groups. A small set of latent tokens reads from the condition and,
group by group, from the patches; the large layers run among the latents alone; then every group writes back. Blocks
repeat this under one scan, so that neither compile time nor the program's size grows with depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from vdm_jax.names import choose
from vdm_jax.networks.attention import check_attention
from vdm_jax.networks.embeddings import NOISE_FEATURES, ConditionTokens, check_low_resolution, check_scalars
from vdm_jax.networks.layers import named
from vdm_jax.networks.transformer import CrossAttention, FeedForward, LayerNorm, TransformerLayer, linear
from vdm_jax.partitioning import constrain
from vdm_jax.types import Array, Carry, Conditioning

POSITIONS = ('token', 'group', 'axial')
CONDITION_READS = ('before', 'after')
REMAT = ('none', 'tokens', 'block')


class Layout(NamedTuple):
  """How a video becomes groups of tokens; every triple runs over time, rows and columns."""

  patch: tuple[int, int, int]  # pixels of a patch
  group: tuple[int, int, int]  # tokens of a group
  groups: tuple[int, int, int]  # groups of a video

  @property
  def grid(self) -> tuple[int, ...]:
    """Tokens of a video along each axis."""
    return tuple(n * g for n, g in zip(self.groups, self.group, strict=True))

  def patchify(self, x: Array) -> Array:
    """`[b t h w c]` -> tokens on the grid, `[b T H W patch * c]`."""
    p, q, r = self.patch
    return rearrange(x, 'b (t p) (h q) (w r) c -> b t h w (p q r c)', p=p, q=q, r=r)

  def unpatchify(self, tokens: Array) -> Array:
    """The inverse of `patchify`."""
    p, q, r = self.patch
    return rearrange(tokens, 'b t h w (p q r c) -> b (t p) (h q) (w r) c', p=p, q=q, r=r)

  def split(self, tokens: Array) -> Array:
    """The grid cut into contiguous blocks: `[b T H W d]` -> `[b groups tokens d]`."""
    (t, h, w), (i, j, k) = self.group, self.groups
    return rearrange(tokens, 'b (i t) (j h) (k w) d -> b (i j k) (t h w) d', i=i, j=j, k=k, t=t, h=h, w=w)

  def join(self, groups: Array) -> Array:
    """The inverse of `split`."""
    (t, h, w), (i, j, k) = self.group, self.groups
    return rearrange(groups, 'b (i j k) (t h w) d -> b (i t) (j h) (k w) d', i=i, j=j, k=k, t=t, h=h, w=w)


class FIT(nn.Module):
  """`(x [b t h w c], logsnr [b], cond, carry) -> (output like x, carry)`.

  The carry is the latents `[b num_latents latent_width]` of an earlier evaluation (self-conditioning); None equals
  zeros. Images are videos of one repeated frame at frame interval 0: there are no appended images.

  Attributes:
    num_frames, height, width, channels: of the video; all are fixed.
    patch_size: pixels of a patch over time, rows and columns. Snap: one frame each.
    group_size: tokens of a group over the same axes. Snap: all frames.
    patch_width, latent_width, condition_width: channels of patch, latent and condition tokens.
    num_latents: over all groups, each of which has an equal share.
    num_blocks, num_global_layers, num_local_layers: blocks; layers among all latents in each; layers among the patches
      of a group, before every read and once after the last write (vanilla FIT; Snap has none).
    patch_head_width, latent_head_width: channels per head of cross and local attention, and of global layers.
    cross_feed_forward: a feed-forward after each cross attention (Snap's replacement for local layers).
    condition_read: 'before' the patches are read (Snap, after RIN), or 'after' (vanilla FIT).
    self_conditioning: whether latents are carried from one evaluation to the next.
    positions: learned, one per 'token', per place in a 'group', or 'axial', a sum over the three axes.
    init_std: standard deviation of positions and latents at initialisation. The reference's 0.02 is lost among what is
      added to them until training has raised it; with 1 a network says sooner where it is, which small runs need.
    noise_features: what the noise level's sinusoids are taken of, see `embeddings.NOISE_FEATURES`.
    scalars: further numbers the network is given, names of `embeddings.SCALARS`.
    dropout: within the feed-forwards that follow self-attention.
    takes_text, vocabulary_size, text_length, num_classes: see `ConditionTokens`.
    takes_low_resolution: whether `cond.low_resolution` is stacked on the channels of x (the second stage).
    remat: what the backward pass computes again: 'none', 'tokens' (all that is as wide as the patches: most of the
      memory at high resolution), or 'block' (everything but the boundaries of blocks).
    dtype: what layers compute in, 'float32' or 'bfloat16'; parameters, norms and softmax stay float32.
    attention: what computes attention among latents and patches, 'xla' or 'cudnn' (fused; NVIDIA GPUs in bfloat16).
      Captions, which are masked, are left to XLA.

  Raises ValueError where sizes do not divide, with the arithmetic and the nearest ones that do.
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

  @nn.compact
  def __call__(
    self, x: Array, logsnr: Array, cond: Conditioning, carry: Carry = None, *, train: bool = False
  ) -> tuple[Array, Carry]:
    layout = self.layout()
    self._check(x, cond)
    condition, valid = ConditionTokens(
      self.condition_width,
      self.scalars,
      self.noise_features,
      self.takes_text,
      self.vocabulary_size,
      self.text_length,
      self.num_classes,
      self.dtype,
      name='condition',
    )(logsnr, cond)
    # Where parameters are split over the devices that split the batch, the compiler may otherwise gather the batch.
    condition = constrain(condition, 'batch')
    tokens = constrain(self._tokens(x, cond, layout), 'batch')
    latents = constrain(self._latents(carry, x.shape[0]), 'batch')

    dropout = self.dropout if train else 0.0
    block = nn.remat(Block, prevent_cse=False) if self.remat == 'block' else Block
    blocks = _scanned(block, self.num_blocks, inputs=2)(
      self.num_global_layers,
      self.num_local_layers,
      self.patch_head_width,
      self.latent_head_width,
      self.cross_feed_forward,
      self.condition_read,
      dropout,
      self.remat,
      self.dtype,
      self.attention,
      name='blocks',
    )
    (tokens, latents), _ = blocks((tokens, latents), condition, valid)
    if self.num_local_layers:
      tokens = _local_layers(self, dropout, 'final_layers', self.remat != 'none')(tokens)

    tokens = LayerNorm(self.dtype, name='head_norm')(layout.join(tokens))
    size = math.prod(self.patch_size) * self.channels
    out = linear(size, ('embed', None), dtype=self.dtype, name='head')(tokens)
    return layout.unpatchify(out), latents if self.self_conditioning else carry

  def layout(self) -> Layout:
    """How the video is cut; raises ValueError where it does not come out even, or a setting is unknown."""
    for name in ('patch_size', 'group_size'):
      if len(getattr(self, name)) != 3 or min(getattr(self, name)) < 1:
        raise ValueError(f'model.{name}={getattr(self, name)} must be three positive sizes: frames, rows, columns.')
    sizes = (('data.num_frames', self.num_frames), ('data.height', self.height), ('data.width', self.width))
    grid = [_divide(name, size, f'model.patch_size[{i}]', self.patch_size[i]) for i, (name, size) in enumerate(sizes)]
    groups = [
      _divide(f'{name} in patches', tokens, f'model.group_size[{i}]', self.group_size[i])
      for i, ((name, _), tokens) in enumerate(zip(sizes, grid, strict=True))
    ]
    arithmetic = ' x '.join(map(str, groups))
    _divide('model.num_latents', self.num_latents, f'{arithmetic} groups', math.prod(groups))
    _divide('model.condition_width', self.condition_width, 'parts of its sinusoids', 16)  # 2 numbers share a quarter
    _divide('model.latent_width', self.latent_width, 'model.latent_head_width', self.latent_head_width)
    for name in ('patch_width', 'condition_width'):
      inner = min(getattr(self, name), self.latent_width)
      _divide(f'min(model.{name}, model.latent_width)', inner, 'model.patch_head_width', self.patch_head_width)
    for name, least in (('num_blocks', 1), ('num_global_layers', 1), ('num_local_layers', 0)):
      if getattr(self, name) < least:
        raise ValueError(f'model.{name}={getattr(self, name)}, but it must be {least} or more.')
    for name, allowed in (
      ('positions', POSITIONS),
      ('condition_read', CONDITION_READS),
      ('remat', REMAT),
      ('noise_features', tuple(NOISE_FEATURES)),
    ):
      choose(f'model.{name}', getattr(self, name), allowed)
    check_scalars(self.scalars)
    return Layout(tuple(self.patch_size), tuple(self.group_size), tuple(groups))

  def _tokens(self, x: Array, cond: Conditioning, layout: Layout) -> Array:
    """Patches with their positions, in groups: `[b groups tokens d]`."""
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
    """The learned latents, and what is made of those of the last evaluation: `[b num_latents latent_width]`."""
    init = named(nn.initializers.truncated_normal(self.init_std), None, 'embed')
    latents = self.param('latents', init, (self.num_latents, self.latent_width))
    latents = jnp.broadcast_to(latents.astype(self.dtype), (batch, *latents.shape))
    if not self.self_conditioning:
      return latents
    previous = jnp.zeros_like(latents) if carry is None else jnp.asarray(carry, self.dtype)
    previous = FeedForward(dtype=self.dtype, name='self_condition')(previous)
    # Its scale starts at zero: a network at initialisation does not depend on what it is handed.
    return latents + LayerNorm(self.dtype, nn.initializers.zeros, name='self_condition_norm')(previous)

  def _check(self, x: Array, cond: Conditioning) -> None:
    """Raises ValueError where x or the condition is not what the network was built for."""
    if cond.num_images():
      raise ValueError(
        f'{cond.num_images()} appended images were given to FIT, whose groups would mix them with the video: set '
        'data.num_images=0, and data.image_rate to train on images as videos.'
      )
    expected = (self.num_frames, self.height, self.width)
    if x.shape[1:4] != expected:
      raise ValueError(
        f'x has {x.shape[1]} frames of {x.shape[2]}x{x.shape[3]}, but FIT was built for {expected[0]} of '
        f'{expected[1]}x{expected[2]}: its positions are learned. Make longer videos block by block.'
      )
    check_low_resolution(cond, self.takes_low_resolution)
    check_attention(self.attention, self.dtype)


class Block(nn.Module):
  """Read the condition, read the patches, work among the latents, write to the patches (Snap Fig. 3b).

  `((tokens [b g n d], latents [b l D]), condition [b k C], valid [b k]) -> ((tokens, latents), None)`.
  """

  num_global_layers: int
  num_local_layers: int
  patch_head_width: int
  latent_head_width: int
  cross_feed_forward: bool
  condition_read: str
  dropout: float
  remat: str
  dtype: Any
  attention: str

  @nn.compact
  def __call__(self, state: tuple[Array, Array], condition: Array, valid: Array) -> tuple[tuple[Array, Array], None]:
    tokens, latents = (constrain(part, 'batch') for part in state)
    groups = tokens.shape[1]
    if self.num_local_layers:
      tokens = _local_layers(self, self.dropout, 'local_layers', self.remat == 'tokens')(tokens)

    def read_condition(latents: Array) -> Array:
      return self._cross('condition_read')(latents, condition, valid)

    if self.condition_read == 'before':
      latents = read_condition(latents)
    latents = rearrange(latents, 'b (g m) d -> b g m d', g=groups)
    latents = self._cross('read')(latents, tokens)
    latents = rearrange(latents, 'b g m d -> b (g m) d')
    if self.condition_read == 'after':
      latents = read_condition(latents)

    layers = _scanned(_Layer, self.num_global_layers)
    settings = (self.latent_head_width, self.dropout, self.dtype, self.attention)
    latents, _ = layers(*settings, name='global_layers')(latents)
    tokens = self._cross('write')(tokens, rearrange(latents, 'b (g m) d -> b g m d', g=groups))
    return (tokens, latents), None

  def _cross(self, name: str) -> nn.Module:
    """A cross attention with its feed-forward; those among the patches are recomputed under remat='tokens'."""
    kind = nn.remat(Cross, prevent_cse=False) if self.remat == 'tokens' and name != 'condition_read' else Cross
    return kind(self.patch_head_width, self.cross_feed_forward, self.dtype, self.attention, name=name)


class Cross(nn.Module):
  """Cross attention `[... i c], [... j e] -> [... i c]`, then a feed-forward where asked for; both residual."""

  head_width: int
  feed_forward: bool
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x: Array, other: Array, valid: Array | None = None) -> Array:
    attention = CrossAttention(self.head_width, self.dtype, self.implementation, name='attention')
    x = constrain(attention(x, other, valid), 'batch')
    return constrain(FeedForward(dtype=self.dtype, name='feed_forward')(x), 'batch') if self.feed_forward else x


class _Layer(nn.Module):
  """A `TransformerLayer` in the form that `nn.scan` wants."""

  head_width: int
  dropout: float
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, None]:
    layer = TransformerLayer(self.head_width, self.dropout, self.dtype, self.implementation, name='layer')
    return constrain(layer(constrain(x, 'batch')), 'batch'), None


def _local_layers(network: Any, dropout: float, name: str, remat: bool) -> Callable[[Array], Array]:
  """Layers among the patches of each group, `[b g n d]`."""
  kind = nn.remat(_Layer, prevent_cse=False) if remat else _Layer
  layers = _scanned(kind, network.num_local_layers)
  settings = (network.patch_head_width, dropout, network.dtype, network.attention)
  return lambda tokens: layers(*settings, name=name)(tokens)[0]


def _scanned(layer: type[nn.Module], length: int, inputs: int = 0) -> Callable[..., nn.Module]:
  """`length` copies of a layer in a row as one scan, their parameters stacked on a first axis named 'layers'."""
  return nn.scan(
    layer,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(nn.broadcast,) * inputs,
    length=length,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )


def _divide(name: str, number: int, by_name: str, by: int) -> int:
  """number / by, or a ValueError with the arithmetic and the nearest settings that divide."""
  if by > 0 and number > 0 and number % by == 0:
    return number // by
  remedies = {}
  if by > 0:
    remedies[name] = {max(number // by, 1) * by, max(-(-number // by), 1) * by}
  if by_name.startswith('model.'):
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below, above = [d for d in divisors if d <= by] or [1], [d for d in divisors if d >= by] or divisors[-1:]
    remedies[by_name] = {below[-1], *above[:1]}
  either = ', or '.join(f'{key}={" or ".join(map(str, sorted(near)))}' for key, near in remedies.items())
  raise ValueError(f'{name}={number} / {by_name}={by} leaves {number % by if by > 0 else number}: use {either}.')
