"""Arrays computed batch by batch and stored in a folder, each batch once (see `runtime.resumable`)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from vdm_jax import runtime
from vdm_jax.errors import InvalidInput
from vdm_jax.runtime.resumable import Work, digest

Arrays = dict[str, np.ndarray]


class Batches(NamedTuple):
  """All batches of an array, on disk."""

  folder: Path
  count: int

  def read(self, name: str) -> Iterator[np.ndarray]:
    """Yield the array `name` of each batch, in order, from disk."""
    for number in range(self.count):
      yield self.batch(number, name)

  def batch(self, number: int, name: str) -> np.ndarray:
    """Return the array `name` of one batch. Raises InvalidInput if its file cannot be read."""
    path = self.folder / _file(number)
    try:
      with np.load(path) as arrays:
        return arrays[name]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
      raise InvalidInput(
        f'{path} cannot be read ({error}): delete it, and the same command computes it again.'
      ) from error


def fill(
  folder: Path, name: str, job: Mapping[str, Any], clips: int, make: Callable[[int], Arrays], *, batch_size: int
) -> Batches:
  """Compute the missing batches of `clips` clips and return all of them.

  A killed command continues where it stopped; a different `job` has a folder of its own. Several processes share the
  batches and must share the disk; each returns when all batches exist.

  Args:
    folder: the parent folder.
    name: first part of the name of the batches' folder; the second is a hash of `job`.
    job: everything that a batch depends on besides its number, ready for JSON.
    clips: number of clips in all batches.
    make: number of a batch -> its arrays, a pure function of `job` and the number.
    batch_size: clips per batch; the last batch may be smaller.

  Raises:
    InvalidInput: the jobs of the processes differ, as when one of them sees a newer checkpoint.
  """
  job = json.loads(json.dumps(job))
  _check_agreement(name, job)
  work = Work(folder / f'{name}-{digest(job)}', job)
  count = -(-clips // batch_size)
  process, processes = jax.process_index(), jax.process_count()
  own = {_file(number): number for number in range(process, count, processes)}
  sizes = {file: min(batch_size, clips - number * batch_size) for file, number in own.items()}
  if missing := work.missing(own):
    work.begin()
  done = sum(sizes.values()) - sum(sizes[file] for file in missing)
  with tqdm(total=sum(sizes.values()), initial=done, desc=name, unit='clip') as bar:
    for file in missing:
      arrays = make(own[file])
      with work.writing(file) as temporary, open(temporary, 'wb') as stream:
        np.savez(stream, **arrays)
      bar.update(sizes[file])
  if processes > 1:
    multihost_utils.sync_global_devices(work.folder.name)
  return Batches(work.folder, count)


def _check_agreement(name: str, job: Mapping[str, Any]) -> None:
  found = runtime.exchange(f'job {name}', {key: digest(value) for key, value in job.items()})
  differ = {key: number for number, other in enumerate(found) for key in other if other[key] != found[0].get(key)}
  if differ:
    raise InvalidInput(
      f'processes {", ".join(map(str, sorted({0, *differ.values()})))} would measure different things, which differ in '
      f'{", ".join(differ)}: give all the same code, configuration and files, and the same --checkpoint=STEP.'
    )


def _file(number: int) -> str:
  return f'{number:06d}.npz'
