"""The small models that ship with the package: weights, and a card that records how they were made.

Any run argument accepts `pretrained:NAME`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vdm_jax.names import unknown
from vdm_jax.runtime.hashing import sha256

FOLDER = Path(__file__).parent
PREFIX = 'pretrained:'
SUFFIX = '.safetensors'


def names() -> tuple[str, ...]:
  """Return the names of the models, sorted."""
  return tuple(sorted(file.stem for file in FOLDER.glob(f'*{SUFFIX}')))


def card(name: str) -> dict[str, Any]:
  """Return a model's card: description, command and seed, SHA-256 of the weights, scores and limits.

  Raises:
    ValueError: no model has this name; the message gives the closest.
  """
  if name not in names():
    raise ValueError(unknown('pretrained model', name, names()))
  return json.loads((FOLDER / f'{name}.json').read_text(encoding='utf-8'))


def path_of(run: str | os.PathLike) -> Path:
  """Return the weights file of `pretrained:NAME`, checked against its card; any other path unchanged.

  Raises:
    ValueError: the name is unknown, or the file differs from its card.
  """
  if not str(run).startswith(PREFIX):
    return Path(run)
  name = str(run).removeprefix(PREFIX)
  expected, path = card(name)['sha256'], FOLDER / f'{name}{SUFFIX}'
  if (found := sha256(path)) != expected:
    raise ValueError(f'{path} is damaged: its SHA-256 is {found}, its card has {expected}. Reinstall the package.')
  return path
