"""Embeddings of captions on disk, computed once by `cache_writer`, and the text function that reads them.

A folder holds `cache.json`, which says what the embeddings are of (`Record`), and safetensors files, the blocks. A hash
of a caption says which block it is in, whatever the other captions are: hosts write blocks without knowing of each
other, and a few new captions change a few blocks. Padding is not stored. Nothing here needs JAX, and nothing is ever
executed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Sequence, Set
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from vdm_jax.text import fingerprint
from vdm_jax.text.encoders import encoder_folder, published
from vdm_jax.text.encoders.encoder_folder import Published

RECORD = 'cache.json'
STORED = {'float32': np.float32, 'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}
COMMAND = '`python -m vdm_jax.text embed`'
_FORMAT = 1
_OPEN_BLOCKS = 1024  # files kept open, each with its captions in memory


@dataclasses.dataclass(frozen=True)
class Record:
  """What the embeddings of a cache are of, and how they are stored."""

  encoder: str  # data.text
  weights: str  # hash, of `fingerprint`
  tokenizer: str  # hash, of `fingerprint`
  length: int  # data.text_length
  dtype: str  # data.text_dtype
  stored: str  # key of STORED: what the embeddings are rounded to
  width: int
  blocks: int
  format: int = _FORMAT

  @property
  def digest(self) -> str:
    """Stands in every block, which belongs to no other cache."""
    return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

  def block_of(self, caption: str) -> int:
    """Returns the number of the block that `caption` is in, if the cache has it."""
    return int.from_bytes(hashlib.sha256(to_bytes(caption)).digest()[:8], 'big') % self.blocks


class Block:
  """One file of a cache: the embeddings of some captions, [k c] each.

  Raises ValueError for a file that is not whole or of another cache.
  """

  def __init__(self, file: Path, record: Record):
    try:
      self._file = safetensors.safe_open(file, framework='numpy')
    except safetensors.SafetensorError as error:
      raise ValueError(f'{file} is not whole ({error}); delete it and run {COMMAND} again') from error
    if (self._file.metadata() or {}).get('record') != record.digest:
      raise ValueError(f'{file} is of another cache than the {RECORD} beside it; delete it and run {COMMAND} again')
    text, ends = self._file.get_tensor('captions').tobytes(), self._file.get_tensor('caption_ends')
    captions = [text[a:b].decode('utf-8', 'surrogatepass') for a, b in _ranges(ends)]
    self._ranges = dict(zip(captions, _ranges(self._file.get_tensor('embedding_ends')), strict=True))
    self._embeddings = self._file.get_slice('embeddings')

  @property
  def captions(self) -> Set[str]:
    return self._ranges.keys()

  def read(self, caption: str) -> np.ndarray:
    """Returns its embedding [k c] as it is stored; raises KeyError where there is none."""
    start, end = self._ranges[caption]
    return self._embeddings[start:end]


class CachedText:
  """The text function of a cache: what the encoder gives, rounded as the cache says; float32 is not rounded.

  A caption that the cache lacks is encoded where `path` has the encoder. The pickle holds the arguments only; a copy
  hashes no weights.

  Args:
    folder: the cache.
    encoder: which encoder the embeddings must be of.
    path: folder of the encoder, whose weights and tokenizer must be those of the cache; '' trusts the cache.
    length: tokens per caption, l.
    dtype: what the encoder computed in, 'float32' or 'bfloat16'.
    checked: whether the cache was compared with `path` and the settings already.

  Raises:
    FileNotFoundError: there is no cache, or `path` lacks files.
    ValueError: the cache is of something else; the message lists what differs.
  """

  def __init__(
    self, folder: str, encoder: Published, path: str, length: int, dtype: str = 'float32', checked: bool = False
  ):
    self._arguments = folder, encoder, path, length, dtype
    self.record = read_record(folder)
    if not checked:
      check(folder, self.record, encoder, path, length, dtype)
    self.width = self.record.width
    self._lock = threading.Lock()
    self._block = functools.lru_cache(_OPEN_BLOCKS)(functools.partial(open_block, folder, self.record))

  def __reduce__(self):
    return type(self), (*self._arguments, True)

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings float32 [n l c], zero on padding, and mask bool [n l].

    Raises ValueError for a caption that is neither in the cache nor can be encoded.
    """
    tokens = np.zeros((len(captions), self.record.length, self.width), np.float32)
    mask = np.zeros((len(captions), self.record.length), bool)
    for row, caption in enumerate(captions):
      embedding = self._read(caption)
      tokens[row, : len(embedding)] = embedding
      mask[row, : len(embedding)] = True
    return tokens, mask

  def _read(self, caption: str) -> np.ndarray:
    block = self._block(self.record.block_of(caption))
    if block is not None and caption in block.captions:
      return block.read(caption)
    folder, _, path, *_ = self._arguments
    if not path:
      raise ValueError(
        f'data.text_cache={folder!r} lacks the caption {caption!r}, and data.text_path is empty: name the folder of '
        f'{self.record.encoder} with --config.data.text_path=FOLDER to encode it'
      )
    with self._lock:
      encode = self._encoder
    (tokens,), (mask,) = encode([caption])
    return tokens[mask].astype(STORED[self.record.stored])

  @functools.cached_property
  def _encoder(self) -> Any:
    _, encoder, path, length, dtype = self._arguments
    return published.encoder(encoder, path, length, dtype)


def read_record(folder: str) -> Record:
  """Returns what the cache in `folder` is of; raises FileNotFoundError or ValueError where there is no cache."""
  file = Path(folder) / RECORD
  if not file.is_file():
    raise FileNotFoundError(f'data.text_cache={folder!r} has no {RECORD}: {_fill("it")}')
  try:
    record = Record(**json.loads(file.read_text(encoding='utf-8')))
    for field in dataclasses.fields(Record):
      if type(value := getattr(record, field.name)).__name__ != field.type or not value:
        raise ValueError(f'{field.name} is {value!r}')
  except (ValueError, TypeError) as error:
    raise ValueError(f'{file} does not say what the cache is of ({error}): {_REMEDY}') from error
  if record.format != _FORMAT:
    raise ValueError(f'{file} is of format {record.format}, and only {_FORMAT} is read: {_REMEDY}')
  return record


def check(folder: str, record: Record, encoder: Published, path: str, length: int, dtype: str) -> None:
  """Raises ValueError unless the cache is what this encoder gives, and FileNotFoundError if `path` lacks files.

  Hashes the weights in `path`, and trusts the cache where it is ''.
  """
  found = [
    f'of data.{key}={made}, not {wanted}'
    for key, made, wanted in (
      ('text', record.encoder, encoder.name),
      ('text_length', record.length, length),
      ('text_dtype', record.dtype, dtype),
    )
    if made != wanted
  ]
  if path and not found:
    if lacking := encoder_folder.missing(path, encoder):
      raise FileNotFoundError(
        f'data.text_cache={folder!r} cannot be compared with its encoder; pass --config.data.text_path= to trust it. '
        f'{lacking}'
      )
    encoder_folder.require(path, encoder)
    found += [
      f'of another {what} than that in data.text_path={path!r}'
      for what, made, there in (
        ('set of weights', record.weights, fingerprint.weights),
        ('tokenizer', record.tokenizer, fingerprint.tokenizer),
      )
      if made != there(path, encoder)
    ]
  if found:
    raise ValueError(f'data.text_cache={folder!r} is stale: it is {" and ".join(found)}. {_REMEDY}')


def missing(folder: str, record: Record, captions: Iterable[str]) -> list[str]:
  """Returns the captions that a cache lacks, sorted; raises as `Block` does."""
  lacking = set()
  for number, wanted in by_block(record, captions).items():
    block = open_block(folder, record, number)
    lacking |= wanted - (block.captions if block is not None else set())
  return sorted(lacking)


def by_block(record: Record, captions: Iterable[str]) -> dict[int, set[str]]:
  """Returns the captions by the number of the block that they belong to."""
  blocks: dict[int, set[str]] = {}
  for caption in captions:
    blocks.setdefault(record.block_of(caption), set()).add(caption)
  return blocks


def problems(
  folder: str, encoder: Published, path: str, length: int, dtype: str, captions: Collection[str]
) -> list[str]:
  """Returns what keeps a training on `captions` from reading the cache, one sentence each; hashes the weights."""
  try:
    record = read_record(folder)
    check(folder, record, encoder, path, length, dtype)
    lacking = missing(folder, record, captions)
  except (ValueError, FileNotFoundError) as error:
    return [str(error)]
  if not lacking:
    return []
  return [
    f'data.text_cache={folder!r} lacks {len(lacking)} of the {len(set(captions))} captions of the data, such as '
    f'{lacking[0]!r}: {_fill("it")}; only those are computed'
  ]


def block_file(folder: str, record: Record, number: int) -> Path:
  """Returns the path of a block, which need not be there."""
  return Path(folder) / f'block-{number:05}-of-{record.blocks:05}.safetensors'


def open_block(folder: str, record: Record, number: int) -> Block | None:
  """Returns a block, None where there is none; raises as `Block` does."""
  file = block_file(folder, record, number)
  return Block(file, record) if file.is_file() else None


def to_bytes(caption: str) -> bytes:
  """Returns a caption as it is stored; it may come from a command line with bytes that are no UTF-8."""
  return caption.encode('utf-8', 'surrogatepass')


def _fill(what: str) -> str:
  return (
    f'fill {what} with {COMMAND} and the --config flags of the training, or leave data.text_cache empty to encode '
    'while training'
  )


_REMEDY = f'Name another folder with --config.data.text_cache=FOLDER and {_fill("it")}.'


def _ranges(ends: np.ndarray) -> list[tuple[int, int]]:
  return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
