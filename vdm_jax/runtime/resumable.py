"""Work done piece by piece in a folder: a repeated command continues it, and different work is refused.

A file of the folder, `job.json`, records everything that the result depends on. Pieces are either files, each of which
appears complete or not at all, or parts of larger files, of which `progress.json` counts how many are done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vdm_jax.runtime.atomic_files import atomic_write, write_text

JOB, PROGRESS = 'job.json', 'progress.json'


class OtherWork(ValueError):
  """A folder holds other work than the one asked for."""


class Work:
  """A piece of work in a folder. Nothing is written before `begin`.

  >>> import tempfile
  >>> folder = Path(tempfile.mkdtemp())
  >>> work = Work(folder, {'seed': 1})
  >>> work.begin()
  >>> work.save(2)
  >>> Work(folder, {'seed': 1}).done
  2
  >>> Work(folder, {'seed': 2})  # doctest: +ELLIPSIS
  Traceback (most recent call last):
  ...
  vdm_jax.runtime.resumable.OtherWork: ... holds other work, which differs in seed: choose another folder, or empty it.
  """

  def __init__(self, folder: Path, record: Mapping[str, Any], *, file: str = JOB, setting: str = ''):
    """Open the work.

    Args:
      folder: where it is done; need not exist yet.
      record: everything that the result depends on, ready for JSON.
      file: name of the file that holds the record.
      setting: the flag or argument that named the folder, for messages.

    Raises:
      OtherWork: the folder holds a different record; the message names the keys that differ.
      ValueError: the file is not a record.
    """
    self.folder, self._job = folder, folder / file
    self._place = f'{setting}={folder}' if setting else str(folder)
    self._record = json.loads(json.dumps(record))
    held = self._read(self._job, self._record)
    if differs := differences(held, self._record):
      raise OtherWork(
        f'{self._place} holds other work, which differs in {", ".join(differs)}: choose another folder, or empty it.'
      )
    progress = self._read(folder / PROGRESS, {'done': 0})
    self.done = progress.get('done', 0) if self.begun else 0  # without a record, it may be that of other work

  @property
  def begun(self) -> bool:
    """Whether the folder holds the record of this work."""
    return self._job.exists()

  def begin(self) -> None:
    """Write the record, unless it is there; the folder is created."""
    if not self.begun:
      write_text(self._job, json.dumps(self._record, indent=2) + '\n')

  def save(self, done: int) -> None:
    """Record that `done` pieces are done, after they are on disk."""
    self.done = done
    write_text(self.folder / PROGRESS, json.dumps({'done': done}))

  def missing(self, pieces: Iterable[str]) -> list[str]:
    """Return those of the named files that are not in the folder yet."""
    return [piece for piece in pieces if not (self.folder / piece).exists()]

  @contextlib.contextmanager
  def writing(self, piece: str) -> Iterator[Path]:
    """Yield a temporary file that becomes the named file if nothing is raised."""
    with atomic_write(self.folder / piece) as temporary:
      yield temporary

  def _read(self, path: Path, default: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a file, or the default if there is no file."""
    try:
      held = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
      return default
    except (ValueError, OSError) as error:
      raise ValueError(
        f'{self._place}: {path} cannot be read ({error}): choose another folder, or empty this one.'
      ) from error
    if not isinstance(held, dict):
      raise ValueError(f'{self._place}: {path} is not a record of work: choose another folder, or empty this one.')
    return held


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
  """Return the keys whose values differ between two records; an absent key equals None.

  >>> differences({'seed': 1, 'size': 2}, {'seed': 3, 'size': 2, 'new': None})
  ['seed']
  """
  return [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]


def digest(record: Any) -> str:
  """Return ten hexadecimal digits that identify a record.

  >>> digest({'seed': 1}) == digest({'seed': 1}) != digest({'seed': 2})
  True
  """
  return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:10]
