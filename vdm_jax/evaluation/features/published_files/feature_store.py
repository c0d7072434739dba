"""Tensors of a file, known by their shape before any of them is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
  """A tensor of a file."""

  shape: tuple[int, ...]
  kind: np.dtype
  read: Callable[[], np.ndarray]  # opens the file again


def open_archive(path: Path) -> zipfile.ZipFile:
  """Opens a zip file whose members are what they say, or raises ValueError.

  Refused are names that occur twice, that leave the archive, and sizes that the file is too small for.
  """
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OverflowError, ValueError) as error:
    raise ValueError(f'{path} is not a whole zip file ({error}); download it again') from error
  names = archive.namelist()
  twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
  outside = [name for name in names if name.startswith('/') or '\\' in name or '..' in name.split('/')]
  if twice or outside:
    why = f'has two members {twice[0]!r}' if twice else f'has a member {outside[0]!r}, which is outside of it'
    raise ValueError(f'{path} {why}; download it from where it was published')
  if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
    raise ValueError(f'{path} has members larger than itself; download it again')
  return archive


def read_member(path: Path, name: str) -> bytes:
  """Returns the content of a member, checked against its checksum."""
  try:
    with open_archive(path) as archive:
      return archive.read(name)
  except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
    raise ValueError(f'{path}: {name} is damaged ({error}); download it again') from error


def open_npz(path: Path) -> dict[str, Stored]:
  """Returns name -> tensor of a `.npz` file, from the headers of its members; arrays of objects are refused."""
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
      f'{path}: {member.filename} claims {kind} of shape {shape}, which is not what it holds; download it again'
    )
  return tuple(shape), kind
