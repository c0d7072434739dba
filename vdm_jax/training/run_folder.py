"""The folder of a run: who may write to it, and which configuration it belongs to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vdm_jax import checkpoints, runtime
from vdm_jax.runs import Run
from vdm_jax.runtime import atomic_files

# What may differ between the starts of one run; a name ending in '.' is a whole section.
MAY_CHANGE = (
  'training.num_steps',
  'training.checkpoint_every',
  'training.preview_every',
  'training.heldout_every',
  'training.keep_checkpoints',
  'training.stall_seconds',
  'training.spike_factor',
  'training.tensorboard',
  'training.first_stage',
  'sampling.',
  'mesh.',
  'data.path',
  'data.text_path',
  'data.text_cache',
  'data.num_workers',
  'data.max_bad_share',
  'model.text_path',
  'model.text_cache',
  'model.attention',
)


LOCK = 'run.lock'
LEFT_OUT = 'left_out.json'
HEARTBEAT_SECONDS = 15.0
# A lock of another machine that has not beaten for this long belongs to a dead job.
STALE_SECONDS = 120.0


class InUse(RuntimeError):
  """Another job holds the workdir."""


def prepare(workdir: str | os.PathLike) -> Path:
  """Creates the workdir and returns its path.

  Raises ValueError for a URL, and OSError naming the reason when nothing can be written there.
  """
  if '://' in str(workdir):
    raise ValueError(f'--workdir={workdir} is a URL: mount the bucket (gcsfuse, s3fs) and name the mounted folder.')
  path = Path(workdir).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as file:
      file.write(b'writable')
  except OSError as error:
    raise OSError(
      f'--workdir={workdir} cannot be written to ({error.strerror}): choose a folder of your own.'
    ) from error
  return path


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
  """Holds `workdir/run.lock`, so that no other job writes to the same run.

  A lock is stale, and taken over, when its process is gone, its machine was restarted, or it is another
  machine's and has not been touched for STALE_SECONDS. Raises InUse naming the holder otherwise.
  """
  path = workdir / LOCK
  mine = {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'boot': _boot(),
    'process_start': _started(os.getpid()),
  }
  with _exclusively(path) as file:
    text = file.read()
    if text and not _is_stale(path, text):
      holder = json.loads(text)
      raise InUse(
        f'{workdir} is in use by process {holder["pid"]} on {holder["host"]}: stop that job, or use another --workdir.'
      )
    _rewrite(file, json.dumps(mine))
  stop = threading.Event()
  heart = threading.Thread(target=_beat, args=(path, stop), daemon=True)
  heart.start()
  try:
    yield
  finally:
    stop.set()
    heart.join()
    with _exclusively(path) as file:
      if file.read() == json.dumps(mine):
        _rewrite(file, '')


def sweep(workdir: Path) -> None:
  """Removes what killed runs left half written; to be called while holding the lock."""
  for folder in (workdir, workdir / 'samples', *workdir.glob('nonfinite/*')):
    atomic_files.sweep(folder)


def leave_out(workdir: Path, step: int) -> None:
  """Notes that a run stops after a step without the held-out loss or preview that were due."""
  if jax.process_index() == 0:
    write_json(workdir / LEFT_OUT, {'step': step})


def left_out(workdir: Path, step: int) -> bool:
  """Whether what was due after this step was left out; the same answer on every process."""
  found = None
  if jax.process_index() == 0:
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
      found = json.loads((workdir / LEFT_OUT).read_text())['step']
  return runtime.exchange('left out', found)[0] == step


def made_up(workdir: Path) -> None:
  """Notes that nothing is left out any more."""
  if jax.process_index() == 0:
    (workdir / LEFT_OUT).unlink(missing_ok=True)


def write_config(workdir: Path, config: Any) -> None:
  """Writes `workdir/config.json` whole or not at all; `config` is a ConfigDict or nested dicts."""
  write_json(workdir / 'config.json', _plain(config))


def check_same_run(workdir: Path, config: Any) -> None:
  """Raises ValueError if the workdir was made by another configuration, listing the keys that differ.

  MAY_CHANGE lists what may. A workdir without config.json passes unless it has checkpoints.
  """
  if not (workdir / 'config.json').exists():
    if checkpoints.steps(workdir):
      raise ValueError(f'{workdir} has checkpoints but no config.json: put the file back, or use another --workdir.')
    return
  saved, wanted = (_flatten(c) for c in (Run(workdir).config, _plain(config)))
  different = [
    f'  {key}: {_show(saved, key)} in the workdir, {_show(wanted, key)} now'
    for key in sorted(saved.keys() | wanted.keys())
    if _show(saved, key) != _show(wanted, key) and not key.startswith(MAY_CHANGE)
  ]
  if different:
    raise ValueError(
      f'{workdir} holds a run of another configuration:\n' + '\n'.join(different) + '\n'
      'Use another --workdir, or set these keys back.'
    )


def write_environment(workdir: Path) -> None:
  """Writes `workdir/env.json`: versions, devices, processes and the git commit, if any, of the code."""
  packages = ('vdm_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
  devices = jax.devices()
  write_json(
    workdir / 'env.json',
    {
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


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[Any]:
  """The file open for reading and writing, one process at a time where the file system can lock."""
  with open(path, 'a+') as file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    file.seek(0)
    yield file


def _rewrite(file: Any, text: str) -> None:
  file.seek(0)
  file.truncate()
  file.write(text)
  file.flush()


def _is_stale(path: Path, text: str) -> bool:
  try:
    holder = json.loads(text)
    host, pid, boot, started = (holder[key] for key in ('host', 'pid', 'boot', 'process_start'))
  except (ValueError, KeyError, TypeError):
    return True  # a job killed in the middle of writing it
  if host == socket.gethostname():
    return boot != _boot() or started != _started(pid)
  # The file system's own clock on both sides: machines disagree.
  with tempfile.NamedTemporaryFile(dir=path.parent) as now:
    return os.stat(now.name).st_mtime - path.stat().st_mtime > STALE_SECONDS


def _beat(path: Path, stop: threading.Event) -> None:
  while not stop.wait(HEARTBEAT_SECONDS):
    with contextlib.suppress(OSError):
      os.utime(path)


def _boot() -> str:
  try:
    return Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    return ''


def _started(pid: int) -> str | None:
  """When a process of this machine started, which tells a number used again apart; None when it is gone."""
  try:
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return None if fields[0] == 'Z' else fields[19]  # a zombie holds nothing
  except FileNotFoundError:
    if Path('/proc/self/stat').exists():
      return None
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return None
  except PermissionError:
    pass
  return 'running'


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
  """Writes a JSON file whole or not at all."""
  atomic_files.write_text(path, json.dumps(content, indent=2) + '\n')


def _plain(config: Any) -> dict[str, Any]:
  return json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config))


def _flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in config.items():
    flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
  return flat


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else 'absent'
