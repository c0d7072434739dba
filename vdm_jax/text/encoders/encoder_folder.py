"""The folder of a frozen encoder in Hugging Face's format: what must be in it, and its weights by name.

What sets BERT, CLIP and T5 apart is told by a `Family`; the rest is common. Nothing here needs JAX or PyTorch, and
nothing in a folder is ever executed. Tensors the encoder does not use (heads, decoders) are left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vdm_jax.text.encoders.weight_files import FLOATS, INDEX, WEIGHTS, Tensor, open_weights, read_json

CONFIG = 'config.json'
TOKENIZER = 'tokenizer.json'

_SHOWN_PROBLEMS = 10


class Family(NamedTuple):
  """What the folders of one family of encoders have in common."""

  model_type: str  # as config.json says
  title: str
  config: type  # a frozen dataclass; its fields are the keys of config.json that decide what is computed
  only: dict[str, Any]  # the one value supported of other keys
  width: str  # the field with the embedding width
  positions: str | None  # the field with the longest length in tokens, None where there is no longest
  tensors: Callable[[Any], list[Tensor]]
  todays_name: Callable[[str], str]  # from the name in the file, which may be an older one
  tokenizers: tuple[str, ...]  # files, either of which will do
  tokenizer_model: str  # the kind of model in tokenizer.json
  read_tokenizer: Callable[[str], Any]
  empty: tuple[str, ...]  # the tokens of the empty caption; the last one ends every caption
  origin: str  # where the files come from; {repository} is filled in
  section: str = ''  # the part of config.json that tells of the encoder, where the file tells of several networks


class Published(NamedTuple):
  """An encoder that goes by a name."""

  name: str  # data.text
  family: Family
  repository: str  # on the Hugging Face hub
  sizes: dict[str, int]  # the fields of config.json that tell it from its sisters

  @property
  def width(self) -> int:
    """The embedding width, c."""
    return self.sizes[self.family.width]


def read_fast_tokenizer(path: str) -> Any:
  """The tokenizer that `tokenizer.json` alone describes."""
  import transformers  # seconds

  return transformers.PreTrainedTokenizerFast(tokenizer_file=str(Path(path) / TOKENIZER))


def missing(path: str, published: Published) -> str | None:
  """Returns the sentence that says which files the folder lacks and where to get them, None if it has all."""
  tokenizers = ' or '.join(published.family.tokenizers)
  needed = {WEIGHTS: (WEIGHTS, INDEX), CONFIG: (CONFIG,), tokenizers: published.family.tokenizers}
  lacking = [
    what for what, files in needed.items() if not path or not any((Path(path) / file).is_file() for file in files)
  ]
  if not lacking:
    return None
  where = f'data.text_path={path!r} lacks {", ".join(lacking)}' if path else 'data.text_path is empty'
  return (
    f'data.text={published.name} needs a folder with {WEIGHTS}, {CONFIG} and {tokenizers} of '
    f'{published.repository.split("/")[-1]}, and {where}. '
    f'{published.family.origin.format(repository=published.repository)} and pass '
    '--config.data.text_path=FOLDER, or train word embeddings instead, which need no files: '
    '--config.data.text=words'
  )


def problems(path: str, published: Published) -> list[str]:
  """Returns what is wrong with the folder, one sentence each.

  Reads the configuration, the tokenizer file and the header of the weights, never the weights.
  """
  lacking = missing(path, published)
  if lacking:
    return [lacking]
  try:
    config = read_config(path, published)
    found = [
      *_wrong_sizes(path, config, published),
      *_wrong_tokenizer(path, published),
      *_wrong_tensors(path, config, published.family),
    ]
  except ValueError as error:
    return [str(error)]
  return found


def require(path: str, published: Published) -> Any:
  """Returns the configuration of a folder in order; raises FileNotFoundError or ValueError otherwise."""
  lacking = missing(path, published)
  if lacking:
    raise FileNotFoundError(lacking)
  found = problems(path, published)
  if found:
    more = [f'and {len(found) - _SHOWN_PROBLEMS} more'] if len(found) > _SHOWN_PROBLEMS else []
    raise ValueError('\n'.join(found[:_SHOWN_PROBLEMS] + more))
  return read_config(path, published)


def read_config(path: str, published: Published) -> Any:
  """Returns the `Family.config` of the folder; raises ValueError if it is not one we compute."""
  file, family = Path(path) / CONFIG, published.family
  values = read_json(file, 'the configuration of a model')
  if isinstance(section := values.get(family.section), dict):
    values = section
  fields = dataclasses.fields(family.config)
  for field in fields:
    if field.name not in values and field.default is dataclasses.MISSING:
      raise ValueError(f'{file} lacks {field.name!r}, which every {family.title} has; download it again')
  for name, value in {'model_type': family.model_type, **family.only}.items():
    if values.get(name, value) != value:
      sister = published.repository.split('/')[-1]
      raise ValueError(f'{file}: {name} is {values[name]!r}, and only {value!r} is supported; use {sister}')
  given = {field.name: values[field.name] for field in fields if field.name in values}
  for field in fields:
    value = given.get(field.name, field.default)
    if field.type != 'str' and (not isinstance(value, int | float) or value <= 0):
      raise ValueError(f'{file}: {field.name} is {value!r}, it must be a positive number; download it again')
  try:
    return family.config(**given)
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from error


def _wrong_sizes(path: str, config: Any, published: Published) -> Iterator[str]:
  for name, needed in published.sizes.items():
    if getattr(config, name) != needed:
      there = getattr(config, name)
      yield f'{Path(path) / CONFIG}: {name} is {there}, data.text={published.name} needs {needed}'


def _wrong_tokenizer(path: str, published: Published) -> Iterator[str]:
  file, needed = Path(path) / TOKENIZER, published.family.tokenizer_model
  if file.is_file():
    model = read_json(file, 'a tokenizer').get('model')
    kind = model.get('type', needed) if isinstance(model, dict) else None
    if kind != needed:
      yield f'{file}: the model is {kind!r}, data.text={published.name} needs {needed!r}; download it again'


def _wrong_tensors(path: str, config: Any, family: Family) -> Iterator[str]:
  where = Path(path) / (WEIGHTS if (Path(path) / WEIGHTS).is_file() else INDEX)
  with open_weights(path, family.todays_name) as weights:
    for name, shape in tensor_shapes(config, family).items():
      if name not in weights:
        yield f'{where}: tensor {name} is missing, {CONFIG} asks for it'
        continue
      there, kind = weights[name].shape(), weights[name].kind()
      if there != shape:
        yield f'{where}: tensor {name} has shape {there}, {CONFIG} asks for {shape}'
      elif kind not in FLOATS:
        yield f'{where}: tensor {name} holds {kind}, it must be one of {", ".join(FLOATS)}'


def tensor_shapes(config: Any, family: Family) -> dict[str, tuple[int, ...]]:
  """Returns name -> shape of every tensor the encoder reads, as the files have it."""
  return {name: tensor.shape for tensor in family.tensors(config) for name in tensor.names}
