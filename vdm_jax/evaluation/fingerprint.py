"""The hash by which records identify a weight file."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(path: Path) -> str:
  """Return the SHA-256 of a file, in hexadecimal."""
  with path.open('rb') as stream:
    return hashlib.file_digest(stream, 'sha256').hexdigest()
