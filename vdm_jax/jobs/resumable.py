"""Work that is done piece by piece in a folder and goes on where it stopped, if it is the same work."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdm_jax.jobs.arguments import BadInput


class Progress:
  """How many pieces of a piece of work are done: `job.json` says which work, `progress.json` how far it is.

  Raises BadInput if the folder holds other work than `record` describes, naming what differs.
  """

  def __init__(self, folder: Path, record: Mapping[str, Any]):
    self._job, self._file = folder / 'job.json', folder / 'progress.json'
    record = json.loads(json.dumps(record))
    if self._job.exists():
      held = json.loads(self._job.read_text())
      if differs := [key for key in {**held, **record} if held.get(key) != record.get(key)]:
        raise BadInput(
          f'--out={folder} holds videos of another command, which differs in {", ".join(differs)}: choose another '
          'folder, or empty this one.'
        )
    else:
      _write(self._job, record)
    self.done = json.loads(self._file.read_text())['done'] if self._file.exists() else 0

  def save(self, done: int) -> None:
    """Records that `done` pieces are done, after they are on the disk."""
    self.done = done
    _write(self._file, {'done': done})


def _write(path: Path, value: Any) -> None:
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  with open(temporary, 'w') as file:
    json.dump(value, file)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
