"""A frozen BERT encoder in Flax, reading Hugging Face's files without PyTorch (Devlin et al. 2018).

VDM conditions on the last hidden states of BERT-large (Ho et al. 2022, section 4.3).
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.text import bert_folder
from vdm_jax.text.bert_folder import BertConfig
from vdm_jax.text.truncation import warn_truncated
from vdm_jax.types import Array, Params

_SPECIAL_TOKENS = 2  # [CLS] before and [SEP] after every caption, also the empty one
_REMEMBERED_CAPTIONS = 4096  # 80 kB each for 20 tokens of BERT-large


def _precision(dtype: Any) -> jax.lax.Precision | None:
  # float32 means float32: left alone, accelerators would multiply it as bfloat16 or TF32.
  return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class BertLayer(nn.Module):
  """Self-attention and a two-layer MLP, each followed by the norm of its residual sum (post-LN)."""

  config: BertConfig
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, mask: Array) -> tuple[Array, None]:
    """x [b l c], mask bool [b l] -> ([b l c], None), as nn.scan wants it."""
    config, precision = self.config, _precision(self.dtype)
    dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision)
    norm = functools.partial(_Norm, epsilon=config.layer_norm_eps, dtype=self.dtype)

    heads = config.num_attention_heads
    query, key, value = (
      dense(config.hidden_size, name=name)(x).reshape(*x.shape[:2], heads, -1)
      for name in ('query', 'key', 'value')
    )
    logits = jnp.einsum('bqhd,bkhd->bhqk', query, key, precision=precision).astype(jnp.float32)
    logits = logits / math.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, -jnp.inf)).astype(self.dtype)
    attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value, precision=precision).reshape(x.shape)

    x = norm(name='attention_norm')(x + dense(config.hidden_size, name='attention_output')(attended))
    y = nn.gelu(dense(config.intermediate_size, name='up')(x), approximate=False)
    return norm(name='down_norm')(x + dense(config.hidden_size, name='down')(y)), None


class BertEncoder(nn.Module):
  """Token ids to the last hidden states."""

  config: BertConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array, mask: Array) -> Array:
    """tokens int32 [b l], mask bool [b l], some True in each row -> float32 [b l c], zero off the mask."""
    config = self.config
    table = functools.partial(nn.Embed, features=config.hidden_size, dtype=self.dtype)
    position = table(config.max_position_embeddings, name='position')(jnp.arange(tokens.shape[1]))
    token_type = table(config.type_vocab_size, name='token_type')(jnp.zeros_like(tokens))
    x = table(config.vocab_size, name='word')(tokens) + position + token_type
    x = _Norm(epsilon=config.layer_norm_eps, dtype=self.dtype, name='norm')(x)
    layers = nn.scan(
      BertLayer,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=config.num_hidden_layers,
    )
    x, _ = layers(config, self.dtype, name='layers')(x, mask)
    return jnp.where(mask[..., None], x, 0).astype(jnp.float32)


class _Norm(nn.Module):
  """LayerNorm computed in float32, with the two-pass variance."""

  epsilon: float
  dtype: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


def load_params(path: str, config: BertConfig, dtype: Any = jnp.float32) -> Params:
  """Returns the variables of `BertEncoder` from the folder, numpy arrays of `dtype`, norms float32.

  The folder must be in order (`bert_folder.require`). Layers are stacked on a leading axis; linear maps are
  transposed to [in out].
  """
  with bert_folder.open_weights(path) as (weights, names):

    def read(name: str, dtype: Any) -> np.ndarray:
      return bert_folder.read_tensor(weights, names[name]).astype(dtype)

    def stacked(name: str, dtype: Any) -> np.ndarray:
      layers = range(config.num_hidden_layers)
      return np.stack([read(f'encoder.layer.{i}.{name}', dtype) for i in layers])

    params: dict[str, Any] = {
      ours: {'embedding': read(f'embeddings.{ours}_embeddings.weight', dtype)} for ours in bert_folder.TABLES
    }
    params['norm'] = {
      'scale': read('embeddings.LayerNorm.weight', np.float32),
      'bias': read('embeddings.LayerNorm.bias', np.float32),
    }
    params['layers'] = {
      ours: {
        'kernel': stacked(f'{name}.weight', dtype).swapaxes(1, 2),
        'bias': stacked(f'{name}.bias', dtype),
      }
      for name, ours in bert_folder.LAYER_LINEARS.items()
    } | {
      ours: {'scale': stacked(f'{name}.weight', np.float32), 'bias': stacked(f'{name}.bias', np.float32)}
      for name, ours in bert_folder.LAYER_NORMS.items()
    }
  return {'params': params}


class Bert:
  """The text function of a BERT folder: captions to the last hidden states of their word pieces.

  Files are checked at once; the weights are loaded at the first call, onto the first local device, and
  captions are encoded one at a time, so that an embedding does not depend on which captions came with it, to
  the bit. The last few thousand distinct captions are remembered. A pickle holds the arguments only: every
  process that calls the function loads its own copy of the weights (1.3 GB in float32 for BERT-large), so
  prefer threads to processes.

  Args:
    path: folder with model.safetensors, config.json and tokenizer.json or vocab.txt.
    length: tokens per caption, l, [CLS] and [SEP] included.
    width: embedding width the folder must have; None takes any.
    dtype: 'float32' or 'bfloat16', in which the encoder is stored and computes; embeddings are float32
      anyway.

  Raises:
    FileNotFoundError: files are missing; the message lists them and where they come from.
    ValueError: files that do not fit together, or a `length` or `dtype` out of range.
  """

  def __init__(self, path: str, length: int, width: int | None = None, dtype: str = 'float32'):
    self.config = bert_folder.require(path, width)
    longest = self.config.max_position_embeddings
    if not _SPECIAL_TOKENS < length <= longest:
      raise ValueError(
        f'data.text_length={length} must be from {_SPECIAL_TOKENS + 1} to {longest}, the positions of BERT'
      )
    if dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"dtype={dtype!r} must be 'float32' or 'bfloat16'")
    self.path, self.length, self.dtype = path, length, dtype
    self.width = self.config.hidden_size
    self._lock = threading.Lock()  # tokenizers of transformers are not safe to share, and weights load once
    self._embed = functools.lru_cache(_REMEMBERED_CAPTIONS)(self._compute)

  def __reduce__(self):
    return Bert, (self.path, self.length, self.width, self.dtype)

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings float32 [n l c], zero on padding, and mask bool [n l]; warns of cut captions."""
    tokens = np.zeros((len(captions), self.length, self.width), np.float32)
    mask = np.zeros((len(captions), self.length), bool)
    for row, caption in enumerate(captions):
      embedding = self._embed(caption)
      tokens[row, : len(embedding)] = embedding
      mask[row, : len(embedding)] = True
    return tokens, mask

  def _compute(self, caption: str) -> np.ndarray:
    """Returns the embeddings [k c] of the k word pieces of `caption`, k <= l."""
    with self._lock:
      encode, params, mesh = self._encoder
      ids = self._tokenizer(caption, verbose=False)['input_ids']
    if len(ids) > self.length:
      warn_truncated(caption, len(ids), self.length)
      ids = [*ids[: self.length - 1], ids[-1]]  # [SEP] stays the last
    padded = np.zeros((1, self.length), np.int32)
    padded[0, : len(ids)] = ids
    with jax.set_mesh(mesh):  # the caller may be under the mesh of its training, which spans other devices
      embeddings = encode(params, padded, np.arange(self.length)[None] < len(ids))
    return np.asarray(embeddings)[0, : len(ids)].copy()  # a view would keep the padding in memory

  @functools.cached_property
  def _encoder(self) -> tuple[Any, Params, jax.sharding.Mesh]:
    dtype, device = jnp.dtype(self.dtype), jax.local_devices()[0]
    params = jax.device_put(load_params(self.path, self.config, dtype), device)
    return jax.jit(BertEncoder(self.config, dtype).apply), params, jax.sharding.Mesh([device], ('text',))

  @functools.cached_property
  def _tokenizer(self) -> Any:
    # Only tokenizers are used, so the notice that PyTorch is absent would mislead.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    import transformers

    tokenizer = transformers.BertTokenizer.from_pretrained(self.path, local_files_only=True)
    if len(tokenizer) > self.config.vocab_size:
      raise ValueError(
        f'the tokenizer in {self.path} has {len(tokenizer)} tokens, {bert_folder.CONFIG} has '
        f'{self.config.vocab_size}; take both from the same model'
      )
    return tokenizer
