"""Hashes that identify files and code: what was made from others is never taken for what was asked for."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# `quick_hash` reads this many blocks of this many bytes from each file.
BLOCKS, BLOCK_BYTES = 8, 1 << 14


def sha256(path: str | os.PathLike) -> str:
  """Return the SHA-256 of a file, in hexadecimal.

  >>> import pathlib, tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / 'empty'
  >>> path.touch()
  >>> sha256(path)[:8]
  'e3b0c442'
  """
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def quick_hash(path: str | os.PathLike, *, times: bool = True, blocks: int = BLOCKS) -> str:
  """Return a hash of a file, or of all files below a folder, that changes if one of them is replaced or edited.

  It covers names, sizes, times of modification, and some blocks of each file, spread evenly from its first byte to its
  last, which are all of a file up to 128 KiB. A data set or a text encoder is too large to be read as a whole each
  time.

  Args:
    path: the file or folder. Hidden files of a folder are left out.
    times: include times of modification; without them, a copy has the same hash.
    blocks: blocks read from each file, 2 or more; 0: none, which opens no file.

  Raises:
    OSError: the file or folder cannot be read.
  """
  path, digest = Path(path), hashlib.sha256()
  for file in _files(path) if path.is_dir() else [path]:
    stat = file.stat()
    name = file.relative_to(path).as_posix() if file != path else ''
    digest.update(f'{name}\0{stat.st_size}\0{stat.st_mtime_ns if times else ""}\0'.encode('utf-8', 'surrogateescape'))
    if blocks:
      digest.update(_some_blocks(file, stat.st_size, blocks))
  return digest.hexdigest()


@functools.cache
def code_hash(*parts: str) -> str:
  """Return a hash of the code and data files of packages and modules of `vdm_jax`, such as 'sampling' and 'models'."""
  digest = hashlib.sha256()
  for part in parts:
    for file in _files(PACKAGE / part) if (PACKAGE / part).is_dir() else [PACKAGE / f'{part}.py']:
      if '__pycache__' not in file.parts:
        digest.update(f'{file.relative_to(PACKAGE).as_posix()}\0'.encode() + file.read_bytes())
  return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
  """The files below a folder, in a fixed order."""
  for here, subfolders, names in os.walk(folder):
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    yield from (Path(here) / name for name in sorted(names) if not name.startswith('.'))


def _some_blocks(file: Path, size: int, blocks: int) -> bytes:
  with open(file, 'rb') as stream:
    if size <= blocks * BLOCK_BYTES:
      return stream.read()
    found = []
    for number in range(blocks):
      stream.seek(number * (size - BLOCK_BYTES) // (blocks - 1))
      found.append(stream.read(BLOCK_BYTES))
    return b''.join(found)
