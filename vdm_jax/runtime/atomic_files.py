"""Files that are never seen half written."""

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
  """A temporary file beside `path` that takes its place in one step, or disappears if writing fails.

  What was written is on the disk before the step, so that even a machine that stops leaves the old file or the new
  one. The temporary name is nobody else's: hosts that write the same file of a shared disk do not meet.
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
  """Removes the temporary files that killed writers left in a folder, where nobody may be writing now."""
  folder = pathlib.Path(folder)
  for file in folder.iterdir() if folder.is_dir() else ():
    if _TEMPORARY.fullmatch(file.name):
      with contextlib.suppress(OSError):
        file.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file, UTF-8, whole or not at all."""
  with atomic_write(path) as temporary:
    temporary.write_text(text, encoding='utf-8')
