"""Writing a cache of embeddings, block by block; `cache` describes the folder.

A block is written completely or not at all. It holds the same bytes whenever and by whichever host it is written, on
one kind of machine, however often the run was interrupted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from vdm_jax.runtime.atomic_files import atomic_write, write_text
from vdm_jax.text import cache
from vdm_jax.text.cache import RECORD, STORED, Record
from vdm_jax.text.fingerprint import fingerprint
from vdm_jax.text.frozen import FrozenEncoder

BLOCK_CAPTIONS = 256  # on average; a killed run loses at most one block


def embed(
  encode: FrozenEncoder,
  captions: Iterable[str],
  folder: str,
  *,
  stored: str = 'float32',
  shard_index: int = 0,
  shard_count: int = 1,
  report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
  """Write the embeddings of `captions` that a cache lacks; what it has is kept.

  Args:
    encode: the encoder.
    captions: the captions that the cache should have.
    folder: the cache.
    stored: the type to round embeddings to, a key of `cache.STORED`.
    shard_index: this host writes every `shard_count`-th block, starting with this one.
    shard_count: the number of hosts that share the work.
    report: called after each block with the number of captions encoded so far, and in total.

  Returns:
    How many captions were encoded.

  Raises:
    ValueError: the folder holds a cache made with other settings; `stored` is unknown, or cannot hold an embedding.
  """
  if stored not in STORED:
    raise ValueError(f'embeddings cannot be stored as {stored!r}: choose one of {", ".join(STORED)}')
  captions = set(captions)
  record = _record(encode, folder, stored, -(-len(captions) // BLOCK_CAPTIONS))
  lacking = cache.by_block(record, cache.missing(folder, record, captions))
  mine = {number: lacking[number] for number in sorted(lacking) if number % shard_count == shard_index}
  total, done = sum(map(len, mine.values())), 0
  for number, new in mine.items():
    _write_block(encode, folder, record, number, new)
    done += len(new)
    report(done, total)
  return total


def _record(encode: FrozenEncoder, folder: str, stored: str, blocks: int) -> Record:
  """Return the record of the folder; write it if there is none."""
  file = Path(folder) / RECORD
  if not file.is_file():
    found = fingerprint(encode.path, encode.encoder)
    record = Record(
      encoder=encode.encoder.name,
      weights=found.weights,
      tokenizer=found.tokenizer,
      length=encode.length,
      dtype=encode.dtype,
      stored=stored,
      width=encode.width,
      blocks=max(1, blocks),
    )
    write_text(file, json.dumps(dataclasses.asdict(record), indent=2) + '\n')  # hosts that race write the same
    return record
  record = cache.read_record(folder)
  cache.check(folder, record, encode.encoder, path=encode.path, length=encode.length, dtype=encode.dtype)
  if record.stored != stored:
    raise ValueError(
      f'data.text_cache={folder!r} is stored as {record.stored}, not {stored}: name another folder, or pass '
      f'--store={record.stored}'
    )
  return record


def _write_block(encode: FrozenEncoder, folder: str, record: Record, number: int, new: set[str]) -> None:
  old = cache.open_block(folder, record, number)
  kept = set(old.captions) if old is not None else set()
  captions = sorted(kept | new)
  embeddings = [old.read(c) if c in kept else _round(encode, c, record) for c in captions]
  text = [cache.to_bytes(caption) for caption in captions]
  tensors = {
    'captions': np.frombuffer(b''.join(text), np.uint8),
    'caption_ends': np.cumsum([len(caption) for caption in text], dtype=np.int64),
    'embedding_ends': np.cumsum([len(embedding) for embedding in embeddings], dtype=np.int64),
    'embeddings': np.concatenate(embeddings),
  }
  with atomic_write(cache.block_file(folder, record, number)) as temporary:
    # Not save_file, whose files only their owner may read.
    temporary.write_bytes(save(tensors, {'record': record.digest}))


def _round(encode: FrozenEncoder, caption: str, record: Record) -> np.ndarray:
  """Return the embedding of a caption in the stored type."""
  (tokens,), (mask,) = encode([caption])
  with np.errstate(over='ignore'):
    embedding = tokens[mask].astype(STORED[record.stored])
  if not np.isfinite(embedding.astype(np.float32)).all():
    raise ValueError(
      f'the embedding of {caption!r} is not finite in {record.stored}: pass --store=float32; if that fails too, '
      f'download the weights in {encode.path!r} again'
    )
  return embedding
