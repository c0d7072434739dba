"""The folder of a run (workdir): the configuration it belongs to, and the environment it was made in."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vdm_jax import checkpoints
from vdm_jax.configuration import Change, Difference, changes
from vdm_jax.runs import Run
from vdm_jax.runtime import atomic_files
from vdm_jax.training import schedules
from vdm_jax.training.metrics_log import print_status

HISTORY = 'config_history.jsonl'  # what changed when the run resumed: one row per key, with the step


def prepare(workdir: str | os.PathLike) -> Path:
  """Create the workdir and return its absolute path.

  Raises:
    ValueError: `workdir` is a URL.
    OSError: nothing can be written there; the message names the reason.
  """
  path = check_writable(workdir)
  with _writing(workdir):
    path.mkdir(parents=True, exist_ok=True)
  return path


def check_writable(workdir: str | os.PathLike) -> Path:
  """Return the absolute path of a workdir, which need not exist; raise as `prepare` does, but create nothing."""
  if '://' in str(workdir):
    raise ValueError(
      f'--workdir={workdir} is a URL, not a folder: mount the bucket (gcsfuse, s3fs) and name the mounted folder.'
    )
  path = Path(workdir).absolute()
  with _writing(workdir):
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=existing) as file:
      file.write(b'writable')
  return path


@contextlib.contextmanager
def _writing(workdir: str | os.PathLike) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise OSError(
      f'--workdir={workdir} is not writable ({error.strerror}): choose a folder that you can write to.'
    ) from error


def sweep(workdir: Path) -> None:
  """Remove temporary files of killed runs; the caller holds the lock of the workdir."""
  for folder in (workdir, workdir / 'samples', *workdir.glob('nonfinite/*')):
    atomic_files.sweep(folder)


def write_config(workdir: Path, config: Any) -> None:
  """Write `workdir/config.json` atomically; `config` is a ConfigDict or nested dicts."""
  write_json(workdir / 'config.json', changes.plain(config))


def check_same_run(workdir: Path, config: Any, *, allow_change: bool = False) -> list[Difference]:
  """Return the settings in which a configuration differs from that of the run in the workdir, all of which may change.

  A workdir without config.json passes unless it has checkpoints.

  Args:
    workdir: the folder of the run.
    config: the configuration with which it is to go on.
    allow_change: whether settings may change that continue the same model differently, see `configuration.Change`.

  Raises:
    ValueError: other settings differ; the message lists them.
  """
  if not (workdir / 'config.json').exists():
    if checkpoints.steps(workdir):
      raise ValueError(f'{workdir} has checkpoints but no config.json: restore the file, or use another --workdir.')
    return []
  found = changes.differences(Run(workdir).config, changes.plain(config))
  refused = [different for different in found if different.change is Change.REFUSED]
  flagged = [different for different in found if different.change is Change.ALLOWED and not allow_change]
  if refused:
    raise ValueError(
      f'{workdir} holds a run with another configuration:\n' + _listed(refused + flagged) + 'Use another --workdir, or '
      'reset these settings. To train another model from the weights of this one, set training.first_stage in a new '
      '--workdir.'
    )
  if flagged:
    raise ValueError(
      f'{workdir} holds a run with another configuration:\n' + _listed(flagged) + 'Pass --allow_change to continue the '
      f'run with these settings from here on, which {HISTORY} records; or reset them, or use another --workdir.'
    )
  return found


def _listed(differences: Sequence[Difference]) -> str:
  return ''.join(f'  {different}\n' for different in differences)


def claim(workdir: Path, config: Any, step: int | None, differences: Sequence[Difference]) -> None:
  """Make the workdir that of a configuration: record what changed, the configuration and the environment.

  Args:
    workdir: the folder of the run, whose lock the caller holds.
    config: its configuration from here on.
    step: steps taken so far; None: a new run.
    differences: from `check_same_run`.
  """
  for different in differences:
    print_status(f'changed at step {step or 0}: {different}')
    if different.key == 'training.num_steps' and config.training.schedule in schedules.END_AT_NUM_STEPS:
      print_status(
        f'training.schedule={config.training.schedule!r} ends at training.num_steps, so the learning rate of the steps '
        'from here on changes, too'
      )
  if step is not None:
    record_changes(workdir, step, differences)
  write_config(workdir, config)
  write_environment(workdir)


def record_changes(workdir: Path, step: int, differences: Sequence[Difference]) -> None:
  """Append a row to `workdir/config_history.jsonl` for every changed setting.

  Args:
    workdir: the folder of the run.
    step: steps that were taken with the former settings; rows of later ones, which a damaged checkpoint took back, get
      this step, because what they record holds from here on.
    differences: from `check_same_run`.
  """
  path = workdir / HISTORY
  before = _rows(path)
  rows = [row | {'step': min(row['step'], step)} for row in before]
  for key, saved, wanted, _ in differences:
    row = {'step': step, 'key': key, 'before': saved, 'after': wanted}
    if row not in rows[-len(differences) :]:  # else a job was killed between this file and config.json
      rows.append(row)
  if rows != before:
    atomic_files.write_text(path, ''.join(json.dumps(row) + '\n' for row in rows))


def vocabulary(workdir: str | os.PathLike) -> tuple[str, ...]:
  """Return the words that the run in a workdir knows; empty if there is no run, or it reads no words."""
  if not (Path(workdir) / 'config.json').exists():
    return ()
  return tuple(Run(workdir).config['data']['vocabulary'])


def example_offset(workdir: Path, batch_size: int) -> int:
  """Return how many examples further than step * batch_size a run is in its stream of examples.

  It is 0 unless the batch size has changed: then the step at which it did takes the examples that follow those of the
  step before, so that none is repeated or left out.

  Args:
    workdir: the folder of the run, after `record_changes`.
    batch_size: the batch size now.
  """
  taken = since = 0
  for row in _rows(workdir / HISTORY):
    if row.get('key') == 'data.batch_size':
      taken, since = taken + (row['step'] - since) * row['before'], row['step']
  return taken - since * batch_size


def _rows(path: Path) -> list[dict[str, Any]]:
  """The rows of the history; a line that is not one (an editor, a full disk) is left out with a warning."""
  rows = []
  for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
    try:
      row = json.loads(line)
      rows.append(row | {'step': int(row['step'])})
    except (ValueError, KeyError, TypeError):
      warnings.warn(f'{path}, line {number} is not a row of the history, and is dropped.', stacklevel=2)
  return rows


def write_environment(workdir: Path) -> None:
  """Write `workdir/env.json`: versions, devices, processes, and the git commit of the code if there is one.

  Its `run_id` is drawn when a run begins, and stays when it resumes.
  """
  run_id = (checkpoints.steps(workdir) and Run(workdir).run_id) or secrets.token_hex(8)
  packages = ('vdm_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
  devices = jax.devices()
  write_json(
    workdir / 'env.json',
    {
      'run_id': run_id,
      'python': platform.python_version(),
      'platform': platform.platform(),
      'versions': {name: _version(name) for name in packages},
      'devices': {'kind': devices[0].device_kind, 'platform': devices[0].platform, 'count': len(devices)},
      'processes': jax.process_count(),
      'host': socket.gethostname(),
      'git_commit': _git_commit(),
      'xla_flags': os.environ.get('XLA_FLAGS', ''),
    },
  )


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def _git_commit() -> str | None:
  command = ['git', '-C', str(Path(__file__).parent), 'rev-parse', 'HEAD']
  try:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def write_json(path: Path, content: Any) -> None:
  """Write a JSON file atomically."""
  atomic_files.write_text(path, json.dumps(content, indent=2) + '\n')
