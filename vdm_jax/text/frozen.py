"""The text function of a frozen encoder."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.inputs.captions import composed
from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.contract import Encoder
from vdm_jax.text.encoders.weight_files import read_arrays
from vdm_jax.text.truncation import Truncation
from vdm_jax.types import Params

_CACHED_BYTES = 2**29  # 6,500 captions of 20 tokens of width 1024


def load_params(path: str, encoder: Encoder, dtype: Any, mesh: Mesh | None = None) -> Params:
  """Return the variables of an encoder's module.

  Args:
    path: a folder that passes `encoder_folder.require`.
    encoder: the encoder in it.
    dtype: parameters have this type or the file's, whichever is narrower (`weight_files.read_arrays`).
    mesh: devices to shard the parameters over, by `vdm_jax.partitioning.RULES`; by default the first local device.
  """
  architecture = encoder.architecture
  tensors = architecture.tensors(encoder_folder.read_config(path, encoder))
  axes = {tensor.parameter: tensor.parameter_axes for tensor in tensors}
  params = {}
  for name, array in read_arrays(path, tensors, architecture.canonical_name, dtype):  # one at a time in host memory
    sharding = partitioning.param_shardings(mesh or local_mesh(), {name: array}, {name: axes[name]})[name]
    params[name] = jax.device_put(array, sharding)
  return {'params': flax.traverse_util.unflatten_dict(params, sep='/')}


def local_mesh(sizes: Mapping[str, int] | None = None) -> Mesh:
  """Return a mesh of all local devices with these sizes (`partitioning.make_mesh`), or of the first one alone."""
  devices = jax.local_devices()
  return partitioning.make_mesh(sizes, devices) if sizes else partitioning.make_mesh({}, devices[:1])


class FrozenEncoder:
  """Maps captions to the last hidden states of their tokens.

  Files are checked at once; weights are loaded at the first call. Captions are encoded one at a time, so an embedding
  does not depend on the other captions of a call, to the bit. The most recent captions are cached, up to half a
  gigabyte. A pickle holds only the arguments: every process that calls the function loads its own copy of the weights,
  so prefer threads to processes.

  Weights take as much memory as in the file, or less if `dtype` is narrower: BERT-large 1.3 GB in float32, T5-11B
  19.5 GB in float32 and 9.7 GB in bfloat16. With `mesh` they are sharded over all local devices, and embeddings are the
  same up to rounding. A CPU has no bfloat16 products: XLA then holds a float32 copy of bfloat16 weights during a call.

  Args:
    encoder: the encoder that the folder must hold.
    path: folder with its weights, configuration and tokenizer.
    length: tokens per caption, l, including those that begin and end a caption.
    dtype: 'float32' or 'bfloat16', the type of the matrix products. Embeddings are always float32.
    mesh: sizes of the mesh of local devices, such as {'fsdp': -1}; by default the first device. Do not use it while
      another thread computes on these devices: two programs with collectives can deadlock.

  Raises:
    FileNotFoundError: files are missing; the message lists them and where to get them.
    ValueError: files that do not fit together, or an invalid `length` or `dtype`.
  """

  def __init__(
    self,
    encoder: Encoder,
    path: str,
    length: int,
    dtype: str = 'float32',
    mesh: Mapping[str, int] | None = None,
  ):
    self.config = encoder_folder.require(path, encoder)
    self.encoder, self.path, self.length, self.dtype, self.mesh = encoder, path, length, dtype, mesh
    self.width = getattr(self.config, encoder.architecture.width_field)
    self._check_length()
    if dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"dtype={dtype!r} is not valid: choose 'float32' or 'bfloat16'")
    self._truncation = Truncation()
    self._lock = threading.Lock()  # transformers' tokenizers are not thread-safe, and weights are loaded once
    captions = max(1, _CACHED_BYTES // (4 * length * self.width))
    self._embed = functools.lru_cache(captions)(self._compute)

  def __reduce__(self):
    return type(self), (self.encoder, self.path, self.length, self.dtype, self.mesh)

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings float32 [n l c], zero on padding, and mask bool [n l]. Warns about the first cut caption."""
    tokens = np.zeros((len(captions), self.length, self.width), np.float32)
    mask = np.zeros((len(captions), self.length), bool)
    for row, caption in enumerate(captions):
      embedding = self._embed(caption)
      tokens[row, : len(embedding)] = embedding
      mask[row, : len(embedding)] = True
    return tokens, mask

  def ids(self, caption: str) -> list[int]:
    """Return the token ids of `caption`, at most l. Warns if it is the first that has more."""
    ids = self._all_ids(caption)
    if len(ids) > self.length:
      self._truncation.warn(caption, len(ids), self.length)
      ids = [*ids[: self.length - 1], ids[-1]]  # keep the token that ends a caption
    return ids

  def count(self, caption: str) -> int:
    """Return the number of tokens of a caption, also beyond `length`."""
    return len(self._all_ids(caption))

  def _all_ids(self, caption: str) -> list[int]:
    with self._lock:
      return self._tokenizer(composed(caption), verbose=False)['input_ids']

  def _check_length(self) -> None:
    architecture = self.encoder.architecture
    shortest = len(architecture.empty_caption) + 1
    longest = None if architecture.length_field is None else getattr(self.config, architecture.length_field)
    if self.length < shortest or (longest is not None and self.length > longest):
      allowed = f'at least {shortest}' if longest is None else f'from {shortest} to {longest}'
      raise ValueError(f'data.text_length={self.length} must be {allowed} for data.text={self.encoder.name}')

  def _compute(self, caption: str) -> np.ndarray:
    """Return the embeddings [k c] of the k <= l tokens of `caption`."""
    ids = self.ids(caption)
    with self._lock:
      encode, params, mesh = self._module
    padded = np.zeros((1, self.length), np.int32)
    padded[0, : len(ids)] = ids
    with jax.set_mesh(mesh):  # the caller may be under the mesh of its training, which has other devices
      embeddings = encode(params, padded, np.arange(self.length)[None] < len(ids))
    return np.asarray(embeddings)[0, : len(ids)].copy()  # a view would keep the padding in memory

  @functools.cached_property
  def _module(self) -> tuple[Any, Params, Mesh]:
    dtype, mesh = jnp.dtype(self.dtype), local_mesh(self.mesh)
    network = self.encoder.architecture.network(self.config, dtype)
    encode = jax.jit(network.apply, out_shardings=partitioning.replicated(mesh))
    return encode, load_params(self.path, self.encoder, dtype, mesh), mesh

  @functools.cached_property
  def _tokenizer(self) -> Any:
    # Only tokenizers are used, so the notice that PyTorch is absent would mislead.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    architecture = self.encoder.architecture
    tokenizer = architecture.read_tokenizer(self.path)
    if len(tokenizer) > self.config.vocab_size:
      raise ValueError(
        f'the tokenizer in {self.path} has {len(tokenizer)} tokens, but {encoder_folder.CONFIG} has vocab_size='
        f'{self.config.vocab_size}; take both from the same model'
      )
    empty = tokenizer.convert_ids_to_tokens(tokenizer('')['input_ids'])
    if tuple(empty) != architecture.empty_caption:
      raise ValueError(
        f'the tokenizer in {self.path} maps the empty caption to {" ".join(empty) or "nothing"!r}, but '
        f'{architecture.title} needs {" ".join(architecture.empty_caption)!r}; download it from '
        f'{self.encoder.repository}'
      )
    return tokenizer
