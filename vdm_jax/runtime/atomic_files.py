"""Atomic files: readers see the old content or the new one, never a part.

Written here because no library of the requirements syncs to disk, works on shared disks of several hosts, and sweeps
what killed writers leave.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{8}\.tmp')


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yield a temporary file beside `path` that replaces it on success and is removed on failure.

  It is synced to disk before it replaces the file, so even a power failure leaves the old content or the new one. Its
  name is random, so several hosts can write the same file of a shared disk.

  >>> import tempfile
  >>> path = pathlib.Path(tempfile.mkdtemp()) / 'note.txt'
  >>> with atomic_write(path) as temporary:
  ...   _ = temporary.write_text('all of it')
  >>> path.read_text()
  'all of it'
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp')
  try:
    yield temporary
    with open(temporary, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike) -> None:
  """Remove the temporary files that killed writers left in a folder; nobody may be writing to it."""
  folder = pathlib.Path(folder)
  for file in folder.iterdir() if folder.is_dir() else ():
    if _TEMPORARY.fullmatch(file.name):
      with contextlib.suppress(OSError):
        file.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
  """Write a UTF-8 text file atomically."""
  with atomic_write(path) as temporary:
    temporary.write_text(text, encoding='utf-8')
