"""What tells two encoders' folders apart: a hash of what the network computes, and one of the tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.encoder_folder import Published
from vdm_jax.text.encoders.weight_files import open_weights

# What a tokenizer may read beside its own files.
_SETTINGS = ('tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json')

_remembered: dict[tuple, str] = {}


def weights(path: str, published: Published) -> str:
  """Returns the hash of what the network of a folder in order computes: of its configuration and its tensors.

  Tensors that the encoder does not use, and how they are named and spread over files, do not matter. Reads all
  weights, about half a gigabyte in a second; a process does so once, unless a file of the folder changes.
  """
  state = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(Path(path).iterdir()))
  key = (str(Path(path).resolve()), published.name, state)
  if key not in _remembered:
    _remembered[key] = _hash_weights(path, published)
  return _remembered[key]


def tokenizer(path: str, published: Published) -> str:
  """Returns the hash of the files that decide which tokens a caption has."""
  digest = hashlib.sha256()
  for name in sorted({*published.family.tokenizers, *_SETTINGS}):
    if (file := Path(path) / name).is_file():
      digest.update(f'{name} '.encode() + hashlib.sha256(file.read_bytes()).digest())
  return digest.hexdigest()


def _hash_weights(path: str, published: Published) -> str:
  family, config = published.family, encoder_folder.read_config(path, published)
  digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
  with open_weights(path, family.todays_name) as entries:
    for name in sorted(encoder_folder.tensor_shapes(config, family)):
      digest.update(f'{name} {entries[name].kind()} '.encode())
      digest.update(np.ascontiguousarray(entries[name].read()).view(np.uint8).reshape(-1).data)
  return digest.hexdigest()
