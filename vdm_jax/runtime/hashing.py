"""The hash by which cards and records identify a file."""

from __future__ import annotations

import hashlib
import os


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
