"""The feature networks of a protocol, from the folder of `--features` or as stand-ins with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import features
from vdm_jax.evaluation.features import FEATURE_NETWORKS, Extractor
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.protocols.contract import Protocol

RANDOM = 'random'  # value of --features


def open_networks(protocol: Protocol, folder: str | None, mesh: Mesh) -> dict[str, Extractor]:
  """Return the protocol's feature networks by name.

  Args:
    protocol: the protocol.
    folder: value of `--features`.
    mesh: local devices to split each batch over.

  Raises:
    InvalidInput: weight files are missing or damaged; the message lists all that are missing. Or the protocol needs no
      feature networks.
  """
  names = protocol.networks
  if not names:
    if folder is not None:
      raise InvalidInput(
        f'--features has no effect with --protocol={protocol.name}, which has no feature networks: omit it.'
      )
    return {}
  if folder == RANDOM:
    return {
      name: features.load(name, None, seed=0, width=FEATURE_NETWORKS[name].standin_width, mesh=mesh) for name in names
    }
  if folder is None:
    raise InvalidInput(
      f'--protocol={protocol.name} needs feature networks: give the folder of their weight files with --features=DIR '
      f'({_wanted(names)}). --features={RANDOM} tests the command with random weights, whose values are meaningless.'
    )
  found = {name: _find(Path(folder), name) for name in names}
  if missing := [name for name, path in found.items() if path is None]:
    raise InvalidInput(
      f'--features={folder} lacks weight files that --protocol={protocol.name} needs. {_wanted(missing)}.'
    )
  try:
    return {name: features.load(name, str(path), mesh=mesh) for name, path in found.items()}
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error


def open_text_encoder(protocol: Protocol, folder: str | None) -> Callable[[Sequence[str]], np.ndarray] | None:
  """Return the function that embeds prompts, float32 [n d], for metrics that need it; otherwise None."""
  names = {metric.network for metric in protocol.metrics if METRICS[metric.kind].needs_text}
  if not names:
    return None
  (name,) = names
  if folder == RANDOM:
    return features.load_text_encoder(name, None, seed=0).apply
  try:
    return features.load_text_encoder(name, str(_find(Path(folder), name))).apply
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error


def _wanted(names: Iterable[str]) -> str:
  return '; '.join(f'{name}: {" or ".join(FEATURE_NETWORKS[name].files)}' for name in names)


def _find(folder: Path, name: str) -> Path | None:
  return next((path for pattern in FEATURE_NETWORKS[name].files for path in sorted(folder.glob(pattern))), None)
