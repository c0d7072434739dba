"""CLIP's image encoder (Radford et al. 2021): frames into the space they share with captions.

Its layers are those of the text encoder in `vdm_jax.text.encoders.clip`, without the causal mask; its weights are in
the same files.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vdm_jax.evaluation.features.extractor import Network
from vdm_jax.text.encoders.clip import ClipLayer, layer_tensors
from vdm_jax.text.encoders.contract import Tensor
from vdm_jax.text.encoders.transformer_layers import LayerNorm
from vdm_jax.text.encoders.weight_files import FLOATS, open_weights, read_arrays
from vdm_jax.types import Array, Params

# Of the pixels CLIP was trained on, in [0, 1], red first.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """What an image encoder computes, under the names of Hugging Face's config.json."""

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


class ClipImage(nn.Module):
  """Frames to embeddings, not normalised; everything in float32."""

  config: VisionConfig

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """x float32 [b s s 3], standardised -> [b d]."""
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
  """Returns the feature network of an image encoder."""
  module = ClipImage(config)

  def forward(params: Params, frames: Array) -> tuple[Array, None]:
    x = (frames.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
    return module.apply({'params': params}, x), None

  def on_host(frames: np.ndarray) -> np.ndarray:
    return np.stack([square(frame, config.image_size) for frame in frames])

  return Network(name, forward, (1, None), of_images=True, at_once=32, on_host=on_host)


def square(frame: np.ndarray, size: int) -> np.ndarray:
  """Returns the middle square of a frame, uint8 [h w 3] -> [size size 3].

  The shorter side is resized to `size` with Pillow's bicubic filter, to whole bytes; the longer side is cut to its
  middle, an odd pixel more at the end.
  """
  height, width = frame.shape[:2]
  short = min(height, width)
  height, width = (size if side == short else int(size * side / short) for side in (height, width))
  resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
  top, left = (height - size) // 2, (width - size) // 2
  return resized[top : top + size, left : left + size]


def load_params(name: str, config: VisionConfig, folder: str) -> Params:
  """Returns the parameters in a folder's safetensors files; raises ValueError where a tensor is missing or unlike."""
  tensors = _tensors(config)
  with open_weights(folder, _todays_name) as entries:
    for tensor in tensors:
      for theirs in tensor.names:
        if theirs not in entries:
          raise ValueError(
            f'{folder} has no tensor {theirs}: its weights are not of a whole {name}, which has an '
            f'encoder of images and its projection; take them from openai/{name} on the Hugging Face hub'
          )
        shape, kind = entries[theirs].shape(), entries[theirs].kind()
        if shape != tensor.shape or kind not in FLOATS:
          raise ValueError(
            f'{folder}: tensor {theirs} is {kind} of shape {shape}, {name} has floats of shape {tensor.shape}; take '
            f'them from openai/{name} on the Hugging Face hub'
          )
  read = {
    tuple(ours.split('/')): np.asarray(array, np.float32)
    for ours, array in read_arrays(folder, tensors, _todays_name, np.float32)
  }
  read['patch', 'kernel'] = read['patch', 'kernel'].transpose(2, 3, 1, 0)
  read['class', 'embedding'] = read['class', 'embedding'][None]
  return flax.traverse_util.unflatten_dict(read)


def _tensors(config: VisionConfig) -> list[Tensor]:
  width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2

  def tensor(ours: str, theirs: str, *shape: int) -> Tensor:
    return Tensor(ours, [theirs], shape, (None,) * len(shape))

  return [
    tensor('class/embedding', 'embeddings.class_embedding', width),
    tensor('patch/kernel', 'embeddings.patch_embedding.weight', width, 3, config.patch_size, config.patch_size),
    tensor('position/embedding', 'embeddings.position_embedding.weight', patches + 1, width),
    tensor('first_norm/scale', 'pre_layrnorm.weight', width),  # so spelled in the files
    tensor('first_norm/bias', 'pre_layrnorm.bias', width),
    *layer_tensors(config),
    tensor('last_norm/scale', 'post_layernorm.weight', width),
    tensor('last_norm/bias', 'post_layernorm.bias', width),
    tensor('projection/kernel', 'visual_projection.weight', config.projection_dim, width),
  ]


def _todays_name(name: str) -> str:
  return name.removeprefix('vision_model.')
