"""Work that is done piece by piece in a folder and goes on where it stopped, if it is the same work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdm_jax.errors import InvalidInput
from vdm_jax.runtime.atomic_files import write_text


class Progress:
  """How many pieces of a piece of work are done: `job.json` says which work, `progress.json` how far it is.

  Nothing is written before `begin`. Raises InvalidInput if the folder holds other work than `record` describes, naming
  what differs, or files of these names that are no such records.
  """

  def __init__(self, folder: Path, record: Mapping[str, Any]):
    self._job, self._file = folder / 'job.json', folder / 'progress.json'
    self._record = json.loads(json.dumps(record))
    held = _read(self._job, self._record)
    if differs := [key for key in {**held, **self._record} if held.get(key) != self._record.get(key)]:
      raise InvalidInput(
        f'--out={folder} holds videos of another command, which differs in {", ".join(differs)}: choose another '
        'folder, or empty this one.'
      )
    self.done = _read(self._file, {'done': 0}).get('done', 0)

  def begin(self) -> None:
    """Takes the folder, which must exist, for this work."""
    if not self._job.exists():
      write_text(self._job, json.dumps(self._record))

  def save(self, done: int) -> None:
    """Records that `done` pieces are done, after they are on the disk."""
    self.done = done
    write_text(self._file, json.dumps({'done': done}))


def _read(path: Path, default: dict[str, Any]) -> dict[str, Any]:
  """The JSON object in a file, or the default where there is no file."""
  try:
    held = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError):
    return default
  except (ValueError, OSError) as error:
    raise InvalidInput(f'{path} cannot be read ({error}): choose another --out, or empty this one.') from error
  if not isinstance(held, dict):
    raise InvalidInput(f'{path} is no record of a command: choose another --out, or empty this one.')
  return held
