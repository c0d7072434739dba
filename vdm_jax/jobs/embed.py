"""Computing the embeddings of a data set's captions once, for trainings to read."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from ml_collections import ConfigDict

from vdm_jax import data, text
from vdm_jax.errors import InvalidInput
from vdm_jax.text import cache, cache_writer
from vdm_jax.text.encoders.published import PUBLISHED


def embed(
  config: ConfigDict, *, stored: str = 'float32', mesh: Mapping[str, int] | None = None, host: tuple[int, int] = (0, 1)
) -> int:
  """Fills `data.text_cache` with the embeddings of all captions of both splits, and of the empty one.

  `stored`, `mesh` and `host` are those of `cache_writer.embed` and `FrozenEncoder`: what embeddings are rounded to, how
  the weights lie on the local devices, and which share of the work is this host's.
  """
  section = config.data
  if text.width(section.text) is None:
    raise InvalidInput(
      f'data.text={section.text!r} has no embeddings to keep: name a frozen encoder with --encoder, one of '
      f'{", ".join(PUBLISHED)}.'
    )
  if not section.text_cache:
    raise InvalidInput(
      'data.text_cache is empty: name the folder for the embeddings, such as --out=data/clips-bert-large.'
    )
  captions = {*data.captions(section), ''}
  encode = text.encoder(PUBLISHED[section.text], section.text_path, section.text_length, section.text_dtype, mesh)
  new = cache_writer.embed(
    encode,
    captions,
    section.text_cache,
    stored=stored,
    shard_index=host[0],
    shard_count=host[1],
    report=lambda done, total: print(f'{done} of {total} captions encoded', file=sys.stderr),
  )
  lacking = len(cache.missing(section.text_cache, cache.read_record(section.text_cache), captions))
  rest = f'{lacking} are left to other hosts' if lacking else 'complete'
  print(f'{section.text_cache}: {len(captions)} captions, {new} encoded now, {rest}', file=sys.stderr)
  if not lacking:
    print(f'train with --config.data.text_cache={section.text_cache}', file=sys.stderr)
  return 0


def read_host(value: str) -> tuple[int, int]:
  """`3/8`, the fourth of eight hosts, as (3, 8)."""
  match = re.fullmatch(r'(\d+)/(\d+)', value)
  if not match or int(match[1]) >= int(match[2]):
    raise InvalidInput(
      f'--host={value} is no share of the work: give 0/2 to the first of two hosts and 1/2 to the second.'
    )
  return int(match[1]), int(match[2])
