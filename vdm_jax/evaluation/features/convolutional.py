"""I3D, C3D and InceptionV3: what their input is, which of their layers count, and the files that hold their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from vdm_jax.evaluation.features import c3d, i3d, inception
from vdm_jax.evaluation.features.extractor import Network
from vdm_jax.evaluation.features.inference_layers import parameter_shapes
from vdm_jax.evaluation.features.published_files import published_weights
from vdm_jax.evaluation.features.published_files.feature_store import open_npz
from vdm_jax.evaluation.features.published_files.torch_file import open_torch
from vdm_jax.evaluation.features.resizing import Rule, bilinear
from vdm_jax.types import Array, Params

Shapes = Mapping[tuple[str, ...], Sequence[int]]

MEAN_FILE = 'mean2.npz'

# SHA-256 -> what the file is, where its hash is public.
KNOWN = {
  'bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2': ('i3d', 'i3d_torchscript.pt of StyleGAN-V'),
  '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2': (
    'inception',
    'pt_inception-2015-12-05-6726825d.pth of pytorch-fid',
  ),
  'f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4': (
    'inception',
    'inception-2015-12-05.pt of StyleGAN2-ADA',
  ),
}


class Published(NamedTuple):
  """A convolutional feature network that metrics are published with."""

  module: Callable[..., nn.Module]
  family: str  # of its weights: networks of one family take the same files
  size: int
  rule: Rule
  scale: Callable[[Array], Array]  # resized bytes -> the network's input
  frames: tuple[int, int | None]
  of_images: bool
  outputs: tuple[str, str]  # the layers that are `pool` and `logits`
  at_once: int
  files: str  # what to download, and from which project


def _to_one(frames: Array) -> Array:
  return 2 * frames / 255 - 1


_I3D = Published(
  module=i3d.I3D,
  family='i3d',
  size=i3d.SIZE,
  rule='first corners',
  scale=_to_one,
  frames=(i3d.MIN_FRAMES, None),
  of_images=False,
  outputs=('logits', 'logits'),
  at_once=8,
  files='i3d_torchscript.pt, which StyleGAN-V publishes, or i3d_pretrained_400.pt, which VideoGPT publishes',
)
PUBLISHED = {
  'i3d': _I3D,
  'i3d-stylegan-v': _I3D._replace(rule='centres'),
  'c3d': Published(
    module=c3d.C3D,
    family='c3d',
    size=c3d.SIZE,
    rule='corners',
    scale=lambda frames: jnp.flip(frames, -1),
    frames=(c3d.FRAMES, c3d.FRAMES),
    of_images=False,
    outputs=('fc7', 'logits'),
    at_once=8,
    files=(
      f'conv3d_deepnetA_ucf.npz and, beside it, {MEAN_FILE}, which TGAN v2 publishes, or c3d_ucf101.pt, which '
      f'StyleGAN-V publishes, with the same {MEAN_FILE} beside it'
    ),
  ),
  'inception': Published(
    module=inception.Inception,
    family='inception',
    size=inception.SIZE,
    rule='first corners',
    scale=lambda frames: (frames - 128) / 128,
    frames=(1, None),
    of_images=True,
    outputs=('pool', 'logits'),
    at_once=32,
    files=(
      'pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes, or inception-2015-12-05.pt, which '
      'StyleGAN2-ADA publishes'
    ),
  ),
}


def network(name: str, module: nn.Module) -> Network:
  """Returns the feature network `name` around `module`, which may be a narrow one."""
  published = PUBLISHED[name]

  def forward(params: Params, frames: Array) -> tuple[Array, Array]:
    x = published.scale(bilinear(frames, published.size, published.rule))
    made = module.apply({'params': params}, x)
    pool, logits = (made[output] for output in published.outputs)
    return pool, logits

  return Network(name, forward, published.frames, published.of_images, published.at_once)


def shapes(name: str, module: nn.Module) -> Shapes:
  """Returns path -> shape of the parameters of `module`, in order."""
  published = PUBLISHED[name]
  time = () if published.of_images else (published.frames[0],)
  return parameter_shapes(module, (1, *time, published.size, published.size, 3))


def load_params(name: str, module: nn.Module, path: Path) -> tuple[Params, str]:
  """Returns the parameters in a file and what to record of it: its hash, and what it was recognised as.

  Raises ValueError for a file of another network, one that is not whole, or one that asks for anything but tensors.
  """
  published, ours = PUBLISHED[name], shapes(name, module)
  recorded = fingerprint(path)
  family, known = KNOWN.get(recorded, (published.family, ''))
  if family != published.family:
    raise ValueError(f'{path} is {known}: it has no weights of {name!r}. Download {published.files}')
  tensors = open_npz(path) if path.suffix == '.npz' else open_torch(path)
  try:
    matched, how = published_weights.match(ours, published_weights.units(tensors))
    params = published_weights.read(ours, matched, _EPSILON.get(family, 0.0), _flattened(family, ours))
  except ValueError as error:
    if str(error).startswith(str(path)):
      raise
    raise ValueError(f'{path} does not hold the weights of {name!r}: {error}. Download {published.files}') from error
  recorded = f'{recorded} ({known}, read {how})' if known else f'{recorded} (read {how})'
  if family == 'c3d':
    mean, of_mean = _mean(path)
    params['bias',] = -mean
    recorded += f', mean {of_mean}'
  return flax.traverse_util.unflatten_dict(params), recorded


def fingerprint(path: Path) -> str:
  """Returns the SHA-256 of a file."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()


_EPSILON = {'i3d': i3d.EPSILON, 'inception': inception.EPSILON}


def _flattened(family: str, ours: Shapes) -> dict[str, tuple[int, ...]]:
  return {'fc6': (ours['conv5b', 'conv', 'bias'][0], *c3d.POOLED)} if family == 'c3d' else {}


def _mean(weights_path: Path) -> tuple[np.ndarray, str]:
  """Returns the mean clip [t h w c], BGR, that lies beside the weights of C3D, and the hash of its file."""
  path = weights_path.with_name(MEAN_FILE)
  if not path.is_file():
    raise FileNotFoundError(
      f"features of 'c3d' need {MEAN_FILE} beside {weights_path}, and {path} does not exist. Download "
      f'{PUBLISHED["c3d"].files}'
    )
  stored = open_npz(path).get('mean')
  if stored is None or np.prod(stored.shape, dtype=object) != np.prod(c3d.MEAN_SHAPE) or stored.kind.kind != 'f':
    raise ValueError(f'{path} has no floats `mean` of shape {c3d.MEAN_SHAPE}. Download {PUBLISHED["c3d"].files}')
  crop = slice(c3d.MEAN_CORNER, c3d.MEAN_CORNER + c3d.SIZE)
  mean = stored.read().astype(np.float32).reshape(c3d.MEAN_SHAPE)[:, :, crop, crop]
  return np.ascontiguousarray(np.moveaxis(mean, 0, -1)), fingerprint(path)
