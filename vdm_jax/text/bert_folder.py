"""The folder of a BERT in Hugging Face's format: what must be in it, and its weights by name.

Nothing here needs JAX or PyTorch. Both spellings of the weights are read: `embeddings.LayerNorm.weight`, and
the published files' `bert.embeddings.LayerNorm.gamma`. Heads (`cls.*`, `pooler.*`) are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
TOKENIZERS = ('tokenizer.json', 'vocab.txt')  # either will do

_SHOWN_PROBLEMS = 10
_FLOATS = ('F64', 'F32', 'F16', 'BF16')

# The linear maps and norms of one layer: name in the file -> name in our network.
LAYER_LINEARS = {
  'attention.self.query': 'query',
  'attention.self.key': 'key',
  'attention.self.value': 'value',
  'attention.output.dense': 'attention_output',
  'intermediate.dense': 'up',
  'output.dense': 'down',
}
LAYER_NORMS = {'attention.output.LayerNorm': 'attention_norm', 'output.LayerNorm': 'down_norm'}
TABLES = {'word': 'vocab_size', 'position': 'max_position_embeddings', 'token_type': 'type_vocab_size'}


class BertConfig(NamedTuple):
  """The fields of config.json that decide what the network computes, under their names there."""

  vocab_size: int
  hidden_size: int
  num_hidden_layers: int
  num_attention_heads: int
  intermediate_size: int
  max_position_embeddings: int
  type_vocab_size: int
  layer_norm_eps: float


def missing(path: str) -> str | None:
  """Returns the sentence that says which files the folder lacks and where to get them, None if it has all."""
  folder = Path(path)
  lacking = [name for name in (WEIGHTS, CONFIG) if not path or not (folder / name).is_file()]
  if not path or not any((folder / name).is_file() for name in TOKENIZERS):
    lacking.append(' or '.join(TOKENIZERS))
  if not lacking:
    return None
  where = f'data.text_path={path!r} lacks {", ".join(lacking)}' if path else 'data.text_path is empty'
  return (
    f'data.text=bert-large needs a folder with {WEIGHTS}, {CONFIG} and {" or ".join(TOKENIZERS)} of '
    f'bert-large-uncased, and {where}. Download them from '
    'google-bert/bert-large-uncased on the Hugging Face hub into one folder and pass '
    '--config.data.text_path=FOLDER, or train word embeddings instead, which need no files: '
    '--config.data.text=words'
  )


def problems(path: str, width: int | None = None) -> list[str]:
  """Returns what is wrong with the folder, one sentence each; `width` is the embedding width it must have.

  Reads config.json and the header of the weights, never the weights.
  """
  lacking = missing(path)
  if lacking:
    return [lacking]
  try:
    config = read_config(path)
    found = list(_wrong_tensors(path, config))
  except ValueError as error:
    return [str(error)]
  if width is not None and config.hidden_size != width:
    found.insert(
      0, f'{Path(path) / CONFIG}: hidden_size is {config.hidden_size}, data.text=bert-large needs {width}'
    )
  return found


def require(path: str, width: int | None = None) -> BertConfig:
  """Returns the configuration of a folder in order; raises FileNotFoundError or ValueError otherwise."""
  lacking = missing(path)
  if lacking:
    raise FileNotFoundError(lacking)
  found = problems(path, width)
  if found:
    more = [f'and {len(found) - _SHOWN_PROBLEMS} more'] if len(found) > _SHOWN_PROBLEMS else []
    raise ValueError('\n'.join(found[:_SHOWN_PROBLEMS] + more))
  return read_config(path)


def read_config(path: str) -> BertConfig:
  """Returns the configuration of the BERT in the folder; raises ValueError if it is not one we compute."""
  file = Path(path) / CONFIG
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
    config = BertConfig(**{name: values[name] for name in BertConfig._fields})
  except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
    raise ValueError(f'{file} is not the configuration of a model: {error}') from error
  except KeyError as error:
    raise ValueError(f'{file} lacks {error}, which every BERT has; download it again') from error
  only = {
    'model_type': 'bert',
    'hidden_act': 'gelu',
    'position_embedding_type': 'absolute',
    'is_decoder': False,
  }
  for name, value in only.items():
    if values.get(name, value) != value:
      raise ValueError(
        f'{file}: {name} is {values[name]!r}, and only {value!r} is supported; use bert-large-uncased'
      )
  for name, value in config._asdict().items():
    if not isinstance(value, int | float) or value <= 0:
      raise ValueError(f'{file}: {name} is {value!r}, it must be a positive number; download it again')
  if config.hidden_size % config.num_attention_heads:
    raise ValueError(
      f'{file}: hidden_size {config.hidden_size} is no multiple of {config.num_attention_heads} heads'
    )
  return config


def tensor_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
  """Returns name -> shape of every tensor the encoder reads; a linear map is [out in], as the file has it."""
  hidden, up = config.hidden_size, config.intermediate_size
  shapes = {
    f'embeddings.{name}_embeddings.weight': (getattr(config, n), hidden) for name, n in TABLES.items()
  }
  norms = ['embeddings.LayerNorm']
  for layer in range(config.num_hidden_layers):
    prefix = f'encoder.layer.{layer}.'
    norms += [prefix + name for name in LAYER_NORMS]
    for name in LAYER_LINEARS:
      rows, columns = {'intermediate.dense': (up, hidden), 'output.dense': (hidden, up)}.get(
        name, (hidden, hidden)
      )
      shapes |= {f'{prefix}{name}.weight': (rows, columns), f'{prefix}{name}.bias': (rows,)}
  return shapes | {f'{norm}.{leaf}': (hidden,) for norm in norms for leaf in ('weight', 'bias')}


@contextmanager
def open_weights(path: str) -> Iterator[tuple[Any, dict[str, str]]]:
  """Yields the open safetensors file and a table from today's tensor names to the names in the file."""
  file = Path(path) / WEIGHTS
  try:
    weights = safetensors.safe_open(file, framework='numpy')
  except safetensors.SafetensorError as error:
    raise ValueError(f'{file} is not a whole safetensors file ({error}); download it again') from error
  with weights:
    yield weights, {_todays_name(name): name for name in weights.keys()}  # noqa: SIM118, it is no mapping


def read_tensor(weights: Any, name: str) -> np.ndarray:
  """Returns a tensor of an open file as float32."""
  return np.asarray(weights.get_tensor(name), np.float32)


def _todays_name(name: str) -> str:
  name = name.removeprefix('bert.')
  return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')


def _wrong_tensors(path: str, config: BertConfig) -> Iterator[str]:
  file = Path(path) / WEIGHTS
  with open_weights(path) as (weights, names):
    for name, shape in tensor_shapes(config).items():
      if name not in names:
        yield f'{file}: tensor {name} is missing, {CONFIG} asks for it'
        continue
      entry = weights.get_slice(names[name])
      if tuple(entry.get_shape()) != shape:
        yield f'{file}: tensor {name} has shape {tuple(entry.get_shape())}, {CONFIG} asks for {shape}'
      elif entry.get_dtype() not in _FLOATS:
        yield f'{file}: tensor {name} holds {entry.get_dtype()}, it must be one of {", ".join(_FLOATS)}'
