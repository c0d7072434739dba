"""Tensors in npz and zip files: their shapes and types are known before any is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
  """A tensor in a file."""

  shape: tuple[int, ...]
  kind: np.dtype
  read: Callable[[], np.ndarray]  # opens the file again


def open_archive(path: Path) -> zipfile.ZipFile:
  """Open a zip file after checking its members.

  Raises:
    ValueError: the file is damaged, has duplicate names, names outside the archive, or sizes larger than the file.
  """
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OverflowError, ValueError) as error:
    raise ValueError(f'{path} is not a complete zip file ({error}); download it again') from error
  names = archive.namelist()
  twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
  outside = [name for name in names if name.startswith('/') or '\\' in name or '..' in name.split('/')]
  if twice or outside:
    why = f'has two members {twice[0]!r}' if twice else f'has a member {outside[0]!r} outside the archive'
    raise ValueError(f'{path} {why}; download it from where it was published')
  if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
    raise ValueError(f'{path} has members larger than itself; download it again')
  return archive


def read_member(path: Path, name: str) -> bytes:
  """Return the content of a member. Raises ValueError if its checksum is wrong."""
  try:
    with open_archive(path) as archive:
      return archive.read(name)
  except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
    raise ValueError(f'{path}: {name} is damaged ({error}); download it again') from error


def open_npz(path: Path) -> dict[str, Stored]:
  """Return name -> tensor of a `.npz` file, from the headers of its members.

  Raises:
    ValueError: the file is damaged, or has arrays of Python objects.
  """
  tensors = {}
  with open_archive(path) as archive:
    for member in archive.infolist():
      shape, kind = _header(path, archive, member)

      def read(name: str = member.filename) -> np.ndarray:
        with open_archive(path) as again, again.open(name) as stream:
          return np.lib.format.read_array(stream, allow_pickle=False)

      tensors[member.filename.removesuffix('.npy')] = Stored(shape, kind, read)
  return tensors


def _header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
  try:
    with archive.open(member) as stream:
      version = np.lib.format.read_magic(stream)
      readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
      shape, _, kind = readers[version](stream)
      start = stream.tell()
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
    raise ValueError(f'{path}: {member.filename} is not an array ({error}); download it again') from error
  count = 1
  for size in shape:
    count *= size
  if kind.hasobject or min(shape, default=0) < 0 or start + count * kind.itemsize != member.file_size:
    raise ValueError(
      f'{path}: {member.filename} declares {kind} of shape {shape}, which does not match its size; download it again'
    )
  return tuple(shape), kind
