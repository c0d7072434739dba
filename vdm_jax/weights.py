"""A run's parameters in one safetensors file, with the configuration and step of the run as metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from vdm_jax import configuration
from vdm_jax.runtime.atomic_files import atomic_write

DTYPES = ('float32', 'float16')


class Metadata(NamedTuple):
  """What a weights file records about its run."""

  config: dict[str, Any]  # plain dicts and lists, current keys
  step: int  # training steps taken
  weights: str = 'ema'  # which parameters: ema or raw
  hash: str = ''  # of the checkpoint that they come from; '': unknown, as in files of older versions
  run_id: str = ''  # of the run, as in its env.json; '': unknown


def write(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  step: int,
  dtype: str,
  origin: Mapping[str, str] | None = None,
) -> None:
  """Write parameters to a file, which appears complete or not at all.

  Args:
    path: the file.
    tensors: arrays by name.
    config: the configuration of the run.
    step: training steps taken.
    dtype: type to round to, one of DTYPES.
    origin: `weights`, `hash` and `run_id` of the `Metadata`, if they are known.

  Raises:
    ValueError: `dtype` is unknown or cannot represent a value.
  """
  if dtype not in DTYPES:
    raise ValueError(f'dtype={dtype!r} is not a valid type for stored weights: use {" or ".join(DTYPES)}.')
  with np.errstate(over='ignore'):
    rounded = {name: np.ascontiguousarray(value, dtype) for name, value in tensors.items()}
  overflown = [name for name, value in rounded.items() if not np.isfinite(value).all()]
  if overflown:
    raise ValueError(f'{overflown[0]} has values that are not finite in {dtype}: store the weights as float32.')
  metadata = {'config': json.dumps(dict(config)), 'step': str(step), **(origin or {})}
  with atomic_write(path) as temporary:
    safetensors.numpy.save_file(rounded, temporary, metadata)
    temporary.chmod(0o644)  # save_file creates files that only their owner may read


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Return the parameters by name, as float32 whatever they are stored as."""
  tensors = safetensors.numpy.load_file(path)
  return {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in tensors.items()}


def read_metadata(path: str | os.PathLike) -> Metadata:
  """Return the configuration and step of the run that a file comes from.

  Raises:
    ValueError: the file was not written by `write`.
  """
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a safetensors file ({error}): name a run, or exported weights.') from None
  if not {'config', 'step'} <= metadata.keys():
    raise ValueError(
      f'{path} has no configuration in its metadata: only files written by export_weights can be loaded.'
    )
  origin = {name: metadata[name] for name in ('weights', 'hash', 'run_id') if name in metadata}
  return Metadata(configuration.complete(json.loads(metadata['config'])), int(metadata['step']), **origin)
