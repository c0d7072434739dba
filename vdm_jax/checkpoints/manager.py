"""Saving and restoring a run: Orbax behind one door, with a checksum for every file.

`workdir/checkpoints/<step>/` is one finished checkpoint. Orbax writes it beside that place and renames it
whole, so a killed job leaves an old checkpoint or a new one, never a part; `manifest.json` inside, written
before the rename, holds the length and CRC-32 of every file, so a flipped bit or a truncated file is found
before it is trained on. Of several processes each reads its own files for that, and a share of all at a restore.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding

from vdm_jax import configuration, models, partitioning, pretrained, runtime, weights
from vdm_jax.types import Params

FOLDER = 'checkpoints'
MANIFEST = 'manifest.json'
# Orbax notes the time of the commit in this file after the manifest is written; restoring never reads it.
_STAMP = '_CHECKPOINT_METADATA'
# Saves that may fail in a row (a full disk, a lost mount) before training stops.
MAX_FAILURES = 3
# What the libraries below Orbax say of a storage that fails, in errors that are no OSError; others are our faults.
_STORAGE = re.compile(
  r'\[os_error_code=|(^|: )(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|DATA_LOSS): '
)
READERS = 4  # threads that read files for their checksums
READ_SECONDS = 3600.0  # for the slowest process to read its share of a checkpoint


class Checkpointer:
  """The checkpoints of one workdir, written in the background; use as a context manager.

  State is any pytree of arrays with a field or key `ema`. A save that the storage fails is a warning, and leaves
  nothing behind, until MAX_FAILURES follow each other; what fails on one process fails on all. A good checkpoint is
  only deleted after a newer one is finished.
  """

  def __init__(self, workdir: str | os.PathLike, keep: int):
    """`keep` newest checkpoints are kept. Raises ValueError unless it is positive."""
    if keep < 1:
      raise ValueError(f'training.keep_checkpoints={keep}: keep at least 1, or the run cannot resume.')
    self.directory = Path(workdir).absolute() / FOLDER
    self._failures = 0
    self._step, self._pending = -1, False
    self._known: dict[str, str] = {}  # fingerprints of the files being written, from those who wrote them
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep),
      cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(barrier_sync_fn=self._meet, post_finalization_callback=self._write_manifest),
    )
    self._manager = ocp.CheckpointManager(self.directory, options=options)

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, *error: Any) -> None:
    self._settle()
    self._manager.close()

  def save(self, step: int, state: Any) -> None:
    """Copies the state and writes it in the background; the state may be donated as soon as this returns."""
    self._settle()
    self._step, self._known = step, {}
    try:
      self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True)
      self._pending = True
    except Exception as error:
      if jax.process_count() > 1 or not _is_of_storage(error):  # the others wait for this one: it cannot go on alone
        raise
      self._failed(error)

  def wait(self) -> None:
    """Returns once the last save is on disk; raises its error if it failed."""
    self._settle()
    if self._failures:
      raise OSError(f'the checkpoint of step {self._step} could not be written: see the warnings above.')

  def restore(self, abstract: Any, added: Collection[str] = ()) -> Any | None:
    """The newest good checkpoint, laid out as `abstract` says; None where there never was one.

    Damaged ones that are newer are moved to `workdir/damaged/` with a warning that names the file.

    Args:
      abstract: tree of ShapeDtypeStructs with shardings, on a mesh that need not be the one it was saved on.
      added: names of leaves that are zeros where the checkpoint is too old to have them.

    Raises:
      ValueError: no checkpoint is good, the folder holds something else, or shapes differ from those saved.
    """
    chosen, damaged = _newest_good(self.directory, together=True)
    if jax.process_index() == 0:
      for step in damaged:
        _move_aside(self.directory / str(step))
    runtime.exchange('moved aside', damaged)  # before anybody lists the folder again
    self._manager.reload()
    return None if chosen is None else _restore(self.directory / str(chosen), abstract, added)

  def _settle(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      if not _is_of_storage(error):
        raise
      self._failed(error)
    if self._pending:
      self._pending, self._failures = False, 0

  def _failed(self, error: Exception) -> None:
    self._pending = False
    self._failures += 1
    if jax.process_index() == 0:
      for rest in self.directory.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(rest, ignore_errors=True)
    with contextlib.suppress(OSError):
      self._manager.reload()  # Orbax has forgotten the checkpoints that it was to delete after this one
    message = f'the checkpoint of step {self._step} could not be written to {self.directory}: {error}'
    if self._failures >= MAX_FAILURES:
      raise OSError(f'{message}. {self._failures} saves failed in a row: free space or mend the disk.') from error
    warnings.warn(f'{message}. Training goes on; the next save tries again.', RuntimeWarning, stacklevel=3)

  def _meet(self, *, key: str, timeout_ms: int) -> None:
    """The barrier of Orbax's threads, which come to some `key`s on the way and to others however a save ends.

    Raises OSError on those on the way where another has failed, so that nobody waits for it.
    """
    own = self._own_fingerprints() if 'async_write_complete' in key else {}
    while True:
      met = runtime.exchange(f'saving {self.directory.parent.name}', [key, own], seconds=timeout_ms / 1000)
      failed = [str(i) for i, (other, _) in enumerate(met) if other != key]
      if not failed:
        break
      if 'async_' in key:
        raise OSError(f'process {", ".join(failed)} could not write its part, and says why')
    for _, files in met:
      self._known |= files

  def _own_fingerprints(self) -> dict[str, str]:
    """Of the files that this process alone writes: nearly all bytes of a state."""
    part = f'ocdbt.process_{jax.process_index()}'
    files = [file for folder in self._unfinished() for file in folder.glob(f'default*/{part}/**/*') if file.is_file()]
    names = [f'default/{part}/{str(file).rpartition(f"/{part}/")[2]}' for file in files]
    return dict(zip(names, _fingerprints(files), strict=True))

  def _write_manifest(self) -> None:
    """Called by Orbax on one process when all files are written, before their folder gets its name."""
    for folder in self._unfinished():
      names = sorted(str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file())
      names = [name for name in names if name != _STAMP]
      known = {
        name: self._known[name]
        for name in names
        if self._known.get(name, '').startswith(f'{(folder / name).stat().st_size} bytes,')
      }
      rest = [name for name in names if name not in known]
      known |= zip(rest, _fingerprints([folder / name for name in rest]), strict=True)
      files = {name: known[name] for name in names}
      (folder / MANIFEST).write_text(json.dumps({'files': files, 'crc32': _checksum(files)}, indent=1))

  def _unfinished(self) -> list[Path]:
    """The folder that is being written."""
    return list(self.directory.glob(f'{self._step}.orbax-checkpoint-tmp*'))


def is_run(path: str | os.PathLike) -> bool:
  """Whether a path names a trained model: the workdir of a run, a file of `export_weights`, or `pretrained:NAME`."""
  path = pretrained.located(path)
  return (path / 'config.json').is_file() or weights.holds_weights(path)


def steps(workdir: str | os.PathLike) -> list[int]:
  """The steps of the finished checkpoints of a workdir, good or not, increasing."""
  return sorted(_listed(Path(workdir).absolute() / FOLDER))


def latest_step(path: str | os.PathLike) -> int:
  """The step of a run's newest checkpoint, or the one its weights were exported at.

  Raises FileNotFoundError where there is no checkpoint.
  """
  path = pretrained.located(path)
  if path.is_file():
    return weights.read_step(path)
  if not (found := steps(path)):
    raise FileNotFoundError(f'{path / FOLDER} holds no checkpoint: train first, or name another workdir.')
  return found[-1]


def restore_ema(workdir: str | os.PathLike, abstract: Params) -> tuple[Params, int]:
  """`(EMA parameters, step)` of the newest good checkpoint, without reading the rest of the state.

  `abstract`: ShapeDtypeStructs with shardings. Raises FileNotFoundError where there is no checkpoint.
  """
  directory = Path(workdir).absolute() / FOLDER
  step, _ = _newest_good(directory)
  if step is None:
    raise FileNotFoundError(f'{directory} holds no checkpoint: train first, or name another workdir.')
  return _restore(directory / str(step), {'ema': abstract})['ema'], step


def load(
  path: str | os.PathLike, mesh: Mesh | None = None, model: models.Model | None = None
) -> tuple[models.Model, Params]:
  """`(model, EMA parameters)` of a workdir, of a file written by `export_weights`, or of `pretrained:NAME`.

  Parameters are split over `mesh`, or lie on this process's first device. `model` stands in for the one of the saved
  configuration. Raises FileNotFoundError for a path with neither, ValueError where the model does not fit.
  """
  path = pretrained.located(path)
  model = model or models.build(read_config(path)['model'])
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  if mesh is None:
    shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), shapes)
  else:
    shardings = partitioning.param_shardings(mesh, shapes, model.logical_axes)
  abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
  if path.is_dir():
    return model, restore_ema(path, abstract)[0]
  return model, _read_weights(path, abstract)


def export_weights(workdir: str | os.PathLike, path: str | os.PathLike, dtype: str = 'float32') -> None:
  """Writes the newest EMA parameters to a safetensors file: names 'a/b/c', the configuration as metadata.

  `dtype` is what they are rounded to, float32 or float16; loaded, they are float32 again.
  """
  config = read_config(workdir)
  _, params = load(workdir)
  step, _ = _newest_good(Path(workdir).absolute() / FOLDER)
  weights.write(path, {name: np.asarray(value) for name, value in named(params).items()}, config, step, dtype)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
  """The configuration a workdir or weights file was made by, as plain dicts and lists; nothing is executed.

  Keys that it was too early to know have their defaults, which change nothing about it.
  Raises FileNotFoundError or ValueError when there is none.
  """
  path = pretrained.located(path)
  if path.is_file():
    return weights.read_config(path)
  try:
    return configuration.complete(json.loads((path / 'config.json').read_text()))
  except FileNotFoundError:
    raise FileNotFoundError(
      f'{path} has no config.json: name the workdir of a training run, or a weights file.'
    ) from None


def _is_of_storage(error: Exception) -> bool:
  """Whether a save failed for want of space, of permission or of an answer, not of a device's memory."""
  if isinstance(error, jax.errors.JaxRuntimeError):
    return 'DEADLINE_EXCEEDED' in str(error)  # of another process
  return isinstance(error, OSError) or bool(_STORAGE.search(str(error)))


def _listed(directory: Path) -> list[int]:
  return [int(f.name) for f in directory.iterdir() if f.name.isdigit()] if directory.is_dir() else []


def _newest_good(directory: Path, together: bool = False) -> tuple[int | None, list[int]]:
  """The newest step whose files are as they were written, and the damaged ones above it.

  `together`: called on all processes, each of which reads a share of the files.
  """
  index, count = (jax.process_index(), jax.process_count()) if together else (0, 1)
  damaged: dict[int, str] = {}
  while True:
    step = max((step for step in _listed(directory) if step not in damaged), default=None)
    if together:
      step = runtime.exchange('newest checkpoint', step)[0]
    if step is None:
      break
    problems = [_damage(directory / str(step), index, count)]
    if together:
      problems = runtime.exchange('damage', problems[0], seconds=READ_SECONDS)
    problem = next(filter(None, problems), None)
    if problem is None:
      return step, list(damaged)
    if together or (directory / str(step)).exists():  # else a training run has deleted it meanwhile
      damaged[step] = problem
      if index == 0:
        warnings.warn(f'checkpoint {directory / str(step)} is damaged: {problem}.', RuntimeWarning, stacklevel=3)
  if damaged:
    raise ValueError(
      f'no checkpoint under {directory} is good: '
      + '; '.join(f'step {step}: {problem}' for step, problem in damaged.items())
      + '. Put a copy back, or delete the folder to start anew.'
    )
  foreign = [f.name for f in directory.iterdir() if '.orbax-checkpoint-tmp' not in f.name] if directory.is_dir() else []
  if foreign:
    raise ValueError(f'{directory} holds {foreign}, no checkpoint: move it away, or use another --workdir.')
  return None, []


def _damage(folder: Path, share: int = 0, shares: int = 1) -> str | None:
  """What is wrong with a checkpoint, naming the file; None when every file of this share is as it was written."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest['crc32'] != _checksum(manifest['files']):
      return f'{MANIFEST} is not as it was written'
    names = sorted(manifest['files'])[share::shares]
    for name, found in zip(names, _fingerprints([folder / name for name in names]), strict=True):
      if found != (expected := manifest['files'][name]):
        return f'{name} has {found}, but was written with {expected}'
  except FileNotFoundError as error:
    return f'{Path(error.filename).relative_to(folder)} is missing'
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    return f'{MANIFEST} is unreadable ({error})'
  return None


def _checksum(files: dict[str, str]) -> str:
  return f'{zlib.crc32(json.dumps(files).encode()):08x}'


def _fingerprints(files: Sequence[Path]) -> Iterator[str]:
  with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
    yield from readers.map(_fingerprint, files)


def _fingerprint(file: Path) -> str:
  checksum, size = 0, 0
  with open(file, 'rb') as stream:
    while block := stream.read(1 << 23):
      checksum, size = zlib.crc32(block, checksum), size + len(block)
  return f'{size} bytes, crc32 {checksum:08x}'


def _move_aside(folder: Path) -> None:
  target = folder.parent.parent / 'damaged'
  target.mkdir(exist_ok=True)
  taken = len(list(target.glob(f'{folder.name}-*')))
  os.replace(folder, target / f'{folder.name}-{taken}')


def _restore(folder: Path, abstract: Any, added: Collection[str] = ()) -> Any:
  """Part or all of a checkpoint: what `abstract` has."""
  handler = ocp.PyTreeCheckpointHandler()
  with ocp.Checkpointer(handler) as reader:
    saved = handler.metadata(folder / 'default').tree
    absent = set(added) - named(saved).keys()
    old = jax.tree_util.tree_map_with_path(lambda p, x: None if tensor_name(p) in absent else x, abstract)
    _check_shapes(folder, saved, old)
    restore_args = ocp.checkpoint_utils.construct_restore_args(old)
    args = ocp.args.PyTreeRestore(item=old, restore_args=restore_args, partial_restore=True)
    found = named(reader.restore(folder / 'default', args=args))
  return jax.tree_util.tree_map_with_path(
    lambda p, x: _zeros(x) if tensor_name(p) in absent else found[tensor_name(p)], abstract
  )


def _zeros(abstract: jax.ShapeDtypeStruct) -> jax.Array:
  zeros = np.zeros(abstract.shape, abstract.dtype)
  return jax.make_array_from_callback(zeros.shape, abstract.sharding, lambda index: zeros[index])


def _check_shapes(folder: Path, saved: Any, abstract: Any) -> None:
  found, wanted = named(saved), named(abstract)
  roots = {name.split('/')[0] for name in wanted}
  found = {name: leaf for name, leaf in found.items() if name.split('/')[0] in roots}

  def describe(leaf: Any) -> str:
    return 'absent' if leaf is None else f'{np.dtype(leaf.dtype).name}{list(leaf.shape)}'

  different = [
    f'  {name}: {describe(found.get(name))} saved, {describe(wanted.get(name))} expected'
    for name in sorted(found.keys() | wanted.keys())
    if describe(found.get(name)) != describe(wanted.get(name))
  ]
  if different:
    raise ValueError(
      f'checkpoint {folder} does not fit the model:\n' + '\n'.join(different) + '\n'
      'Use the configuration it was made by (config.json beside it), or another --workdir.'
    )


def _read_weights(path: str | os.PathLike, abstract: Params) -> Params:
  tensors = weights.read(path)
  _check_shapes(Path(path), tensors, named(abstract))
  return jax.tree_util.tree_map_with_path(lambda p, x: jax.device_put(tensors[tensor_name(p)], x.sharding), abstract)


def named(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by their `tensor_name`."""
  return {tensor_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def tensor_name(path: Any) -> str:
  """`a/b/c` of a leaf's path in a tree."""
  return jax.tree_util.keystr(path, simple=True, separator='/')
