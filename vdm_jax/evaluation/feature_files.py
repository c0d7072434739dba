"""Where the weights of feature networks are: one folder of the files that users have, or stand-ins without meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import features
from vdm_jax.evaluation.features import Extractor
from vdm_jax.evaluation.protocols.contract import Protocol

RANDOM = 'random'  # value of --features
FILES = {
  'i3d': ('i3d_torchscript.pt', 'i3d_pretrained_400.pt'),
  'i3d-stylegan-v': ('i3d_torchscript.pt', 'i3d_pretrained_400.pt'),
  'c3d': ('conv3d_deepnetA_ucf.npz', 'c3d_ucf101.pt'),
  'inception': ('pt_inception-2015-12-05-*.pth', 'inception-2015-12-05.pt'),
  'clip-vit-base-patch32': ('clip-vit-base-patch32',),
}


def open_networks(protocol: Protocol, folder: str | None, mesh: Mesh) -> dict[str, Extractor]:
  """The protocol's feature networks by name. Raises InvalidInput that lists every file that is missing."""
  if folder == RANDOM:
    return {name: features.load(name, None, seed=0, width=_width(name), mesh=mesh) for name in protocol.networks}
  needed = '; '.join(f'{name}: {" or ".join(FILES[name])}' for name in protocol.networks)
  if folder is None:
    raise InvalidInput(
      f'--protocol={protocol.name} compares features: name the folder of the weight files with --features=DIR '
      f'({needed}). --features={RANDOM} tries the command with networks of random weights, whose figures mean nothing.'
    )
  found = {name: _find(Path(folder), name) for name in protocol.networks}
  if missing := [name for name, path in found.items() if path is None]:
    wanted = '; '.join(f'{name}: {" or ".join(FILES[name])}' for name in missing)
    raise InvalidInput(f'--features={folder} lacks weight files that --protocol={protocol.name} needs. {wanted}.')
  try:
    return {name: features.load(name, str(path), mesh=mesh) for name, path in found.items()}
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error


def text_tower(protocol: Protocol, folder: str | None) -> Callable[[Sequence[str]], np.ndarray] | None:
  """What embeds prompts, float32 [n d], where the protocol has CLIPSIM; None elsewhere."""
  networks = {metric.network for metric in protocol.metrics if metric.kind == 'similarity'}
  if not networks:
    return None
  (name,) = networks
  if folder == RANDOM:
    return features.load_clip_text(name, None, seed=0).apply
  try:
    return features.load_clip_text(name, str(_find(Path(folder), name))).apply
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error


def _width(name: str) -> float:
  """Stand-ins are narrow, so that they run on a CPU; CLIP has one width."""
  return 1.0 if name.startswith('clip') else 0.125


def _find(folder: Path, name: str) -> Path | None:
  return next((path for pattern in FILES[name] for path in sorted(folder.glob(pattern))), None)
