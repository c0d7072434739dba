"""Tiny networks, random parameters without zeros, and reference layers in numpy."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vdm_jax import configuration
from vdm_jax.networks import UNet3D

FRAMES, SIZE = 4, 8
SETTINGS = {
  'num_frames': FRAMES,
  'base_channels': 8,
  'channel_multipliers': (1, 2),
  'num_blocks': 1,
  'attention_resolutions': (4,),
  'head_width': 4,
  'embedding_width': 16,
  'embedding_layers': 2,
  'norm_groups': 4,
}
WORDS = ('left', 'right', 'three', 'two')


def make_config(**changes: Any):
  """Return a locked configuration of the tiny network; keys have `__` for the dot."""
  config = configuration.default()
  data = {'num_frames': FRAMES, 'height': SIZE, 'width': SIZE, 'text_length': 3}
  own = {f'model__{key}': value for key, value in SETTINGS.items() if key != 'num_frames'}
  for key, value in ({f'data__{key}': value for key, value in data.items()} | own | changes).items():
    config.update_from_flattened_dict({key.replace('__', '.'): value})
  return config


def draw(shapes: Any, seed: int = 0) -> Any:
  """Return random parameters, none of them zero, for a tree of arrays or shapes."""
  rng = np.random.default_rng(seed)

  def leaf(path: Any, leaf: Any) -> jax.Array:
    name, noise = path[-1].key, rng.standard_normal(leaf.shape).astype(np.float32)
    if name == 'kernel':
      return jnp.asarray(noise * np.float32(noise.size**-0.25))
    return jnp.asarray(noise if noise.ndim > 1 else 0.3 * noise + (name == 'scale'))

  return jax.tree_util.tree_map_with_path(leaf, nn.unbox(shapes))


def drawn(module: nn.Module, *inputs: Any, seed: int = 0) -> dict[str, Any]:
  """Return random variables of a module, without running its initializers."""
  return draw(jax.eval_shape(lambda rng: module.init(rng, *inputs), jax.random.key(0)), seed)


@functools.cache
def forward(module: UNet3D):
  """Return the compiled network: (variables, x, logsnr, cond) -> output."""
  return jax.jit(lambda variables, x, logsnr, cond: module.apply(variables, x, logsnr, cond)[0])


@contextlib.contextmanager
def says(message: str, kind: type[Exception] = ValueError) -> Iterator[None]:
  """Context that expects an error with exactly this message."""
  with pytest.raises(kind) as error:
    yield
  assert str(error.value) == message


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def swish(x: np.ndarray) -> np.ndarray:
  return x / (1 + np.exp(-x))


def softmax(logits: np.ndarray) -> np.ndarray:
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def affine(params: dict[str, Any], x: np.ndarray) -> np.ndarray:
  """A dense layer over the last axis, in float64."""
  return np.tensordot(np.float64(x), np.float64(params['kernel']), 1) + params['bias']


def convolve(params: dict[str, Any], x: np.ndarray, stride: int = 1) -> np.ndarray:
  """A 3x3 convolution in float64, tap by tap; at stride 2 there is padding at the end only."""
  kernel, (n, h, w, _) = np.float64(params['kernel']), x.shape
  before = 1 if stride == 1 else 0
  padded = np.pad(np.float64(x), ((0, 0), (before, 1), (before, 1), (0, 0)))
  out = np.zeros((n, h // stride, w // stride, kernel.shape[-1]))
  for i, j in itertools.product(range(3), repeat=2):
    out += padded[:, i : i + h : stride, j : j + w : stride] @ kernel[i, j]
  return out + params['bias']


def group_norm(params: dict[str, Any], x: np.ndarray, groups: int) -> np.ndarray:
  """Group normalization of each frame `[n h w c]` in float64."""
  n, h, w, c = x.shape
  split = np.float64(x).reshape(n, h, w, groups, c // groups)
  centered = split - split.mean((1, 2, 4), keepdims=True)
  normed = centered / np.sqrt(np.square(centered).mean((1, 2, 4), keepdims=True) + 1e-6)
  return normed.reshape(x.shape) * params['scale'] + params['bias']
