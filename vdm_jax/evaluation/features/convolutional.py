"""I3D, C3D and InceptionV3: their inputs, the layers that are features, and the files with their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from vdm_jax.evaluation.features import c3d, i3d, inception, layer_matching
from vdm_jax.evaluation.features.contract import FeatureNetwork, Network
from vdm_jax.evaluation.features.inference_layers import parameter_shapes, random_params
from vdm_jax.evaluation.features.resizing import Rule, bilinear
from vdm_jax.runtime.hashing import sha256
from vdm_jax.tensor_files.stored_tensors import open_npz
from vdm_jax.tensor_files.torch_file import open_torch
from vdm_jax.types import Array, Params

Shapes = Mapping[tuple[str, ...], Sequence[int]]

MEAN_FILE = 'mean2.npz'

# SHA-256 -> network and file, for files whose hash is public.
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
  """A convolutional feature network with which metrics are published."""

  module: Callable[..., nn.Module]
  family: str  # networks of one family have the same weight files
  size: int
  rule: Rule
  scale: Callable[[Array], Array]  # resized bytes -> the network's input
  frames: tuple[int, int | None]
  of_images: bool
  outputs: tuple[str, str]  # the layers that are `pool` and `logits`
  at_once: int
  download: str  # which files, and which project publishes them


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
  download='i3d_torchscript.pt, which StyleGAN-V publishes, or i3d_pretrained_400.pt, which VideoGPT publishes',
)
PUBLISHED = {
  'i3d': _I3D,
  'i3d-stylegan-v': _I3D._replace(rule='centers'),
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
    download=(
      f'conv3d_deepnetA_ucf.npz and, in the same folder, {MEAN_FILE}, which TGAN v2 publishes, or c3d_ucf101.pt, which '
      f'StyleGAN-V publishes, with the same {MEAN_FILE} in its folder'
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
    download=(
      'pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes, or inception-2015-12-05.pt, which '
      'StyleGAN2-ADA publishes'
    ),
  ),
}


def network(name: str, module: nn.Module) -> Network:
  """Return the computation of a network; `module` may be narrower than the published one."""
  published = PUBLISHED[name]

  def forward(params: Params, frames: Array) -> tuple[Array, Array]:
    x = published.scale(bilinear(frames, published.size, published.rule))
    made = module.apply({'params': params}, x)
    pool, logits = (made[output] for output in published.outputs)
    return pool, logits

  return Network(name, forward, published.frames, published.of_images, published.at_once)


def shapes(name: str, module: nn.Module) -> Shapes:
  """Return path -> shape of the parameters of `module`, in order."""
  published = PUBLISHED[name]
  time = () if published.of_images else (published.frames[0],)
  return parameter_shapes(module, (1, *time, published.size, published.size, 3))


def load_params(name: str, module: nn.Module, path: Path) -> tuple[Params, str]:
  """Return the parameters in a file, and its hash with what it was recognized as.

  Raises:
    FileNotFoundError: there is no such file; the message says which project publishes it.
    ValueError: the file is of another network, incomplete, or requests anything but tensors.
  """
  published, ours = PUBLISHED[name], shapes(name, module)
  if not path.is_file():
    raise FileNotFoundError(
      f'features of {name!r} need weights, but {str(path)!r} is not a file. Download {published.download}, and pass '
      'its path'
    )
  recorded = sha256(path)
  family, known = KNOWN.get(recorded, (published.family, ''))
  if family != published.family:
    raise ValueError(f'{path} is {known}, which has no weights of {name!r}. Download {published.download}')
  tensors = open_npz(path) if path.suffix == '.npz' else open_torch(path)
  try:
    matched, how = layer_matching.match(ours, layer_matching.units(tensors))
    params = layer_matching.read(ours, matched, _EPSILON.get(family, 0.0), _flattened(family, ours))
  except ValueError as error:
    if str(error).startswith(str(path)):
      raise
    raise ValueError(
      f'{path} does not contain the weights of {name!r}: {error}. Download {published.download}'
    ) from error
  recorded = f'{recorded} ({known}, read {how})' if known else f'{recorded} (read {how})'
  if family == 'c3d':
    mean, of_mean = _mean(path)
    params['bias',] = -mean
    recorded += f', mean {of_mean}'
  return flax.traverse_util.unflatten_dict(params), recorded


def entry(name: str, files: tuple[str, ...]) -> FeatureNetwork:
  """Return the entry of a network of PUBLISHED; `files` are the names of its weight files."""

  def module(width: float) -> nn.Module:
    return PUBLISHED[name].module(width=width)

  def stand_in(seed: int, width: float) -> Params:
    return flax.traverse_util.unflatten_dict(random_params(shapes(name, module(width)), seed))

  return FeatureNetwork(
    network=lambda width: network(name, module(width)),
    load_params=lambda path, width: load_params(name, module(width), path),
    random_params=stand_in,
    files=files,
    download=PUBLISHED[name].download,
    standin_width=0.125,
  )


_EPSILON = {'i3d': i3d.EPSILON, 'inception': inception.EPSILON}


def _flattened(family: str, ours: Shapes) -> dict[str, tuple[int, ...]]:
  return {'fc6': (ours['conv5b', 'conv', 'bias'][0], *c3d.POOLED)} if family == 'c3d' else {}


def _mean(weights_path: Path) -> tuple[np.ndarray, str]:
  """The mean clip [t h w c], BGR, in the folder of the weights of C3D; and the hash of its file."""
  path = weights_path.with_name(MEAN_FILE)
  if not path.is_file():
    raise FileNotFoundError(
      f"features of 'c3d' need {MEAN_FILE} in the folder of {weights_path}, but {path} does not exist. Download "
      f'{PUBLISHED["c3d"].download}'
    )
  stored = open_npz(path).get('mean')
  if stored is None or np.prod(stored.shape, dtype=object) != np.prod(c3d.MEAN_SHAPE) or stored.kind.kind != 'f':
    raise ValueError(f'{path} has no floats `mean` of shape {c3d.MEAN_SHAPE}. Download {PUBLISHED["c3d"].download}')
  crop = slice(c3d.MEAN_CORNER, c3d.MEAN_CORNER + c3d.SIZE)
  mean = stored.read().astype(np.float32).reshape(c3d.MEAN_SHAPE)[:, :, crop, crop]
  return np.ascontiguousarray(np.moveaxis(mean, 0, -1)), sha256(path)
