"""Embeddings of captions on disk, computed once by `cache_writer`, and the text function that reads them.

A folder holds `cache.json`, the settings that the embeddings were made with (`Record`), and the embeddings in
safetensors files, the blocks. A hash of a caption decides its block, whatever the other captions are: hosts write
blocks independently, and a few new captions change a few blocks. Padding is not stored. Reading a cache computes
nothing in JAX, and nothing in it is ever executed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Sequence, Set
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from vdm_jax.inputs.captions import composed
from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.contract import Encoder
from vdm_jax.text.fingerprint import fingerprint
from vdm_jax.text.frozen import FrozenEncoder

RECORD = 'cache.json'
STORED = {'float32': np.float32, 'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}
COMMAND = '`python -m vdm_jax.text embed`'
_FORMAT = 1
_OPEN_BLOCKS = 1024  # files kept open, each with its captions in memory


@dataclasses.dataclass(frozen=True)
class Record:
  """The settings that the embeddings of a cache were made with, and how they are stored."""

  encoder: str  # data.text
  weights: str  # of its `Fingerprint`
  tokenizer: str  # of its `Fingerprint`
  length: int  # data.text_length
  dtype: str  # data.text_dtype
  stored: str  # the type embeddings are rounded to, a key of STORED
  width: int
  blocks: int
  format: int = _FORMAT

  @property
  def digest(self) -> str:
    """SHA-256 of the record, stored in every block of this cache."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

  def block_of(self, caption: str) -> int:
    """Return the number of the block that `caption` belongs to."""
    return int.from_bytes(hashlib.sha256(to_bytes(caption)).digest()[:8], 'big') % self.blocks


class Block:
  """One file of a cache: the embeddings [k c] of some captions.

  Raises:
    ValueError: the file is incomplete, or belongs to another cache.
  """

  def __init__(self, file: Path, record: Record):
    try:
      self._file = safetensors.safe_open(file, framework='numpy')
    except safetensors.SafetensorError as error:
      raise ValueError(f'{file} is incomplete ({error}); delete it and run {COMMAND} again') from error
    if (self._file.metadata() or {}).get('record') != record.digest:
      raise ValueError(f'{file} does not belong to the {RECORD} beside it; delete it and run {COMMAND} again')
    text, ends = self._file.get_tensor('captions').tobytes(), self._file.get_tensor('caption_ends')
    captions = [text[a:b].decode('utf-8', 'surrogatepass') for a, b in _ranges(ends)]
    self._ranges = dict(zip(captions, _ranges(self._file.get_tensor('embedding_ends')), strict=True))
    self._embeddings = self._file.get_slice('embeddings')

  @property
  def captions(self) -> Set[str]:
    """The captions in this block."""
    return self._ranges.keys()

  def read(self, caption: str) -> np.ndarray:
    """Return the embedding [k c] of a caption in the stored type, or raise KeyError if it is not in this block."""
    start, end = self._ranges[caption]
    return self._embeddings[start:end]


class CachedText:
  """The text function of a cache: the encoder's embeddings, rounded to the cache's type (float32 is exact).

  A caption that is not in the cache is encoded, if `path` has the encoder. A pickle holds only the arguments, and
  unpickling hashes no weights.

  Args:
    folder: the cache.
    encoder: the encoder that the cache must be of.
    path: folder of the encoder, whose weights and tokenizer must be those of the cache; '' trusts the cache.
    length: tokens per caption, l.
    dtype: type of the encoder's matrix products, 'float32' or 'bfloat16'.
    checked: the cache has already been compared with `path` and the settings.

  Raises:
    FileNotFoundError: there is no cache, or `path` lacks files.
    ValueError: the cache was made with other settings; the message lists the differences.
  """

  def __init__(
    self, folder: str, encoder: Encoder, path: str, length: int, dtype: str = 'float32', checked: bool = False
  ):
    self._arguments = folder, encoder, path, length, dtype
    self.record = read_record(folder)
    if not checked:
      check(folder, self.record, encoder, path=path, length=length, dtype=dtype)
    self.width = self.record.width
    self._lock = threading.Lock()
    self._block = functools.lru_cache(_OPEN_BLOCKS)(functools.partial(open_block, folder, self.record))

  def __reduce__(self):
    return type(self), (*self._arguments, True)

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings float32 [n l c], zero on padding, and mask bool [n l].

    Raises:
      ValueError: a caption is not in the cache and cannot be encoded.
    """
    tokens = np.zeros((len(captions), self.record.length, self.width), np.float32)
    mask = np.zeros((len(captions), self.record.length), bool)
    for row, caption in enumerate(captions):
      embedding = self._read(caption)
      tokens[row, : len(embedding)] = embedding
      mask[row, : len(embedding)] = True
    return tokens, mask

  def count(self, caption: str) -> int:
    """Return the number of tokens of a caption, for which the encoder's tokenizer must be in `path`."""
    return self._encoder.count(caption)

  def _read(self, caption: str) -> np.ndarray:
    caption = composed(caption)
    block = self._block(self.record.block_of(caption))
    if block is not None and caption in block.captions:
      return block.read(caption)
    folder, _, path, *_ = self._arguments
    if not path:
      raise ValueError(
        f'data.text_cache={folder!r} lacks the caption {caption!r}, and data.text_path is empty: pass the folder of '
        f'{self.record.encoder} as --config.data.text_path=FOLDER to encode it'
      )
    with self._lock:
      encode = self._encoder
    (tokens,), (mask,) = encode([caption])
    return tokens[mask].astype(STORED[self.record.stored])

  @functools.cached_property
  def _encoder(self) -> FrozenEncoder:
    _, encoder, path, length, dtype = self._arguments
    return FrozenEncoder(encoder, path, length=length, dtype=dtype)


def read_record(folder: str) -> Record:
  """Return the record of the cache in `folder`.

  Raises:
    FileNotFoundError: there is no cache.
    ValueError: the record is invalid, or of another format.
  """
  file = Path(folder) / RECORD
  if not file.is_file():
    raise FileNotFoundError(f'data.text_cache={folder!r} has no {RECORD}: {_FILL}')
  try:
    record = Record(**json.loads(file.read_text(encoding='utf-8')))
    for field in dataclasses.fields(Record):
      if type(value := getattr(record, field.name)).__name__ != field.type or not value:
        raise ValueError(f'{field.name} is {value!r}')
  except (ValueError, TypeError) as error:
    raise ValueError(f'{file} is not a valid record of a cache ({error}): {_REMEDY}') from error
  if record.format != _FORMAT:
    raise ValueError(f'{file} has format {record.format}, but only {_FORMAT} is supported: {_REMEDY}')
  return record


def check(folder: str, record: Record, encoder: Encoder, *, path: str, length: int, dtype: str) -> None:
  """Check that the cache holds what this encoder computes. Hashes the weights in `path`; '' trusts the cache.

  Raises:
    FileNotFoundError: `path` lacks files.
    ValueError: the cache is stale.
  """
  differences = [
    f'made with data.{key}={cached}, not {wanted}'
    for key, cached, wanted in (
      ('text', record.encoder, encoder.name),
      ('text_length', record.length, length),
      ('text_dtype', record.dtype, dtype),
    )
    if cached != wanted
  ]
  if path and not differences:
    if lacking := encoder_folder.missing(path, encoder):
      raise FileNotFoundError(
        f'data.text_cache={folder!r} cannot be compared with its encoder; pass --config.data.text_path= to trust it. '
        f'{lacking}'
      )
    encoder_folder.require(path, encoder)
    found = fingerprint(path, encoder)
    differences += [
      f'made with other {what} than data.text_path={path!r} has'
      for what, cached, current in (
        ('weights', record.weights, found.weights),
        ('tokenizer files', record.tokenizer, found.tokenizer),
      )
      if cached != current
    ]
  if differences:
    raise ValueError(f'data.text_cache={folder!r} is stale: it was {" and ".join(differences)}. {_REMEDY}')


def missing(folder: str, record: Record, captions: Iterable[str]) -> list[str]:
  """Return the captions that are not in a cache, sorted; raises as `Block` does."""
  lacking = set()
  for number, wanted in by_block(record, captions).items():
    block = open_block(folder, record, number)
    lacking |= wanted - (block.captions if block is not None else set())
  return sorted(lacking)


def by_block(record: Record, captions: Iterable[str]) -> dict[int, set[str]]:
  """Return the captions grouped by the number of their block."""
  blocks: dict[int, set[str]] = {}
  for caption in captions:
    blocks.setdefault(record.block_of(caption), set()).add(caption)
  return blocks


def problems(
  folder: str, encoder: Encoder, captions: Collection[str], *, path: str, length: int, dtype: str
) -> list[str]:
  """Return what keeps a training on `captions` from reading the cache, one sentence each. Hashes the weights."""
  try:
    record = read_record(folder)
    check(folder, record, encoder, path=path, length=length, dtype=dtype)
    lacking = missing(folder, record, captions)
  except (ValueError, FileNotFoundError) as error:
    return [str(error)]
  if not lacking:
    return []
  return [
    f'data.text_cache={folder!r} lacks {len(lacking)} of the {len(set(captions))} captions of the data, such as '
    f'{lacking[0]!r}: {_FILL}; only those are computed'
  ]


def block_file(folder: str, record: Record, number: int) -> Path:
  """Return the path of a block, whether or not the file exists."""
  return Path(folder) / f'block-{number:05}-of-{record.blocks:05}.safetensors'


def open_block(folder: str, record: Record, number: int) -> Block | None:
  """Return a block, or None if its file does not exist; raises as `Block` does."""
  file = block_file(folder, record, number)
  return Block(file, record) if file.is_file() else None


def to_bytes(caption: str) -> bytes:
  """Return a caption as stored. Captions from a command line may contain bytes that are not UTF-8."""
  return caption.encode('utf-8', 'surrogatepass')


_FILL = (
  f'fill it with {COMMAND} and the --config flags of the training, or leave data.text_cache empty to encode while '
  'training'
)
_REMEDY = f'Name another folder with --config.data.text_cache=FOLDER and {_FILL}.'


def _ranges(ends: np.ndarray) -> list[tuple[int, int]]:
  return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
