"""Feature networks by name, with the weights of a file or, labeled as such, with random ones."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from vdm_jax.evaluation.features.contract import Extractor, FeatureNetwork, TextExtractor
from vdm_jax.evaluation.features.extractor import build
from vdm_jax.evaluation.features.table import FEATURE_NETWORKS
from vdm_jax.names import choose


def load(
  name: str, path: str | None, *, seed: int | None = None, width: float = 1.0, mesh: Mesh | None = None
) -> Extractor:
  """Return a feature network with the weights of a file, or with random ones.

  Args:
    name: key of FEATURE_NETWORKS.
    path: the file, or for CLIP the folder, with its weights.
    seed: instead of `path`: random weights, recorded as such. Their values are meaningless but reproducible.
    width: channels relative to the published network, for fast stand-ins; with a file, it must be the file's width.
    mesh: local devices to split each batch over; the first one alone by default.

  Raises:
    FileNotFoundError: there is no such file; the message says which project publishes it.
    ValueError: an unknown name, both or neither of `path` and `seed`, or a file that does not contain these weights.
  """
  entry = _entry(name, path, seed)
  network = entry.network(width)
  if path is None:
    return build(network, _random_label(seed, width), entry.random_params(seed, width), mesh)
  params, recorded = entry.load_params(Path(path), width)
  return build(network, recorded, params, mesh)


def load_text_encoder(name: str, path: str | None, *, seed: int | None = None) -> TextExtractor:
  """Return the text encoder that belongs to a feature network. Arguments and errors as in `load`.

  With a seed, the stand-in maps each caption to a random direction.
  """
  entry = _entry(name, path, seed)
  if entry.load_text is None:
    others = ', '.join(name for name, other in FEATURE_NETWORKS.items() if other.load_text is not None)
    raise ValueError(f'{name!r} has no text encoder: use one of {others}')
  if path is None:
    return TextExtractor(name, _random_label(seed), entry.random_text(seed))
  apply, recorded = entry.load_text(Path(path))
  return TextExtractor(name, recorded, apply)


def _random_label(seed: int | None, width: float = 1.0) -> str:
  return f'random:{seed}' + (f' width {width:g}' if width != 1 else '')


def _entry(name: str, path: str | None, seed: int | None) -> FeatureNetwork:
  entry = choose('feature network', name, FEATURE_NETWORKS)
  if (path is None) == (seed is None):
    raise ValueError(
      f'features of {name!r} need either the path of their weights ({entry.download}) or a seed for random ones, whose '
      f'values are meaningless; got path={path!r} and seed={seed!r}'
    )
  return entry
