"""Computing the embeddings of a data set's captions once, for trainings to read."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from ml_collections import ConfigDict

from vdm_jax import data, text
from vdm_jax.errors import InvalidInput
from vdm_jax.inputs.caption_lengths import cut_report
from vdm_jax.text import cache, cache_writer, truncation
from vdm_jax.text.encoders import ENCODERS


def embed(
  config: ConfigDict, *, stored: str = 'float32', mesh: Mapping[str, int] | None = None, host: tuple[int, int] = (0, 1)
) -> int:
  """Fill `data.text_cache` with the embeddings of all captions of both splits, and of the empty caption.

  Args:
    config: the configuration of the training.
    stored: the type to round embeddings to, see `cache_writer.embed`.
    mesh: how the weights are sharded over the local devices, see `FrozenEncoder`.
    host: the number of this host, and how many hosts share the work.

  Returns:
    The exit status.

  Raises:
    InvalidInput: `data.text` is not a frozen encoder, or `data.text_cache` is empty.
  """
  section = config.data
  if not text.is_frozen(section.text):
    raise InvalidInput(
      f'data.text={section.text!r} has no embeddings: name a frozen encoder with --encoder, one of '
      f'{", ".join(ENCODERS)}.'
    )
  if not section.text_cache:
    raise InvalidInput('data.text_cache is empty: name a folder for the embeddings, such as --out=data/text.')
  captions = {*data.captions(section), ''}
  encode = text.encoder(
    ENCODERS[section.text], section.text_path, length=section.text_length, dtype=section.text_dtype, mesh=mesh
  )
  cut = cut_report([encode.count(caption) for caption in captions], section.text_length)
  truncation.mute()
  if cut is not None:
    print(f'warning: {cut}', file=sys.stderr)
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
  state = f'{lacking} left to other hosts' if lacking else 'complete'
  print(f'{section.text_cache}: {len(captions)} captions, {new} encoded now, {state}', file=sys.stderr)
  if not lacking:
    print(f'train with --config.data.text_cache={section.text_cache}', file=sys.stderr)
  return 0


def read_host(value: str) -> tuple[int, int]:
  """Return `3/8`, the fourth of eight hosts, as (3, 8).

  Raises:
    InvalidInput: `value` is not of this form.
  """
  match = re.fullmatch(r'(\d+)/(\d+)', value)
  if not match or int(match[1]) >= int(match[2]):
    raise InvalidInput(
      f'--host={value} is not a valid share: pass 0/2 to the first of two hosts and 1/2 to the second.'
    )
  return int(match[1]), int(match[2])
