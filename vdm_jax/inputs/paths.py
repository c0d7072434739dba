"""The one check of every path that a user gives to read from or write to.

Only local paths pass. Object storage, when it is supported, starts here: `local_path` is the seam.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

_REMOTE = re.compile(r'[^/~]+:/')  # gs://bucket, s3://bucket, file:/x, host:/x


class NotLocal(ValueError):
  """A path is a URL, is on another host, or begins with the home directory of an unknown user."""


def local_path(name: str, path: str) -> str:
  """Return a path with `~` expanded, which shells leave alone in `--flag=~/x`.

  Args:
    name: the flag or setting, for messages; '' if they name it anyway.
    path: the path; '' stays ''.

  Raises:
    NotLocal: the path is a URL or starts with the home of a user that does not exist.

  >>> local_path('--out', 'out/videos')
  'out/videos'
  >>> local_path('--out', 'gs://bucket/videos')
  Traceback (most recent call last):
  ...
  vdm_jax.inputs.paths.NotLocal: --out=gs://bucket/videos is not a local path: mount the bucket or remote folder \
(gcsfuse, s3fs, sshfs) and give the mounted folder, or copy the files here.
  """
  where = f'{name}={path}' if name else path
  if _REMOTE.match(path) and not os.path.exists(path.split('/', 1)[0]):
    raise NotLocal(
      f'{where} is not a local path: mount the bucket or remote folder (gcsfuse, s3fs, sshfs) and give the '
      'mounted folder, or copy the files here.'
    )
  expanded = os.path.expanduser(path)
  if expanded.startswith('~') and not os.path.exists(path.split('/', 1)[0]):
    raise NotLocal(
      f'{where}: {path.split("/", 1)[0]} is not the home directory of a user; write ./{path} for a folder of this name.'
    )
  return expanded


def path_argument(text: str) -> str:
  """Return the local path of an argument: a `type` for argparse, whose messages name the argument."""
  try:
    return local_path('', text)
  except NotLocal as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def file_argument(text: str) -> Path:
  """Return the same as a Path."""
  return Path(path_argument(text))
