"""Index of a tar file of a WebDataset: where each sample's files are, so that any of them is read at once.

Nothing is unpacked by name. An index is computed from the headers of the members, and kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from vdm_jax.data.sources.archives.members import CAPTION_KEYS
from vdm_jax.data.sources.folder import SUFFIXES
from vdm_jax.data.sources.frame_folders import are_frames
from vdm_jax.inputs.captions import clean
from vdm_jax.inputs.text_files import decode
from vdm_jax.runtime.atomic_files import write_text

CACHE = pathlib.Path('.cache', 'vdm_jax', 'tar_index')  # below the user's home
CACHED_FROM = 1000  # samples; smaller files are indexed faster than the cache is read
MAX_TEXT = 2**20  # bytes of a caption or description
_FORMAT = 1
_BLOCK = 512


class Sample(NamedTuple):
  """The files of one key."""

  key: str
  files: dict[str, tuple[int, int]]  # offset and number of bytes, by suffix of a whole clip, or by name of an image
  caption: str = ''
  label: int | str | None = None
  problem: str = ''  # why it cannot be used


def index(file: pathlib.Path) -> list[Sample]:
  """Return the samples of a tar file, in its order.

  The key of a member is its path up to the first dot of its name, and the rest is the extension, as in WebDataset.

  Raises:
    ValueError: the file is compressed, truncated or no tar file, has a member twice, or one that is a link or outside.
  """
  stat = file.stat()
  state = json.dumps([_FORMAT, str(file.resolve()), stat.st_size, stat.st_mtime_ns])
  kept = pathlib.Path.home() / CACHE / f'{hashlib.sha256(state.encode()).hexdigest()}.json'
  with contextlib.suppress(OSError, ValueError, TypeError):
    values = json.loads(kept.read_text(encoding='utf-8'))
    return [Sample(**value) for value in values]
  samples = _read_samples(file)
  if len(samples) >= CACHED_FROM:
    with contextlib.suppress(OSError):  # a cache that cannot be written is not needed
      kept.parent.mkdir(parents=True, exist_ok=True)
      write_text(kept, json.dumps([sample._asdict() for sample in samples]))
  return samples


def _read_samples(file: pathlib.Path) -> list[Sample]:
  groups: dict[str, dict[str, tarfile.TarInfo]] = {}
  with open(file, 'rb') as stream:
    for member in _members(file, stream):
      folder, _, name = member.name.removeprefix('./').rpartition('/')
      if name.startswith('.'):  # of a file system, not of the data
        continue
      stem, _, extension = name.partition('.')
      group = groups.setdefault(f'{folder}/{stem}' if folder else stem, {})
      if extension.lower() in group:
        raise ValueError(f'{file}: {member.name} is there twice; write the shard again with unique keys.')
      group[extension.lower()] = member
    return [_sample(file, stream, key, group) for key, group in groups.items()]


def _members(file: pathlib.Path, stream: Any) -> Iterator[tarfile.TarInfo]:
  """Yield the regular files of an archive after checking that it is complete and has no others."""
  size, end = file.stat().st_size, 0
  try:
    with tarfile.open(fileobj=stream, mode='r:') as archive:
      for member in archive:
        parts = pathlib.PurePosixPath(member.name).parts
        if member.name.startswith('/') or '..' in parts or '\\' in member.name or '\0' in member.name:
          raise ValueError(f'{file}: the member {member.name!r} is outside the archive; write the shard again.')
        if not (member.isdir() or (member.isreg() and not member.issparse())):
          raise ValueError(
            f'{file}: the member {member.name!r} is a link or no regular file; write the shard again with the files.'
          )
        end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
        if member.offset_data + member.size > size:
          raise ValueError(f'{file}: is truncated within {member.name}; copy it again.')
        if member.isreg():
          yield member
  except tarfile.TarError as error:
    hint = 'unpack it with gzip -d or zstd -d' if file.suffix in ('.gz', '.tgz', '.zst') else 'copy it again'
    raise ValueError(f'{file}: is not a complete, uncompressed tar file ({error}); {hint}.') from error
  stream.seek(end)
  if stream.read(_BLOCK) != bytes(_BLOCK):
    raise ValueError(f'{file}: is truncated: it has no end mark after {end} bytes; copy it again.')


def _sample(file: pathlib.Path, stream: Any, key: str, group: dict[str, tarfile.TarInfo]) -> Sample:
  whole = [extension for extension in group if _suffix(extension) in SUFFIXES]
  images = [extension for extension in group if are_frames([extension])]
  chosen, problem, caption, label = whole or images, '', '', None
  if len(whole) > 1:
    problem = f'has {len(whole)} videos or arrays ({", ".join(sorted(whole))}); keep one'
  elif not chosen:
    problem = f'has no video, array or numbered images, only {", ".join(sorted(group))}; remove it'
  try:
    caption, label = _description(stream, group)
  except (ValueError, TypeError) as error:
    problem = problem or f'has a description that cannot be read ({error}); write the shard again'
  files = {_suffix(name) if whole else name: (group[name].offset_data, group[name].size) for name in chosen}
  return Sample(key, files, caption, label, problem)


def _suffix(extension: str) -> str:
  return f'.{extension.rpartition(".")[2]}'


def _description(stream: Any, group: dict[str, tarfile.TarInfo]) -> tuple[str, int | str | None]:
  """Return the caption, of KEY.txt or KEY.json, and the label, of KEY.cls or KEY.json."""
  values = json.loads(_text(stream, group['json'])) if 'json' in group else {}
  if not isinstance(values, dict):
    raise ValueError('the JSON is not an object')
  caption = next((values[key] for key in CAPTION_KEYS if isinstance(values.get(key), str)), '')
  if 'txt' in group:
    caption = _text(stream, group['txt'])
  label = values.get('label')
  if 'cls' in group:
    text = _text(stream, group['cls']).strip()
    label = int(text) if text.isdecimal() else text
  wrong = isinstance(label, bool) or not isinstance(label, int | str | None) or label == ''
  if wrong or (isinstance(label, int) and label < 0):
    raise ValueError(f'label {label!r} is not a class number or name')
  return clean(caption), label


def _text(stream: Any, member: tarfile.TarInfo) -> str:
  if member.size > MAX_TEXT:
    raise ValueError(f'{member.name} has {member.size} bytes')
  return decode(member.name, os.pread(stream.fileno(), member.size, member.offset_data))
