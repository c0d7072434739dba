"""The small models that come with the package: weights, and a card that says how they were made.

Wherever a run is named, `pretrained:NAME` names one of these.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vdm_jax.names import unknown

FOLDER = Path(__file__).parent
PREFIX = 'pretrained:'
SUFFIX = '.safetensors'


def names() -> tuple[str, ...]:
  """The names of the models, sorted."""
  return tuple(sorted(file.stem for file in FOLDER.glob(f'*{SUFFIX}')))


def card(name: str) -> dict[str, Any]:
  """A model's card: what it is, the command and seed that made it, its SHA-256, its scores and its limits.

  Raises ValueError for an unknown name, naming the nearest.
  """
  if name not in names():
    raise ValueError(unknown('pretrained model', name, names()))
  return json.loads((FOLDER / f'{name}.json').read_text(encoding='utf-8'))


def located(run: str | os.PathLike) -> Path:
  """The weights of `pretrained:NAME`, found to be those of its card; any other path as it is.

  Raises ValueError for an unknown name or a file that differs from its card.
  """
  if not str(run).startswith(PREFIX):
    return Path(run)
  name = str(run).removeprefix(PREFIX)
  expected, path = card(name)['sha256'], FOLDER / f'{name}{SUFFIX}'
  if (found := _sha256(path, path.stat().st_mtime_ns)) != expected:
    raise ValueError(f'{path} is damaged: its SHA-256 is {found}, its card has {expected}. Install the package anew.')
  return path


@functools.cache
def _sha256(path: Path, modified: int) -> str:
  """Of the file as modified then."""
  return hashlib.sha256(path.read_bytes()).hexdigest()
