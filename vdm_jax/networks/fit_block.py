"""The repeated block of FIT: read condition and patches, compute among the latents, write back (Snap Fig. 3b)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einops import rearrange
from flax import linen as nn

from vdm_jax.networks.transformer import CrossAttention, FeedForward, TransformerLayer
from vdm_jax.partitioning import constrain
from vdm_jax.types import Array


class Block(nn.Module):
  """`((tokens [b g n d], latents [b l D]), condition [b k C], valid [b k]) -> ((tokens, latents), None)`.

  Attributes: see `FIT`, whose fields they are.
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
      tokens = transformer_layers(
        self.num_local_layers,
        head_width=self.patch_head_width,
        dropout=self.dropout,
        dtype=self.dtype,
        implementation=self.attention,
        remat=self.remat == 'tokens',
        name='local_layers',
      )(tokens)

    def read_condition(latents: Array) -> Array:
      return self._cross('condition_read')(latents, condition, valid)

    if self.condition_read == 'before':
      latents = read_condition(latents)
    latents = rearrange(latents, 'b (g m) d -> b g m d', g=groups)
    latents = self._cross('read')(latents, tokens)
    latents = rearrange(latents, 'b g m d -> b (g m) d')
    if self.condition_read == 'after':
      latents = read_condition(latents)

    latents = transformer_layers(
      self.num_global_layers,
      head_width=self.latent_head_width,
      dropout=self.dropout,
      dtype=self.dtype,
      implementation=self.attention,
      name='global_layers',
    )(latents)
    tokens = self._cross('write')(tokens, rearrange(latents, 'b (g m) d -> b g m d', g=groups))
    return (tokens, latents), None

  def _cross(self, name: str) -> nn.Module:
    """Return a cross-attention with its feed-forward; those among the patches are recomputed under remat='tokens'."""
    kind = nn.remat(Cross, prevent_cse=False) if self.remat == 'tokens' and name != 'condition_read' else Cross
    return kind(
      head_width=self.patch_head_width,
      feed_forward=self.cross_feed_forward,
      dtype=self.dtype,
      implementation=self.attention,
      name=name,
    )


class Cross(nn.Module):
  """Cross-attention `[... i c], [... j e] -> [... i c]`, then an optional feed-forward; both are residual."""

  head_width: int
  feed_forward: bool
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x: Array, other: Array, valid: Array | None = None) -> Array:
    attention = CrossAttention(
      head_width=self.head_width, dtype=self.dtype, implementation=self.implementation, name='attention'
    )
    x = constrain(attention(x, other, valid), 'batch')
    return constrain(FeedForward(dtype=self.dtype, name='feed_forward')(x), 'batch') if self.feed_forward else x


class _Layer(nn.Module):
  """A `TransformerLayer` with the signature that `nn.scan` expects."""

  head_width: int
  dropout: float
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, None]:
    layer = TransformerLayer(
      head_width=self.head_width,
      dropout=self.dropout,
      dtype=self.dtype,
      implementation=self.implementation,
      name='layer',
    )
    return constrain(layer(constrain(x, 'batch')), 'batch'), None


def transformer_layers(length: int, *, name: str, remat: bool = False, **settings: Any) -> Callable[[Array], Array]:
  """Return `length` transformer layers in a row, `[... i c] -> [... i c]`; `settings` are those of `_Layer`."""
  kind = nn.remat(_Layer, prevent_cse=False) if remat else _Layer
  layers = scanned(kind, length)(**settings, name=name)
  return lambda x: layers(x)[0]


def scanned(layer: type[nn.Module], length: int, num_inputs: int = 0) -> Callable[..., nn.Module]:
  """Return `length` copies of a layer in a row as one scan, their parameters stacked on a first axis named 'layers'.

  All copies get the same `num_inputs` arguments after the first, which is handed from one to the next.
  """
  return nn.scan(
    layer,
    variable_axes={'params': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(nn.broadcast,) * num_inputs,
    length=length,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )
