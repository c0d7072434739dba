"""The folder of a frozen encoder: checks of its files, and its configuration.

Only headers are read, never weights. Tensors that the encoder does not use (heads, decoders) are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vdm_jax.text.encoders.contract import TOKENIZER, Architecture, Encoder
from vdm_jax.text.encoders.weight_files import FLOATS, WEIGHTS, main_file, open_weights, read_json

CONFIG = 'config.json'

_SHOWN_PROBLEMS = 10


def missing(path: str, encoder: Encoder) -> str | None:
  """Return a message that lists the missing files and where to get them, or None if all are there."""
  architecture = encoder.architecture
  tokenizers = ' or '.join(architecture.tokenizer_files)
  lacking = [
    what
    for what, lacks in (
      (WEIGHTS, not path or main_file(path) is None),
      (CONFIG, not has_config(path)),
      (tokenizers, not path or not any(tokenizer_files(path, architecture))),
    )
    if lacks
  ]
  if not lacking:
    return None
  where = f'data.text_path={path!r} lacks {", ".join(lacking)}' if path else 'data.text_path is empty'
  return (
    f'data.text={encoder.name} needs a folder with {WEIGHTS}, {CONFIG} and {tokenizers} of {encoder.model}, but '
    f'{where}. {architecture.download.format(repository=encoder.repository)} and pass '
    '--config.data.text_path=FOLDER, or train word embeddings, which need no files: --config.data.text=words'
  )


def problems(path: str, encoder: Encoder) -> list[str]:
  """Return what is wrong with the folder, one sentence each.

  Reads the configuration, the tokenizer file and the headers of the weight files.
  """
  lacking = missing(path, encoder)
  if lacking:
    return [lacking]
  try:
    config = read_config(path, encoder)
    return [
      *_wrong_sizes(path, config, encoder),
      *_wrong_tokenizer(path, encoder),
      *_wrong_tensors(path, config, encoder.architecture),
    ]
  except ValueError as error:
    return [str(error)]


def require(path: str, encoder: Encoder) -> Any:
  """Return the configuration of a valid folder.

  Raises:
    FileNotFoundError: files are missing.
    ValueError: the files do not fit together.
  """
  lacking = missing(path, encoder)
  if lacking:
    raise FileNotFoundError(lacking)
  found = problems(path, encoder)
  if found:
    more = [f'and {len(found) - _SHOWN_PROBLEMS} more'] if len(found) > _SHOWN_PROBLEMS else []
    raise ValueError('\n'.join(found[:_SHOWN_PROBLEMS] + more))
  return read_config(path, encoder)


def read_config(path: str, encoder: Encoder) -> Any:
  """Return the configuration of the folder, an `Architecture.config`.

  Raises:
    ValueError: the configuration is incomplete, or of a model that the architecture does not cover.
  """
  file, architecture = Path(path) / CONFIG, encoder.architecture
  values = read_json(file, 'the configuration of a model')
  sections = [values[name] for name in architecture.config_sections if isinstance(values.get(name), dict)]
  if sections:
    values = {key: value for section in sections for key, value in section.items()}
  fields = dataclasses.fields(architecture.config)
  for field in fields:
    if field.name not in values and field.default is dataclasses.MISSING:
      raise ValueError(f'{file} lacks {field.name!r}, which every {architecture.title} has; download it again')
  for name, value in {'model_type': architecture.model_type, **architecture.required}.items():
    if values.get(name, value) != value:
      raise ValueError(f'{file}: {name}={values[name]!r} is not supported, only {value!r}; use {encoder.model}')
  given = {field.name: values[field.name] for field in fields if field.name in values}
  for field in fields:
    value = given.get(field.name, field.default)
    if field.type not in ('str', str) and (not isinstance(value, int | float) or value <= 0):
      raise ValueError(f'{file}: {field.name}={value!r} is not a positive number; download it again')
  try:
    return architecture.config(**given)
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from error


def tensor_shapes(config: Any, architecture: Architecture) -> dict[str, tuple[int, ...]]:
  """Return the shape of every tensor that the encoder reads from the weight files, by name."""
  return {name: tensor.shape for tensor in architecture.tensors(config) for name in tensor.names}


def has_config(path: str) -> bool:
  """Return whether there is a configuration in a folder; '' is no folder."""
  return bool(path) and (Path(path) / CONFIG).is_file()


def tokenizer_files(path: str, architecture: Architecture) -> list[str]:
  """Return the names of the files of the first alternative of `Architecture.tokenizer_files` that is in the folder."""
  for files in (alternative.split(' + ') for alternative in architecture.tokenizer_files):
    if all((Path(path) / file).is_file() for file in files):
      return files
  return []


def _wrong_sizes(path: str, config: Any, encoder: Encoder) -> Iterator[str]:
  for name, needed in encoder.sizes.items():
    if (found := getattr(config, name)) != needed:
      yield f'{Path(path) / CONFIG}: {name} is {found}, data.text={encoder.name} needs {needed}'


def _wrong_tokenizer(path: str, encoder: Encoder) -> Iterator[str]:
  file, needed = Path(path) / TOKENIZER, encoder.architecture.tokenizer_model
  if needed is not None and file.is_file():
    model = read_json(file, 'a tokenizer').get('model')
    kind = model.get('type', needed) if isinstance(model, dict) else None
    if kind != needed:
      yield f'{file}: the model is {kind!r}, data.text={encoder.name} needs {needed!r}; download it again'


def _wrong_tensors(path: str, config: Any, architecture: Architecture) -> Iterator[str]:
  where = main_file(path)
  with open_weights(path, architecture.canonical_name) as weights:
    for name, shape in tensor_shapes(config, architecture).items():
      if name not in weights:
        yield f'{where}: tensor {name} is missing, but {CONFIG} requires it'
        continue
      found, kind = weights[name].shape(), weights[name].kind()
      if found != shape:
        yield f'{where}: tensor {name} has shape {found}, but {CONFIG} requires {shape}'
      elif kind not in FLOATS:
        yield f'{where}: tensor {name} has type {kind}, which is not one of {", ".join(FLOATS)}'
