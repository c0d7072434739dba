"""A feature network by its name, with the weights of a file or, labelled, with random ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.traverse_util
import numpy as np
from jax.sharding import Mesh

from vdm_jax.evaluation.features import clip_image, convolutional
from vdm_jax.evaluation.features.extractor import Extractor, build
from vdm_jax.evaluation.features.inference_layers import parameter_shapes, random_params
from vdm_jax.names import choose
from vdm_jax.text.encoders import ENCODERS, clip
from vdm_jax.text.encoders.contract import TOKENIZER
from vdm_jax.text.encoders.encoder_folder import CONFIG
from vdm_jax.text.encoders.weight_files import WEIGHTS
from vdm_jax.text.frozen import FrozenEncoder

NAMES = (*convolutional.PUBLISHED, *clip_image.PUBLISHED)
CAPTION_LENGTH = 77  # tokens, the most CLIP reads

_CLIP_FILES = f'{WEIGHTS}, {CONFIG} and {TOKENIZER} of openai/{{name}} on the Hugging Face hub, in one folder'
_KNOWN_CLIPS = {
  'a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb': 'openai/clip-vit-large-patch14',
}


class TextExtractor(NamedTuple):
  """CLIP's text encoder: `apply` makes of n captions float32 [n d], in the space of the image encoder's `pool`."""

  name: str
  weights: str  # as in Extractor; the same file as the image encoder's
  apply: Callable[[Sequence[str]], np.ndarray]


def load(
  name: str, path: str | None, *, seed: int | None = None, width: float = 1.0, mesh: Mesh | None = None
) -> Extractor:
  """Returns the feature network `name` with the weights of a file, or with random ones.

  Args:
    name: one of NAMES.
    path: the file, or for CLIP the folder, that holds its weights.
    seed: in place of `path`: random weights, recorded as such. Their figures mean nothing, but are the same again.
    width: channels relative to the published network, for stand-ins that should be fast; with a file it must be the
      file's own.
    mesh: local devices to split every batch over; the first one alone by default.

  Raises:
    FileNotFoundError: there is no such file; the message says which project publishes it.
    ValueError: an unknown name, both or neither of `path` and `seed`, or a file that does not hold these weights.
  """
  _check(name, path, seed)
  if name in clip_image.PUBLISHED:
    return _load_clip(name, path, seed, width, mesh)
  published = convolutional.PUBLISHED[name]
  module = published.module(width=width)
  network = convolutional.network(name, module)
  if path is None:
    params = flax.traverse_util.unflatten_dict(random_params(convolutional.shapes(name, module), seed))
    return build(network, _random(seed, width), params, mesh)
  if not Path(path).is_file():
    raise FileNotFoundError(
      f'features of {name!r} need weights, and {path!r} is no file. Download {published.files}, and pass its path'
    )
  params, recorded = convolutional.load_params(name, module, Path(path))
  return build(network, recorded, params, mesh)


def load_clip_text(name: str, path: str | None, *, seed: int | None = None) -> TextExtractor:
  """Returns the text encoder that belongs to the image encoder `name`; arguments and errors as in `load`.

  The stand-in of a seed gives every caption a random direction of its own.
  """
  _check(name, path, seed)
  if name not in clip_image.PUBLISHED:
    raise ValueError(f'{name!r} has no text encoder: {", ".join(clip_image.PUBLISHED)} have one')
  if path is None:
    width = clip_image.PUBLISHED[name].projection_dim
    return TextExtractor(name, _random(seed, 1.0), lambda captions: _directions(captions, width, seed))
  recorded = _recorded_clip(name, path, WEIGHTS, CONFIG, TOKENIZER)
  return TextExtractor(name, recorded, clip.projector(FrozenEncoder(ENCODERS[name], path, CAPTION_LENGTH)))


def _load_clip(name: str, path: str | None, seed: int | None, width: float, mesh: Mesh | None) -> Extractor:
  if width != 1:
    raise ValueError(f'features of {name!r} have one width; leave width at 1')
  config = clip_image.PUBLISHED[name]
  network = clip_image.network(name, config)
  if path is None:
    size = config.image_size
    shapes = parameter_shapes(clip_image.ClipImage(config), (1, size, size, 3))
    params = flax.traverse_util.unflatten_dict(random_params(shapes, seed))
    return build(network, _random(seed, width), params, mesh)
  recorded = _recorded_clip(name, path, WEIGHTS)
  return build(network, recorded, clip_image.load_params(name, config, path), mesh)


def _recorded_clip(name: str, folder: str, *needed: str) -> str:
  lacking = [file for file in needed if not (Path(folder) / file).is_file()]
  if lacking:
    wanted = _CLIP_FILES.format(name=name)
    raise FileNotFoundError(f'features of {name!r} need {wanted}, and {folder!r} lacks {", ".join(lacking)}')
  recorded = convolutional.fingerprint(Path(folder) / WEIGHTS)
  known = _KNOWN_CLIPS.get(recorded)
  return f'{recorded} ({known}, read by names)' if known else f'{recorded} (read by names)'


def _check(name: str, path: str | None, seed: int | None) -> None:
  choose('feature network', name, NAMES)
  if (path is None) == (seed is None):
    published = convolutional.PUBLISHED.get(name)
    files = published.files if published else _CLIP_FILES.format(name=name)
    raise ValueError(
      f'features of {name!r} need either the path of their weights ({files}) or a seed for random ones, whose figures '
      f'mean nothing; got path={path!r} and seed={seed!r}'
    )


def _random(seed: int | None, width: float) -> str:
  return f'random:{seed}' + (f' width {width:g}' if width != 1 else '')


def _directions(captions: Sequence[str], width: int, seed: int | None) -> np.ndarray:
  digests = (hashlib.sha256(f'{seed} {caption}'.encode()).digest() for caption in captions)
  rows = [np.random.default_rng(list(digest)).standard_normal(width, np.float32) for digest in digests]
  return np.stack(rows) if rows else np.zeros((0, width), np.float32)
