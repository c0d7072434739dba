"""The fingerprint of an encoder's folder: what identifies the embeddings that it computes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.contract import Encoder
from vdm_jax.text.encoders.weight_files import open_weights

# Files that a tokenizer may read besides its own.
_TOKENIZER_SETTINGS = ('tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json')

_known: dict[tuple, Fingerprint] = {}


class Fingerprint(NamedTuple):
  """SHA-256 of what decides the embeddings, and of what decides the tokens."""

  weights: str
  tokenizer: str


def fingerprint(path: str, encoder: Encoder) -> Fingerprint:
  """Return the fingerprint of a folder that passes `encoder_folder.require`.

  `weights` covers the configuration and the tensors that the encoder uses, however they are spelled and distributed
  over files. `tokenizer` covers the tokenizer's files. Reads all weights, about half a gigabyte per second, once per
  process unless a file in the folder changes.
  """
  state = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(Path(path).iterdir()))
  key = (str(Path(path).resolve()), encoder.name, state)
  if key not in _known:
    _known[key] = Fingerprint(_hash_weights(path, encoder), _hash_tokenizer(path, encoder))
  return _known[key]


def _hash_weights(path: str, encoder: Encoder) -> str:
  architecture, config = encoder.architecture, encoder_folder.read_config(path, encoder)
  values = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
    if not field.metadata.get('newer') or getattr(config, field.name) != field.default
  }
  digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
  with open_weights(path, architecture.canonical_name) as entries:
    for name in sorted(encoder_folder.tensor_shapes(config, architecture)):
      digest.update(f'{name} {entries[name].kind()} '.encode())
      digest.update(np.ascontiguousarray(entries[name].read()).view(np.uint8).reshape(-1).data)
  return digest.hexdigest()


def _hash_tokenizer(path: str, encoder: Encoder) -> str:
  digest = hashlib.sha256()
  files = {file for alternative in encoder.architecture.tokenizer_files for file in alternative.split(' + ')}
  for name in sorted({*files, *_TOKENIZER_SETTINGS}):
    if (file := Path(path) / name).is_file():
      with file.open('rb') as stream:
        digest.update(f'{name} '.encode() + hashlib.file_digest(stream, 'sha256').digest())
  return digest.hexdigest()
