"""Computing a cache of embeddings, block by block: see `cache` for what is in the folder.

Blocks appear whole or not at all, and hold the same bytes whenever, by whichever host and after however many
interruptions they are written on one kind of machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from vdm_jax.runtime.atomic_files import atomic_write, write_text
from vdm_jax.text import cache, fingerprint
from vdm_jax.text.cache import RECORD, STORED, Record
from vdm_jax.text.frozen import FrozenEncoder

BLOCK_CAPTIONS = 256  # on average; what a killed run loses at most


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
  """Writes what a cache lacks of the embeddings of `captions`, and returns how many captions were encoded.

  What the folder holds already is kept. Host `shard_index` of `shard_count` writes every `shard_count`-th block.
  `report` is told, after each block, how many captions of how many are done of those that were lacking.

  Raises:
    ValueError: the folder holds a cache of something else, `stored` is unknown, or cannot hold an embedding.
  """
  if stored not in STORED:
    raise ValueError(f'embeddings can be stored as {", ".join(STORED)}, not {stored!r}')
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
  """The record of the folder, written if there is none."""
  file = Path(folder) / RECORD
  wanted = Record(
    encoder=encode.published.name,
    weights=fingerprint.weights(encode.path, encode.published),
    tokenizer=fingerprint.tokenizer(encode.path, encode.published),
    length=encode.length,
    dtype=encode.dtype,
    stored=stored,
    width=encode.width,
    blocks=max(1, blocks),
  )
  if not file.is_file():
    write_text(file, json.dumps(dataclasses.asdict(wanted), indent=2) + '\n')  # as do hosts that come together
    return wanted
  record = cache.read_record(folder)
  cache.check(folder, record, encode.published, encode.path, encode.length, encode.dtype)
  if record.stored != stored:
    raise ValueError(
      f'data.text_cache={folder!r} holds {record.stored}, not {stored}: name another folder, or pass '
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
    temporary.write_bytes(save(tensors, {'record': record.digest}))  # not save_file, whose files none else may read


def _round(encode: FrozenEncoder, caption: str, record: Record) -> np.ndarray:
  (tokens,), (mask,) = encode([caption])
  with np.errstate(over='ignore'):
    embedding = tokens[mask].astype(STORED[record.stored])
  if not np.isfinite(embedding.astype(np.float32)).all():
    raise ValueError(
      f'the embedding of {caption!r} is not finite in {record.stored}: pass --store=float32, and if that fails too, '
      f'download the weights in {encode.path!r} again'
    )
  return embedding
