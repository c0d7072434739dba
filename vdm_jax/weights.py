"""A run's EMA parameters in one safetensors file, with its configuration and step as metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vdm_jax import configuration
from vdm_jax.runtime.atomic_files import atomic_write

DTYPES = ('float32', 'float16')


def write(
  path: str | os.PathLike, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], step: int, dtype: str
) -> None:
  """Writes parameters by name, rounded to `dtype`; the file appears whole or not at all.

  Raises ValueError for a dtype that is none of DTYPES, and for values that it cannot hold.
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype={dtype!r}: weights are kept as {" or ".join(DTYPES)}.')
  with np.errstate(over='ignore'):
    rounded = {name: np.ascontiguousarray(value, dtype) for name, value in tensors.items()}
  beyond = [name for name, value in rounded.items() if not np.isfinite(value).all()]
  if beyond:
    raise ValueError(f'{beyond[0]} holds values that are not finite in {dtype}: keep the weights as float32.')
  with atomic_write(path) as temporary:
    safetensors.numpy.save_file(rounded, temporary, {'config': json.dumps(dict(config)), 'step': str(step)})
    temporary.chmod(0o644)  # save_file makes files that nobody else may read


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The parameters by name, float32 whatever they are kept as."""
  tensors = safetensors.numpy.load_file(path)
  return {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in tensors.items()}


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """The configuration of the run, as plain dicts and lists. Raises ValueError for a file that tells none."""
  return configuration.complete(json.loads(_metadata(path, 'config')))


def read_step(path: str | os.PathLike) -> int:
  """How many steps the run had trained. Raises ValueError for a file that does not tell."""
  return int(_metadata(path, 'step'))


def holds_weights(path: str | os.PathLike) -> bool:
  """Whether a path is a file that `write` wrote, as far as its metadata say."""
  if not Path(path).is_file():
    return False
  try:
    return bool(_metadata(path, 'config'))
  except ValueError:
    return False


def _metadata(path: str | os.PathLike, key: str) -> str:
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is no safetensors file ({error}): name a run, or exported weights.') from None
  if key not in metadata:
    raise ValueError(
      f'{path} names no configuration in its metadata: only files written by export_weights can be loaded.'
    )
  return metadata[key]
