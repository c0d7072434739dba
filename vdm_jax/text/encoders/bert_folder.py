"""The folder of a BERT: its configuration, and the names of its weights.

Both spellings of the weights are read: `embeddings.LayerNorm.weight`, and the published files'
`bert.embeddings.LayerNorm.gamma`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vdm_jax.text.encoders.encoder_folder import TOKENIZER, Family, Published
from vdm_jax.text.encoders.weight_files import Tensor

# The linear maps and norms of one layer: name in our network -> name in the file.
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
_TABLES = {'word': 'vocab_size', 'position': 'max_position_embeddings', 'token_type': 'type_vocab_size'}


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """The fields of config.json that decide what the network computes, under their names there."""

  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float

  def __post_init__(self):
    if self.hidden_size % self.num_attention_heads:
      raise ValueError(f'hidden_size {self.hidden_size} is no multiple of {self.num_attention_heads} heads')


def _tensors(config: BertConfig) -> list[Tensor]:
  hidden, up = config.hidden_size, config.intermediate_size

  def in_every_layer(ours: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> Tensor:
    return Tensor(ours, [f'encoder.layer.{i}.{name}' for i in range(config.num_hidden_layers)], shape, axes)

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
  for ours, name in _LINEARS.items():
    shape = {'up': (up, hidden), 'down': (hidden, up)}.get(ours, (hidden, hidden))
    axes = _AXES.get(ours, ('heads', 'embed'))
    tensors += [
      in_every_layer(f'layers/{ours}/kernel', f'{name}.weight', shape, axes),
      in_every_layer(f'layers/{ours}/bias', f'{name}.bias', shape[:1], axes[:1]),
    ]
  for ours, name in _NORMS.items():
    tensors += [
      in_every_layer(f'layers/{ours}/scale', f'{name}.weight', (hidden,), ('embed',)),
      in_every_layer(f'layers/{ours}/bias', f'{name}.bias', (hidden,), ('embed',)),
    ]
  return tensors


def _todays_name(name: str) -> str:
  name = name.removeprefix('bert.')
  return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def _read_tokenizer(path: str) -> Any:
  import transformers  # seconds

  return transformers.BertTokenizer.from_pretrained(path, local_files_only=True)


BERT = Family(
  model_type='bert',
  title='BERT',
  config=BertConfig,
  only={'hidden_act': 'gelu', 'position_embedding_type': 'absolute', 'is_decoder': False},
  width='hidden_size',
  positions='max_position_embeddings',
  tensors=_tensors,
  todays_name=_todays_name,
  tokenizers=(TOKENIZER, 'vocab.txt'),
  tokenizer_model='WordPiece',
  read_tokenizer=_read_tokenizer,
  empty=('[CLS]', '[SEP]'),
  origin='Download them from {repository} on the Hugging Face hub into one folder',
)

PUBLISHED = {'bert-large': Published('bert-large', BERT, 'google-bert/bert-large-uncased', {'hidden_size': 1024})}
