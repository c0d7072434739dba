"""The folder of a run (workdir): the configuration it belongs to, and the environment it was made in."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from vdm_jax import checkpoints
from vdm_jax.runs import Run
from vdm_jax.runtime import atomic_files

# Settings that may change when a run resumes; a name ending in '.' is a whole section.
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


def prepare(workdir: str | os.PathLike) -> Path:
  """Create the workdir and return its absolute path.

  Raises:
    ValueError: `workdir` is a URL.
    OSError: nothing can be written there; the message names the reason.
  """
  if '://' in str(workdir):
    raise ValueError(
      f'--workdir={workdir} is a URL, not a folder: mount the bucket (gcsfuse, s3fs) and name the mounted folder.'
    )
  path = Path(workdir).absolute()
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as file:
      file.write(b'writable')
  except OSError as error:
    raise OSError(
      f'--workdir={workdir} is not writable ({error.strerror}): choose a folder that you can write to.'
    ) from error
  return path


def claim(workdir: Path, config: Any) -> None:
  """Make the workdir that of a configuration: check it, remove leftovers, record configuration and environment.

  The caller holds the lock of the workdir. Raises ValueError as `check_same_run` does.
  """
  sweep(workdir)
  check_same_run(workdir, config)
  write_config(workdir, config)
  write_environment(workdir)


def sweep(workdir: Path) -> None:
  """Remove temporary files of killed runs; the caller holds the lock of the workdir."""
  for folder in (workdir, workdir / 'samples', *workdir.glob('nonfinite/*')):
    atomic_files.sweep(folder)


def write_config(workdir: Path, config: Any) -> None:
  """Write `workdir/config.json` atomically; `config` is a ConfigDict or nested dicts."""
  write_json(workdir / 'config.json', _plain(config))


def check_same_run(workdir: Path, config: Any) -> None:
  """Raise ValueError if the workdir belongs to another configuration, listing the settings that differ.

  Those of MAY_CHANGE may differ. A workdir without config.json passes unless it has checkpoints.
  """
  if not (workdir / 'config.json').exists():
    if checkpoints.steps(workdir):
      raise ValueError(f'{workdir} has checkpoints but no config.json: restore the file, or use another --workdir.')
    return
  saved, wanted = (_flatten(c) for c in (Run(workdir).config, _plain(config)))
  different = [
    f'  {key}: {_show(saved, key)} in the workdir, {_show(wanted, key)} now'
    for key in sorted(saved.keys() | wanted.keys())
    if _show(saved, key) != _show(wanted, key) and not key.startswith(MAY_CHANGE)
  ]
  if different:
    raise ValueError(
      f'{workdir} holds a run with another configuration:\n' + '\n'.join(different) + '\n'
      'Use another --workdir, or reset these settings.'
    )


def write_environment(workdir: Path) -> None:
  """Write `workdir/env.json`: versions, devices, processes, and the git commit of the code if there is one.

  Its `run_id` is drawn when a run begins, and stays when it resumes.
  """
  run_id = Run(workdir).run_id if checkpoints.steps(workdir) else ''
  packages = ('vdm_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
  devices = jax.devices()
  write_json(
    workdir / 'env.json',
    {
      'run_id': run_id or secrets.token_hex(8),
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


def _plain(config: Any) -> dict[str, Any]:
  return json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config))


def _flatten(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for key, value in config.items():
    flat |= _flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
  return flat


def _show(flat: dict[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else 'absent'
