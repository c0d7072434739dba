"""Which checkpoints of a workdir are good: manifests with the length and CRC-32 of every file."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax

from vdm_jax import runtime

CHECKPOINTS = 'checkpoints'  # folder of a workdir
MANIFEST = 'manifest.json'
# Orbax writes the time of the commit to this file after the manifest is written; restoring never reads it.
STAMP = '_CHECKPOINT_METADATA'
READERS = 4  # threads that read files to compute checksums
READ_SECONDS = 3600.0  # timeout for the slowest process to read its share of a checkpoint


def steps(workdir: str | os.PathLike) -> list[int]:
  """Return the steps of the finished checkpoints of a workdir, good or not, in increasing order.

  >>> steps('a/folder/without/checkpoints')
  []
  """
  return sorted(_listed(folder_of(workdir)))


def folder_of(workdir: str | os.PathLike) -> Path:
  """Return the absolute path of a workdir's folder of checkpoints."""
  return Path(workdir).absolute() / CHECKPOINTS


def newest_good_step(workdir: str | os.PathLike) -> int:
  """Return the step of the newest checkpoint whose files are intact.

  Raises:
    FileNotFoundError: the workdir has no checkpoint.
    ValueError: every checkpoint is damaged, or the folder holds something else.

  >>> import tempfile
  >>> from vdm_jax.checkpoints import Checkpointer
  >>> workdir = tempfile.mkdtemp()
  >>> with Checkpointer(workdir, keep=2) as checkpointer:
  ...   for step in (10, 20):
  ...     checkpointer.save(step, {'ema': jax.numpy.ones(3)})
  >>> newest_good_step(workdir)
  20
  >>> _ = (folder_of(workdir) / '20' / MANIFEST).write_text('damaged')
  >>> with warnings.catch_warnings(action='ignore'):
  ...   newest_good_step(workdir)
  10
  """
  directory = folder_of(workdir)
  step, _ = newest_good(directory)
  if step is None:
    raise FileNotFoundError(f'{directory} holds no checkpoint: train first, or name another workdir.')
  return step


def check_step(workdir: str | os.PathLike, step: int) -> None:
  """Check that a workdir has a checkpoint of this step, and that its files are intact.

  Raises:
    FileNotFoundError: it has none; the message lists the steps there are.
    ValueError: the checkpoint is damaged.

  >>> check_step('a/folder/without/checkpoints', 20)  # doctest: +ELLIPSIS
  Traceback (most recent call last):
  ...
  FileNotFoundError: ... holds no checkpoint of step 20: it has none: train first, or name another workdir.
  """
  directory, found = folder_of(workdir), steps(workdir)
  if step not in found:
    have = f'it has {", ".join(map(str, found))}' if found else 'it has none: train first, or name another workdir'
    raise FileNotFoundError(f'{directory} holds no checkpoint of step {step}: {have}.')
  if problem := damage(directory / str(step)):
    others = ', '.join(str(other) for other in found if other != step) or 'none'
    raise ValueError(f'checkpoint {directory / str(step)} is damaged: {problem}. Other steps: {others}.')


def content_hash(workdir: str | os.PathLike, step: int) -> str:
  """Return a hash that identifies the content of a checkpoint: the SHA-256 of its table of checksums.

  The table has the length and CRC-32 of every file, so no weights are read, and a copy of the workdir has the same
  hash.

  Raises:
    FileNotFoundError: there is no checkpoint of this step.

  >>> import tempfile
  >>> from vdm_jax.checkpoints import Checkpointer
  >>> workdir = tempfile.mkdtemp()
  >>> with Checkpointer(workdir, keep=2) as checkpointer:
  ...   for step in (10, 20):
  ...     checkpointer.save(step, {'ema': jax.numpy.full(3, step)})
  >>> content_hash(workdir, 10) != content_hash(workdir, 20)
  True
  """
  manifest = json.loads((folder_of(workdir) / str(step) / MANIFEST).read_text())
  return hashlib.sha256(json.dumps(manifest['files'], sort_keys=True).encode()).hexdigest()


def newest_good(directory: Path, together: bool = False) -> tuple[int | None, list[int]]:
  """Return the newest step whose files are intact, and the damaged steps above it.

  Args:
    directory: the folder of checkpoints.
    together: every process makes this call, and each reads a share of the files.

  Returns:
    The step, None if there never was a checkpoint, and the newer steps, each of which raised a RuntimeWarning that
    names the damaged file.

  Raises:
    ValueError: every checkpoint is damaged, or the folder holds something else.
  """
  index, count = (jax.process_index(), jax.process_count()) if together else (0, 1)
  damaged: dict[int, str] = {}
  while True:
    step = max((step for step in _listed(directory) if step not in damaged), default=None)
    if together:
      step = runtime.exchange('newest checkpoint', step)[0]
    if step is None:
      break
    problems = [damage(directory / str(step), index, count)]
    if together:
      problems = runtime.exchange('damage', problems[0], seconds=READ_SECONDS)
    problem = next(filter(None, problems), None)
    if problem is None:
      return step, list(damaged)
    if together or (directory / str(step)).exists():  # otherwise a training run has deleted it in the meantime
      damaged[step] = problem
      if index == 0:
        warnings.warn(f'checkpoint {directory / str(step)} is damaged: {problem}.', RuntimeWarning, stacklevel=3)
  if damaged:
    raise ValueError(
      f'every checkpoint in {directory} is damaged: '
      + '; '.join(f'step {step}: {problem}' for step, problem in damaged.items())
      + '. Restore a copy, or delete the folder to start from scratch.'
    )
  foreign = [f.name for f in directory.iterdir() if '.orbax-checkpoint-tmp' not in f.name] if directory.is_dir() else []
  if foreign:
    raise ValueError(f'{directory} holds {foreign}, which is not a checkpoint: move it away, or use another --workdir.')
  return None, []


def damage(folder: Path, share: int = 0, shares: int = 1) -> str | None:
  """Describe the first damaged file of a checkpoint; None if every file of this share is intact."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest['crc32'] != checksum(manifest['files']):
      return f'{MANIFEST} does not match its own checksum'
    names = sorted(manifest['files'])[share::shares]
    for name, found in zip(names, fingerprints([folder / name for name in names]), strict=True):
      if found != (expected := manifest['files'][name]):
        return f'{name} has {found}, but was written with {expected}'
  except FileNotFoundError as error:
    return f'{Path(error.filename).relative_to(folder)} is missing'
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    return f'{MANIFEST} is unreadable ({error})'
  return None


def write_manifest(folder: Path, known: Mapping[str, str]) -> None:
  """Write the manifest of a finished but not yet renamed checkpoint.

  Args:
    folder: the temporary folder of the checkpoint.
    known: fingerprints by file name from the processes that wrote the files; the others are computed here.
  """
  names = sorted(str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file())
  names = [name for name in names if name != STAMP]
  found = {
    name: known[name] for name in names if known.get(name, '').startswith(f'{(folder / name).stat().st_size} bytes,')
  }
  rest = [name for name in names if name not in found]
  found |= zip(rest, fingerprints([folder / name for name in rest]), strict=True)
  files = {name: found[name] for name in names}
  (folder / MANIFEST).write_text(json.dumps({'files': files, 'crc32': checksum(files)}, indent=1))


def checksum(files: Mapping[str, str]) -> str:
  """Return the checksum of a manifest's table of files."""
  return f'{zlib.crc32(json.dumps(files).encode()):08x}'


def fingerprints(files: Sequence[Path]) -> Iterator[str]:
  """Yield the fingerprint of each file, read by several threads."""
  with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
    yield from readers.map(lambda file: fingerprint(file), files)


def fingerprint(file: Path) -> str:
  """Return the length and CRC-32 of a file (`hashlib.file_digest` has no CRC, which is ten times faster)."""
  crc, size = 0, 0
  with open(file, 'rb') as stream:
    while block := stream.read(1 << 23):
      crc, size = zlib.crc32(block, crc), size + len(block)
  return f'{size} bytes, crc32 {crc:08x}'


def move_aside(folder: Path) -> None:
  """Move a damaged checkpoint to `workdir/damaged/`."""
  target = folder.parent.parent / 'damaged'
  target.mkdir(exist_ok=True)
  taken = len(list(target.glob(f'{folder.name}-*')))
  os.replace(folder, target / f'{folder.name}-{taken}')


def _listed(directory: Path) -> list[int]:
  """The steps of the finished checkpoints in a folder."""
  return [int(f.name) for f in directory.iterdir() if f.name.isdigit()] if directory.is_dir() else []
