"""Writing checkpoints in the background and restoring the newest good one, on any number of processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from vdm_jax import runtime
from vdm_jax.checkpoints import integrity
from vdm_jax.checkpoints.restore import restore

# Consecutive failed saves (a full disk, a lost mount) before training stops.
MAX_FAILURES = 3
# How TensorStore and XLA report failing storage in exceptions other than OSError.
_STORAGE = re.compile(
  r'\[os_error_code=|(^|: )(RESOURCE_EXHAUSTED|PERMISSION_DENIED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|DATA_LOSS): '
)


class Checkpointer:
  """The checkpoints of one workdir, written in the background; a context manager.

  The state is any pytree of arrays whose root, a NamedTuple or dict, has the key `ema`. A save that fails because of
  the storage raises a warning and leaves no files; MAX_FAILURES consecutive ones raise an error. If a save fails on
  one process, it fails on all. A good checkpoint is deleted only after a newer one is finished.

  >>> import tempfile
  >>> device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  >>> with Checkpointer(tempfile.mkdtemp(), keep=2) as checkpointer:
  ...   checkpointer.save(10, {'ema': jax.numpy.arange(3.0)})
  ...   checkpointer.wait()
  ...   checkpointer.restore({'ema': jax.ShapeDtypeStruct((3,), jax.numpy.float32, sharding=device)})
  {'ema': Array([0., 1., 2.], dtype=float32)}
  """

  def __init__(self, workdir: str | os.PathLike, keep: int):
    """Open the checkpoints of `workdir`.

    Args:
      workdir: the folder of the run.
      keep: number of newest checkpoints to keep.

    Raises:
      ValueError: `keep` is not positive.
    """
    if keep < 1:
      raise ValueError(f'training.keep_checkpoints={keep} must be positive: without checkpoints a run cannot resume.')
    self.directory = integrity.folder_of(workdir)
    self._failures = 0
    self._step, self._pending = -1, False
    self._known: dict[str, str] = {}  # fingerprints of the files being written, from the processes that write them
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.LatestN(keep),
      cleanup_tmp_directories=True,
      async_options=ocp.AsyncOptions(barrier_sync_fn=self._barrier, post_finalization_callback=self._write_manifest),
    )
    self._manager = ocp.CheckpointManager(self.directory, options=options)

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, *error: Any) -> None:
    self._settle()
    self._manager.close()

  def save(self, step: int, state: Any) -> None:
    """Copy the state and write it in the background; the state may be donated as soon as this returns."""
    self._settle()
    self._step, self._known = step, {}
    try:
      self._manager.save(step, args=ocp.args.PyTreeSave(state), force=True)
      self._pending = True
    except Exception as error:
      # With several processes the others wait for this one, so it cannot continue alone.
      if jax.process_count() > 1 or not is_storage_error(error):
        raise
      self._failed(error)

  def wait(self) -> None:
    """Return once the last save is on disk; raise OSError if it failed."""
    self._settle()
    if self._failures:
      raise OSError(f'the checkpoint of step {self._step} could not be written: see the warnings above.')

  def restore(self, abstract: Any, added: Collection[str] = ()) -> Any | None:
    """Return the newest good checkpoint in the layout of `abstract`; None if there never was one.

    Damaged checkpoints that are newer are moved to `workdir/damaged/`, with a warning that names the damaged file.

    Args:
      abstract: tree of ShapeDtypeStructs with shardings; the mesh may differ from the one it was saved on.
      added: names of leaves that are zeros if the checkpoint is too old to have them.

    Raises:
      ValueError: every checkpoint is damaged, the folder holds something else, or shapes differ from those saved.
    """
    chosen, damaged = integrity.newest_good(self.directory, together=True)
    if jax.process_index() == 0:
      for step in damaged:
        integrity.move_aside(self.directory / str(step))
    runtime.exchange('moved aside', damaged)  # before any process lists the folder again
    self._manager.reload()
    return None if chosen is None else restore(self.directory / str(chosen), abstract, added)

  def _settle(self) -> None:
    """Wait for the last save and handle its failure."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      if not is_storage_error(error):
        raise
      self._failed(error)
    if self._pending:
      self._pending, self._failures = False, 0

  def _failed(self, error: Exception) -> None:
    """Remove the files of a failed save, then warn or raise."""
    self._pending = False
    self._failures += 1
    if jax.process_index() == 0:
      for unfinished in self.directory.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(unfinished, ignore_errors=True)
    with contextlib.suppress(OSError):
      self._manager.reload()  # Orbax has forgotten the checkpoints that it was to delete after this one
    message = f'the checkpoint of step {self._step} could not be written to {self.directory}: {error}'
    if self._failures >= MAX_FAILURES:
      raise OSError(f'{message}. {self._failures} consecutive saves failed: free space, or repair the disk.') from error
    warnings.warn(f'{message}. Training continues; the next save tries again.', RuntimeWarning, stacklevel=3)

  def _barrier(self, *, key: str, timeout_ms: int) -> None:
    """Barrier of Orbax's threads: some keys occur while a save is under way, others however it ends.

    Raises OSError on the processes whose save is under way if that of another has failed, so that none waits for it.
    """
    own = self._own_fingerprints() if 'async_write_complete' in key else {}
    while True:
      met = runtime.exchange(f'saving {self.directory.parent.name}', [key, own], seconds=timeout_ms / 1000)
      failed = [str(i) for i, (other, _) in enumerate(met) if other != key]
      if not failed:
        break
      if 'async_' in key:
        raise OSError(f'process {", ".join(failed)} could not write its part; its output gives the reason')
    for _, files in met:
      self._known |= files

  def _own_fingerprints(self) -> dict[str, str]:
    """Fingerprints of the files that only this process writes: nearly all bytes of a state."""
    part = f'ocdbt.process_{jax.process_index()}'
    files = [file for folder in self._unfinished() for file in folder.glob(f'default*/{part}/**/*') if file.is_file()]
    names = [f'default/{part}/{str(file).rpartition(f"/{part}/")[2]}' for file in files]
    return dict(zip(names, integrity.fingerprints(files), strict=True))

  def _write_manifest(self) -> None:
    """Called by Orbax on one process when all files are written, before their folder is renamed."""
    for folder in self._unfinished():
      integrity.write_manifest(folder, self._known)

  def _unfinished(self) -> list[Path]:
    """The folder that is being written."""
    return list(self.directory.glob(f'{self._step}.orbax-checkpoint-tmp*'))


def is_storage_error(error: Exception) -> bool:
  """Return whether a save failed for lack of space, permission or an answer, rather than of device memory."""
  if isinstance(error, jax.errors.JaxRuntimeError):
    return 'DEADLINE_EXCEEDED' in str(error)  # of another process
  return isinstance(error, OSError) or bool(_STORAGE.search(str(error)))
