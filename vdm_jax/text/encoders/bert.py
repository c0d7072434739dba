"""BERT (Devlin et al. 2018). VDM conditions on the last hidden states of BERT-large (Ho et al. 2022, section 4.3)."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vdm_jax.text.encoders.contract import (
  LAYERS,
  TOKENIZER,
  Architecture,
  Encoder,
  Tensor,
  by_name,
  newer_field,
  read_fast_tokenizer,
)
from vdm_jax.text.encoders.transformer_layers import ACTIVATIONS, LayerNorm, attend, check_activation, precision
from vdm_jax.types import Array


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """The keys of config.json that the module needs. The first files have no `layer_norm_eps`."""

  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float = 1e-12
  hidden_act: str = newer_field('gelu')

  def __post_init__(self):
    check_activation('hidden_act', self.hidden_act)
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'hidden_size={self.hidden_size} is not a multiple of {self.num_attention_heads} heads')


# ---- the module ------------------------------------------------------------------------------------------------------


class BertLayer(nn.Module):
  """Self-attention and a two-layer MLP, each followed by a norm of its residual sum (post-LN)."""

  config: BertConfig
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array) -> tuple[Array, None]:
    """x [b l c], mask bool [b l] -> ([b l c], None), the signature of nn.scan."""
    config, heads = self.config, self.config.num_attention_heads
    dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision(self.dtype))
    norm = functools.partial(LayerNorm, epsilon=config.layer_norm_eps, dtype=self.dtype)

    query, key, value = (
      dense(config.hidden_size, name=name)(x).reshape(*x.shape[:2], heads, -1) for name in ('query', 'key', 'value')
    )
    attended = attend(query, key, value, mask, scale=1 / math.sqrt(query.shape[-1]))
    x = norm(name='attention_norm')(x + dense(config.hidden_size, name='attention_output')(attended))
    y = ACTIVATIONS[config.hidden_act](dense(config.intermediate_size, name='up')(x))
    return norm(name='down_norm')(x + dense(config.hidden_size, name='down')(y)), None


class BertEncoder(nn.Module):
  """Maps token ids to the last hidden states."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], True at least once per row -> float32 [b l c], zero off the mask."""
    config = self.config
    table = functools.partial(nn.Embed, features=config.hidden_size, dtype=self.dtype)
    position = table(config.max_position_embeddings, name='position')(jnp.arange(tokens.shape[1]))
    token_type = table(config.type_vocab_size, name='token_type')(jnp.zeros_like(tokens))
    x = table(config.vocab_size, name='word')(tokens) + position + token_type
    x = LayerNorm(epsilon=config.layer_norm_eps, dtype=self.dtype, name='norm')(x)
    layers = nn.scan(
      BertLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=config.num_hidden_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask)
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32)


# ---- its folder ------------------------------------------------------------------------------------------------------

# Parameter -> tensor in the weight files, for the embedding tables, and for the linear maps and norms of one layer.
_TABLES = {'word': 'vocab_size', 'position': 'max_position_embeddings', 'token_type': 'type_vocab_size'}
_LINEARS = {
  'query': 'attention.self.query',
  'key': 'attention.self.key',
  'value': 'attention.self.value',
  'attention_output': 'attention.output.dense',
  'up': 'intermediate.dense',
  'down': 'output.dense',
}
_AXES = {'attention_output': ('embed', 'heads'), 'up': ('mlp', 'embed'), 'down': ('embed', 'mlp')}
_NORMS = {'attention_norm': 'attention.output.LayerNorm', 'down_norm': 'output.LayerNorm'}


def _tensors(config: BertConfig) -> list[Tensor]:
  hidden, up = config.hidden_size, config.intermediate_size

  def in_every_layer(parameter: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    names = [f'encoder.layer.{i}.{name}' for i in range(config.num_hidden_layers)]
    return Tensor(f'{LAYERS}{parameter}', names, shape, axes)

  tensors = [
    Tensor(
      f'{table}/embedding', [f'embeddings.{table}_embeddings.weight'], (getattr(config, rows), hidden), (None, 'embed')
    )
    for table, rows in _TABLES.items()
  ]
  tensors += [
    Tensor('norm/scale', ['embeddings.LayerNorm.weight'], (hidden,), ('embed',)),
    Tensor('norm/bias', ['embeddings.LayerNorm.bias'], (hidden,), ('embed',)),
  ]
  for linear, name in _LINEARS.items():
    shape = {'up': (up, hidden), 'down': (hidden, up)}.get(linear, (hidden, hidden))
    axes = _AXES.get(linear, ('heads', 'embed'))
    tensors += [
      in_every_layer(f'{linear}/kernel', f'{name}.weight', shape, axes),
      in_every_layer(f'{linear}/bias', f'{name}.bias', shape[:1], axes[:1]),
    ]
  for norm, name in _NORMS.items():
    tensors += [
      in_every_layer(f'{norm}/scale', f'{name}.weight', (hidden,), ('embed',)),
      in_every_layer(f'{norm}/bias', f'{name}.bias', (hidden,), ('embed',)),
    ]
  return tensors


def _canonical_name(name: str) -> str:
  """Map the published files' `bert.embeddings.LayerNorm.gamma` to today's `embeddings.LayerNorm.weight`."""
  name = name.removeprefix('bert.')
  return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def _read_tokenizer(path: str) -> Any:
  if (Path(path) / TOKENIZER).is_file():  # it alone says whether captions are lower-cased and stripped of accents
    return read_fast_tokenizer(path)
  import transformers  # takes seconds

  return transformers.BertTokenizer.from_pretrained(path, local_files_only=True)


BERT = Architecture(
  model_type='bert',
  title='BERT',
  config=BertConfig,
  width_field='hidden_size',
  length_field='max_position_embeddings',
  required={'position_embedding_type': 'absolute', 'is_decoder': False},
  network=BertEncoder,
  tensors=_tensors,
  canonical_name=_canonical_name,
  tokenizer_files=(TOKENIZER, 'vocab.txt'),
  tokenizer_model='WordPiece',
  read_tokenizer=_read_tokenizer,
  empty_caption=('[CLS]', '[SEP]'),
)

ENCODERS = by_name(
  Encoder('bert', BERT, 'google-bert/bert-base-uncased'),
  Encoder('bert-large', BERT, 'google-bert/bert-large-uncased', {'hidden_size': 1024}),
)
