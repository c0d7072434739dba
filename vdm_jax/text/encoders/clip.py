"""CLIP's text encoder (Radford et al. 2021), and its projection into the space shared with images.

Files of the whole model (`CLIPModel`), of the text encoder (`CLIPTextModel`), and of the text encoder with its
projection (`CLIPTextModelWithProjection`) are supported.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vdm_jax.text.encoders.contract import (
  LAYERS,
  TOKENIZER,
  Architecture,
  Encoder,
  Tensor,
  by_name,
  read_fast_tokenizer,
)
from vdm_jax.text.encoders.transformer_layers import ACTIVATIONS, LayerNorm, attend, check_activation, precision
from vdm_jax.text.encoders.weight_files import open_weights
from vdm_jax.types import Array

if TYPE_CHECKING:
  from vdm_jax.text.frozen import FrozenEncoder

PROJECTION = 'text_projection.weight'  # into the space shared with images; not in every file

_UNKNOWN_END = 2  # older files give this as `eos_token_id`, whatever the token


@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """The keys of `text_config` in config.json that the module needs.

  Files omit values that equal those of the smallest published model; these are the defaults here.
  """

  vocab_size: int = 49408
  hidden_size: int = 512
  intermediate_size: int = 2048
  num_hidden_layers: int = 12
  num_attention_heads: int = 8
  max_position_embeddings: int = 77
  hidden_act: str = 'quick_gelu'
  layer_norm_eps: float = 1e-5
  projection_dim: int = 512
  eos_token_id: int = 49407

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'hidden_size={self.hidden_size} is not a multiple of {self.num_attention_heads} heads')
    check_activation('hidden_act', self.hidden_act)

  @property
  def ends_with_largest_id(self) -> bool:
    """Whether captions end with the token of the largest id, since the file does not give that token."""
    return self.eos_token_id == _UNKNOWN_END


# ---- the module ------------------------------------------------------------------------------------------------------


class ClipLayer(nn.Module):
  """Self-attention and an MLP, each applied to a norm of the residual stream and added to it (pre-LN).

  Both of CLIP's encoders are stacks of it. `config` is a ClipConfig, or has the same fields of an image encoder.
  """

  config: Any
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array, bias: Array) -> tuple[Array, None]:
    """x float32 [b l c], mask bool [b l], bias [1 l l] -> (float32 [b l c], None), the signature of nn.scan."""
    config, heads = self.config, self.config.num_attention_heads
    dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=self.dtype)

    y = norm(name='attention_norm')(x)
    query, key, value = (
      dense(config.hidden_size, name=name)(y).reshape(*x.shape[:2], heads, -1) for name in ('query', 'key', 'value')
    )
    attended = attend(query, key, value, mask, scale=1 / math.sqrt(query.shape[-1]), bias=bias)
    x = x + dense(config.hidden_size, name='attention_output')(attended)

    up = ACTIVATIONS[config.hidden_act](dense(config.intermediate_size, name='up')(norm(name='up_norm')(x)))
    return x + dense(config.hidden_size, name='down')(up), None


class ClipEncoder(nn.Module):
  """Maps token ids to the last hidden states after the final norm; the residual stream is float32."""

  config: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], True at the first token -> float32 [b l c], zero off the mask."""
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


def end_positions(ids: np.ndarray, config: ClipConfig) -> np.ndarray:
  """Return the position of the first end-of-text token in each row of token ids [b l]: int [b]."""
  return np.argmax(ids if config.ends_with_largest_id else ids == config.eos_token_id, axis=1)


def projector(encode: FrozenEncoder) -> Callable[[Sequence[str]], np.ndarray]:
  """Return a function from n captions to float32 [n d], not normalized, in the space CLIP shares with images.

  The hidden state at the end of each caption is projected.

  Raises:
    ValueError: the encoder's folder has no projection, or one of another shape.
  """
  projection = _read_projection(encode)

  def project(captions: Sequence[str]) -> np.ndarray:
    hidden, mask = encode(captions)
    ids = np.zeros(mask.shape, np.int32)
    for row, caption in zip(ids, captions, strict=True):
      tokens = encode.ids(caption)
      row[: len(tokens)] = tokens
    return hidden[np.arange(len(ids)), end_positions(ids, encode.config)] @ projection.T

  return project


def _read_projection(encode: FrozenEncoder) -> np.ndarray:
  """Return the projection, float32 [d c]."""
  encoder, config = encode.encoder, encode.config
  with open_weights(encode.path, encoder.architecture.canonical_name) as weights:
    if PROJECTION not in weights:
      raise ValueError(
        f'{encode.path} has no tensor {PROJECTION}: its weights are of a text encoder without the projection into the '
        f'space of images; download those of {encoder.repository}'
      )
    projection = weights[PROJECTION].read().astype(np.float32)
  shape = (config.projection_dim, config.hidden_size)
  if projection.shape != shape:
    raise ValueError(
      f'{encode.path}: tensor {PROJECTION} has shape {projection.shape}, but its configuration requires {shape}'
    )
  return projection


# ---- its folder ------------------------------------------------------------------------------------------------------

# Parameter -> tensor in the weight files, for the linear maps (with their axes) and the norms of one layer.
_LINEARS = {
  'query': ('self_attn.q_proj', ('heads', 'embed')),
  'key': ('self_attn.k_proj', ('heads', 'embed')),
  'value': ('self_attn.v_proj', ('heads', 'embed')),
  'attention_output': ('self_attn.out_proj', ('embed', 'heads')),
  'up': ('mlp.fc1', ('mlp', 'embed')),
  'down': ('mlp.fc2', ('embed', 'mlp')),
}
_NORMS = {'attention_norm': 'layer_norm1', 'up_norm': 'layer_norm2'}


def layer_tensors(config: Any) -> list[Tensor]:
  """Return the tensors of the transformer layers, the same for the text and the image encoder.

  Args:
    config: has hidden_size, intermediate_size and num_hidden_layers.
  """
  width, up = config.hidden_size, config.intermediate_size

  def in_every_layer(parameter: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    names = [f'encoder.layers.{i}.{name}' for i in range(config.num_hidden_layers)]
    return Tensor(f'{LAYERS}{parameter}', names, shape, axes)

  tensors = []
  for linear, (name, axes) in _LINEARS.items():
    shape = {'up': (up, width), 'down': (width, up)}.get(linear, (width, width))
    tensors += [
      in_every_layer(f'{linear}/kernel', f'{name}.weight', shape, axes),
      in_every_layer(f'{linear}/bias', f'{name}.bias', shape[:1], axes[:1]),
    ]
  for norm, name in _NORMS.items():
    tensors += [
      in_every_layer(f'{norm}/scale', f'{name}.weight', (width,), ('embed',)),
      in_every_layer(f'{norm}/bias', f'{name}.bias', (width,), ('embed',)),
    ]
  return tensors


def _tensors(config: ClipConfig) -> list[Tensor]:
  width = config.hidden_size
  tables = {'token': config.vocab_size, 'position': config.max_position_embeddings}
  return [
    *(
      Tensor(f'{table}/embedding', [f'embeddings.{table}_embedding.weight'], (rows, width), (None, 'embed'))
      for table, rows in tables.items()
    ),
    *layer_tensors(config),
    Tensor('norm/scale', ['final_layer_norm.weight'], (width,), ('embed',)),
    Tensor('norm/bias', ['final_layer_norm.bias'], (width,), ('embed',)),
  ]


def _canonical_name(name: str) -> str:
  return name.removeprefix('text_model.')


def _read_tokenizer(path: str) -> Any:
  if (Path(path) / TOKENIZER).is_file():
    return read_fast_tokenizer(path)
  import transformers  # takes seconds

  return transformers.CLIPTokenizer.from_pretrained(path, local_files_only=True)


CLIP = Architecture(
  model_type='clip_text_model',
  title='CLIP',
  config=ClipConfig,
  config_sections=('text_config', 'text_config_dict'),
  width_field='hidden_size',
  length_field='max_position_embeddings',
  network=ClipEncoder,
  tensors=_tensors,
  canonical_name=_canonical_name,
  tokenizer_files=(TOKENIZER, 'vocab.json + merges.txt'),
  tokenizer_model='BPE',
  read_tokenizer=_read_tokenizer,
  empty_caption=('<|startoftext|>', '<|endoftext|>'),
  download=(
    'Download them from {repository} on the Hugging Face hub into one folder (where it has no model.safetensors, and '
    'PyTorch is installed, transformers.CLIPTextModelWithProjection.from_pretrained("{repository}")'
    '.save_pretrained("FOLDER") writes the first two)'
  ),
)


def _published(name: str, hidden_size: int, intermediate_size: int) -> Encoder:
  return Encoder(name, CLIP, f'openai/{name}', {'hidden_size': hidden_size, 'intermediate_size': intermediate_size})


ENCODERS = by_name(
  Encoder('clip', CLIP, 'openai/clip-vit-base-patch32'),
  _published('clip-vit-base-patch32', hidden_size=512, intermediate_size=2048),
  _published('clip-vit-large-patch14', hidden_size=768, intermediate_size=3072),
)
