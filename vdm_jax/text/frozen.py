"""The text function of a frozen encoder, whatever its network."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.encoder_folder import Published
from vdm_jax.text.encoders.weight_files import read_arrays
from vdm_jax.text.truncation import warn_truncated
from vdm_jax.types import Params

_REMEMBERED_BYTES = 2**29  # 6,500 captions of 20 tokens of width 1024


def load_params(path: str, published: Published, dtype: Any, mesh: Mesh | None = None) -> Params:
  """Returns the variables of the encoder in a folder in order (`encoder_folder.require`).

  They lie on `mesh` as the table of `vdm_jax.partitioning` says, by default on the first local device. They are as
  narrow as the file's or as `dtype`, whichever is the narrower (`weight_files.read_arrays`).
  """
  family = published.family
  tensors = family.tensors(encoder_folder.read_config(path, published))
  axes = {tensor.ours: tensor.our_axes for tensor in tensors}
  params = {}
  for name, array in read_arrays(path, tensors, family.todays_name, dtype):  # the host holds one at a time
    sharding = partitioning.param_shardings(mesh or local_mesh(), {name: array}, {name: axes[name]})[name]
    params[name] = jax.device_put(array, sharding)
  return {'params': flax.traverse_util.unflatten_dict(params, sep='/')}


def local_mesh(sizes: Mapping[str, int] | None = None) -> Mesh:
  """Returns a mesh of all local devices with these sizes, or of the first one alone; see `partitioning.make_mesh`."""
  devices = jax.local_devices()
  return partitioning.make_mesh(sizes, devices) if sizes else partitioning.make_mesh({}, devices[:1])


class FrozenEncoder:
  """The text function of an encoder's folder: captions to the last hidden states of their word pieces.

  Files are checked at once; the weights are loaded at the first call, and captions are encoded one at a time, so that
  an embedding does not depend on which captions came with it, to the bit. The last distinct captions are remembered,
  in half a gigabyte at most. A pickle holds the arguments only: every process that calls the function loads its own
  copy of the weights, so prefer threads to processes.

  The weights take the room they have in the file, or less if `dtype` is the narrower: BERT-large 1.3 GB in
  float32, T5-11B 19.5 GB in float32 and 9.7 GB in bfloat16. With `mesh` they are shared out to all local devices,
  and the embeddings are the same up to rounding. A CPU has no bfloat16 products: there XLA holds a float32 copy of
  bfloat16 weights during every call.

  Args:
    published: which encoder the folder must hold.
    path: folder with its weights, configuration and tokenizer.
    length: tokens per caption, l, those that begin and end a caption included.
    dtype: 'float32' or 'bfloat16', in which the matrix products are computed; embeddings are float32 anyway.
    mesh: sizes of the mesh of local devices, such as {'fsdp': -1}; the first one alone by default. Not while another
      thread computes on these devices, for two programs with collectives may then wait for each other.

  Raises:
    FileNotFoundError: files are missing; the message lists them and where they come from.
    ValueError: files that do not fit together, or a `length` or `dtype` out of range.
  """

  network: ClassVar[Callable[..., Any]]  # (config, dtype) -> flax module of (tokens, mask)

  def __init__(
    self,
    published: Published,
    path: str,
    length: int,
    dtype: str = 'float32',
    mesh: Mapping[str, int] | None = None,
  ):
    self.config = encoder_folder.require(path, published)
    self.published, self.path, self.length, self.dtype, self.mesh = published, path, length, dtype, mesh
    self.width = published.width
    self._check_length()
    if dtype not in ('float32', 'bfloat16'):
      raise ValueError(f"dtype={dtype!r} must be 'float32' or 'bfloat16'")
    self._lock = threading.Lock()  # tokenizers of transformers are not safe to share, and weights load once
    captions = max(1, _REMEMBERED_BYTES // (4 * length * self.width))
    self._embed = functools.lru_cache(captions)(self._compute)

  def __reduce__(self):
    return type(self), (self.published, self.path, self.length, self.dtype, self.mesh)

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings float32 [n l c], zero on padding, and mask bool [n l]; warns of cut captions."""
    tokens = np.zeros((len(captions), self.length, self.width), np.float32)
    mask = np.zeros((len(captions), self.length), bool)
    for row, caption in enumerate(captions):
      embedding = self._embed(caption)
      tokens[row, : len(embedding)] = embedding
      mask[row, : len(embedding)] = True
    return tokens, mask

  def ids(self, caption: str) -> list[int]:
    """Returns the numbers of the tokens of `caption`, l at most; warns where it has more."""
    with self._lock:
      ids = self._tokenizer(caption, verbose=False)['input_ids']
    if len(ids) > self.length:
      warn_truncated(caption, len(ids), self.length)
      ids = [*ids[: self.length - 1], ids[-1]]  # what ends a caption stays the last
    return ids

  def _check_length(self) -> None:
    family = self.published.family
    shortest = len(family.empty) + 1
    longest = self.length if family.positions is None else getattr(self.config, family.positions)
    if not shortest <= self.length <= longest:
      allowed = f'from {shortest} to {longest}' if family.positions else f'at least {shortest}'
      raise ValueError(f'data.text_length={self.length} must be {allowed} for data.text={self.published.name}')

  def _compute(self, caption: str) -> np.ndarray:
    """Returns the embeddings [k c] of the k word pieces of `caption`, k <= l."""
    ids = self.ids(caption)
    with self._lock:
      encode, params, mesh = self._encoder
    padded = np.zeros((1, self.length), np.int32)
    padded[0, : len(ids)] = ids
    with jax.set_mesh(mesh):  # the caller may be under the mesh of its training, which spans other devices
      embeddings = encode(params, padded, np.arange(self.length)[None] < len(ids))
    return np.asarray(embeddings)[0, : len(ids)].copy()  # a view would keep the padding in memory

  @functools.cached_property
  def _encoder(self) -> tuple[Any, Params, Mesh]:
    dtype, mesh = jnp.dtype(self.dtype), local_mesh(self.mesh)
    encode = jax.jit(self.network(self.config, dtype).apply, out_shardings=partitioning.replicated(mesh))
    return encode, load_params(self.path, self.published, dtype, mesh), mesh

  @functools.cached_property
  def _tokenizer(self) -> Any:
    # Only tokenizers are used, so the notice that PyTorch is absent would mislead.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    family = self.published.family
    tokenizer = family.read_tokenizer(self.path)
    if len(tokenizer) > self.config.vocab_size:
      raise ValueError(
        f'the tokenizer in {self.path} has {len(tokenizer)} tokens, {encoder_folder.CONFIG} has '
        f'{self.config.vocab_size}; take both from the same model'
      )
    empty = tokenizer.convert_ids_to_tokens(tokenizer('')['input_ids'])
    if tuple(empty) != family.empty:
      raise ValueError(
        f'the tokenizer in {self.path} reads the empty caption as {" ".join(empty) or "nothing"!r}, '
        f'{family.title} reads it as {" ".join(family.empty)!r}; take it from {self.published.repository}'
      )
    return tokenizer
