"""CLIP's image encoder (Radford et al. 2021): frames to embeddings in the space shared with captions.

It has the layers of the text encoder in `vdm_jax.text.encoders.clip`, without the causal mask, and its weights are in
the same files.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vdm_jax.evaluation.features.contract import Encode, FeatureNetwork, Network
from vdm_jax.evaluation.features.inference_layers import parameter_shapes, random_params
from vdm_jax.runtime.hashing import sha256
from vdm_jax.text.encoders import ENCODERS
from vdm_jax.text.encoders.clip import ClipLayer, layer_tensors, projector
from vdm_jax.text.encoders.contract import TOKENIZER, Tensor
from vdm_jax.text.encoders.encoder_folder import CONFIG
from vdm_jax.text.encoders.transformer_layers import LayerNorm
from vdm_jax.text.encoders.weight_files import FLOATS, WEIGHTS, open_weights, read_arrays
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.types import Array, Params

# Statistics of the pixels CLIP was trained on, RGB in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Sizes of an image encoder, named as in Hugging Face's config.json."""

  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  patch_size: int
  projection_dim: int
  image_size: int = 224
  hidden_act: str = 'quick_gelu'
  layer_norm_eps: float = 1e-5


PUBLISHED = {
  'clip-vit-base-patch32': VisionConfig(768, 3072, 12, 12, 32, 512),
  'clip-vit-large-patch14': VisionConfig(1024, 4096, 24, 16, 14, 768),
}
CAPTION_LENGTH = 77  # tokens, the most CLIP reads
# SHA-256 -> repository, for files whose hash is public.
KNOWN = {'a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb': 'openai/clip-vit-large-patch14'}


class ClipImage(nn.Module):
  """Frames to embeddings, not normalized, in float32."""

  config: VisionConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x float32 [b s s 3], standardized -> [b d]."""
    config, width = self.config, self.config.hidden_size
    patch = (config.patch_size,) * 2
    x = nn.Conv(width, patch, patch, 'VALID', use_bias=False, precision='highest', name='patch')(x)
    x = x.reshape(len(x), -1, width)
    first = nn.Embed(1, width, name='class')(jnp.zeros((len(x), 1), int))
    x = jnp.concatenate((first, x), axis=1)
    x = x + nn.Embed(x.shape[1], width, name='position')(jnp.arange(x.shape[1]))
    x = LayerNorm(config.layer_norm_eps, jnp.float32, name='first_norm')(x)
    layers = nn.scan(
      ClipLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=config.num_hidden_layers,
    )
    everywhere, no_bias = jnp.ones(x.shape[:2], bool), jnp.zeros((1, 1, 1))
    x, _ = layers(config, jnp.float32, name='layers')(x, everywhere, no_bias)
    x = LayerNorm(config.layer_norm_eps, jnp.float32, name='last_norm')(x[:, 0])
    return nn.Dense(config.projection_dim, use_bias=False, precision='highest', name='projection')(x)


def network(name: str, config: VisionConfig) -> Network:
  """Return the computation of an image encoder."""
  module = ClipImage(config)

  def forward(params: Params, frames: Array) -> tuple[Array, None]:
    x = (frames.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
    return module.apply({'params': params}, x), None

  def on_host(frames: np.ndarray) -> np.ndarray:
    return np.stack([square(frame, config.image_size) for frame in frames])

  return Network(name, forward, (1, None), of_images=True, at_once=32, on_host=on_host)


def square(frame: np.ndarray, size: int) -> np.ndarray:
  """Return the center square of a frame, uint8 [h w 3] -> [size size 3].

  The shorter side is resized to `size` with Pillow's bicubic filter, in uint8; the longer side is cropped to its
  center, with an odd pixel cut off at the end.
  """
  height, width = frame.shape[:2]
  short = min(height, width)
  height, width = (size if side == short else int(size * side / short) for side in (height, width))
  resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
  top, left = (height - size) // 2, (width - size) // 2
  return resized[top : top + size, left : left + size]


def load_params(name: str, config: VisionConfig, folder: str) -> Params:
  """Return the parameters in a folder's safetensors files.

  Raises:
    ValueError: a tensor is missing, or has another shape or type.
  """
  tensors = _tensors(config)
  with open_weights(folder, _todays_name) as entries:
    for tensor in tensors:
      for theirs in tensor.names:
        if theirs not in entries:
          raise ValueError(
            f'{folder} has no tensor {theirs}: its weights are not those of a complete {name}, with image encoder and '
            f'projection; download them from openai/{name} on the Hugging Face hub'
          )
        shape, kind = entries[theirs].shape(), entries[theirs].kind()
        if shape != tensor.shape or kind not in FLOATS:
          raise ValueError(
            f'{folder}: tensor {theirs} is {kind} of shape {shape}, but {name} has floats of shape {tensor.shape}; '
            f'download them from openai/{name} on the Hugging Face hub'
          )
  read = {
    tuple(ours.split('/')): np.asarray(array, np.float32)
    for ours, array in read_arrays(folder, tensors, _todays_name, np.float32)
  }
  read['patch', 'kernel'] = read['patch', 'kernel'].transpose(2, 3, 1, 0)
  read['class', 'embedding'] = read['class', 'embedding'][None]
  return flax.traverse_util.unflatten_dict(read)


def entry(name: str) -> FeatureNetwork:
  """Return the entry of an image encoder of PUBLISHED, with its text encoder."""

  def whole(width: float) -> Network:
    if width != 1:
      raise ValueError(f'features of {name!r} have a single width; leave width at 1')
    return network(name, PUBLISHED[name])

  def stand_in(seed: int, _: float) -> Params:
    size = PUBLISHED[name].image_size
    shapes = parameter_shapes(ClipImage(PUBLISHED[name]), (1, size, size, 3))
    return flax.traverse_util.unflatten_dict(random_params(shapes, seed))

  def load(folder: Path, _: float) -> tuple[Params, str]:
    recorded = _recorded(name, folder, WEIGHTS)
    return load_params(name, PUBLISHED[name], str(folder)), recorded

  def load_text(folder: Path) -> tuple[Encode, str]:
    recorded = _recorded(name, folder, WEIGHTS, CONFIG, TOKENIZER)
    return projector(FrozenEncoder(ENCODERS[name], str(folder), CAPTION_LENGTH)), recorded

  return FeatureNetwork(
    network=whole,
    load_params=load,
    random_params=stand_in,
    files=(name,),
    download=_download(name),
    load_text=load_text,
    random_text=lambda seed: lambda captions: _directions(captions, PUBLISHED[name].projection_dim, seed),
  )


def _download(name: str) -> str:
  return f'{WEIGHTS}, {CONFIG} and {TOKENIZER} of openai/{name} on the Hugging Face hub, in one folder'


def _recorded(name: str, folder: Path, *needed: str) -> str:
  """The hash of the weights, if all files that are needed exist."""
  missing = [file for file in needed if not (folder / file).is_file()]
  if missing:
    raise FileNotFoundError(
      f'features of {name!r} need {_download(name)}, but {str(folder)!r} has no {", ".join(missing)}'
    )
  recorded = sha256(folder / WEIGHTS)
  known = KNOWN.get(recorded)
  return f'{recorded} ({known}, read by names)' if known else f'{recorded} (read by names)'


def _directions(captions: Sequence[str], width: int, seed: int) -> np.ndarray:
  """A random direction for each caption, which depends only on the caption and the seed: float32 [n width]."""
  digests = (hashlib.sha256(f'{seed} {caption}'.encode()).digest() for caption in captions)
  rows = [np.random.default_rng(list(digest)).standard_normal(width, np.float32) for digest in digests]
  return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def _tensors(config: VisionConfig) -> list[Tensor]:
  width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2

  def tensor(ours: str, theirs: str, *shape: int) -> Tensor:
    return Tensor(ours, [theirs], shape, (None,) * len(shape))

  return [
    tensor('class/embedding', 'embeddings.class_embedding', width),
    tensor('patch/kernel', 'embeddings.patch_embedding.weight', width, 3, config.patch_size, config.patch_size),
    tensor('position/embedding', 'embeddings.position_embedding.weight', patches + 1, width),
    tensor('first_norm/scale', 'pre_layrnorm.weight', width),  # spelled like this in the files
    tensor('first_norm/bias', 'pre_layrnorm.bias', width),
    *layer_tensors(config),
    tensor('last_norm/scale', 'post_layernorm.weight', width),
    tensor('last_norm/bias', 'post_layernorm.bias', width),
    tensor('projection/kernel', 'visual_projection.weight', config.projection_dim, width),
  ]


def _todays_name(name: str) -> str:
  return name.removeprefix('vision_model.')
