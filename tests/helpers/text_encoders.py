"""Tiny versions of the published text encoders, for the weights in tests/text/fixtures, and their forward passes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.text.encoders import ENCODERS, encoder_folder
from vdm_jax.text.encoders.contract import LAYERS, Encoder
from vdm_jax.text.frozen import load_params

TINY_BERT = ENCODERS['bert-large']._replace(sizes={'hidden_size': 16})
TINY_CLIP = ENCODERS['clip-vit-large-patch14']._replace(sizes={'hidden_size': 16})
UMT5 = ENCODERS['umt5']
TINY_T5 = ENCODERS['t5-11b']._replace(sizes={'d_model': 16})


def forward(path: str, encoder: Encoder, tokens, mask, dtype=jnp.float32) -> np.ndarray:
  """The last hidden states of token ids [b l], by the module and weights of a folder."""
  network = encoder.architecture.network(encoder_folder.require(path, encoder), dtype)
  return np.asarray(jax.jit(network.apply)(load_params(path, encoder, dtype), tokens, mask))


def parameters(encoder: Encoder, config: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters that the module of a configuration initializes, by path."""
  tokens = jax.ShapeDtypeStruct((1, 4), 'int32')
  network = encoder.architecture.network(config, jnp.float32)
  params = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)['params']
  return {'/'.join(key.key for key in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}


def listed_parameters(encoder: Encoder, config: Any) -> dict[str, tuple[int, ...]]:
  """Shapes of the parameters that the encoder's list of tensors gives, by path."""
  shapes = {}
  for tensor in encoder.architecture.tensors(config):
    shape = tensor.shape[::-1] if tensor.parameter.endswith('/kernel') else tensor.shape
    stacked = tensor.parameter.startswith(LAYERS)
    shapes[tensor.parameter] = (len(tensor.names), *shape) if stacked else shape
  return shapes


def random_weights(path: str, encoder: Encoder) -> dict[str, np.ndarray]:
  """Small random weights for the configuration in a folder."""
  shapes = encoder_folder.tensor_shapes(encoder_folder.read_config(path, encoder), encoder.architecture)
  rng = np.random.default_rng(0)
  return {name: 0.02 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
