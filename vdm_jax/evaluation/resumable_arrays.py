"""Arrays that are made batch by batch, kept in a folder, and never made twice."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from vdm_jax.errors import InvalidInput
from vdm_jax.runtime.atomic_files import atomic_write, write_text

Arrays = dict[str, np.ndarray]


class Batches(NamedTuple):
  """The batches of a piece of work, all of them made."""

  folder: Path
  count: int

  def read(self, name: str) -> Iterator[np.ndarray]:
    """An array of each batch, in order, from the disk."""
    for number in range(self.count):
      path = _path(self.folder, number)
      try:
        with np.load(path) as arrays:
          yield arrays[name]
      except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InvalidInput(
          f'{path} cannot be read ({error}): remove it, and the same command makes it again.'
        ) from error


def fill(
  folder: Path, name: str, job: Mapping[str, Any], clips: int, make: Callable[[int], Arrays], *, batch_size: int
) -> Batches:
  """Makes those batches of `clips` that are missing: batch k is `make(k)`, a pure function of `job` and k.

  Each is written whole or not at all, to a folder called after `name` and a hash of `job`: a killed command goes on
  where it was, and another job has another folder. Processes share the batches out and must share the disk; each
  returns when all are there.
  """
  job = json.loads(json.dumps(job))
  folder = folder / f'{name}-{digest(job)}'
  count = -(-clips // batch_size)
  process, processes = jax.process_index(), jax.process_count()
  mine = range(process, count, processes)
  sizes = {number: min(batch_size, clips - number * batch_size) for number in mine}
  missing = [number for number in mine if not _path(folder, number).exists()]
  if missing:
    write_text(folder / 'job.json', json.dumps(job, indent=1))
  done = sum(sizes[number] for number in mine if number not in missing)
  with tqdm(total=sum(sizes.values()), initial=done, desc=name, unit='clip') as bar:
    for number in missing:
      arrays = make(number)
      with atomic_write(_path(folder, number)) as temporary, open(temporary, 'wb') as file:
        np.savez(file, **arrays)
      bar.update(sizes[number])
  if processes > 1:
    multihost_utils.sync_global_devices(folder.name)
  return Batches(folder, count)


def digest(job: Any) -> str:
  """Ten digits that tell one job from another."""
  return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:10]


def _path(folder: Path, number: int) -> Path:
  return folder / f'{number:06d}.npz'
