"""Which run is the first stage of a second one: recorded when the second is trained, found again when it is sampled."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vdm_jax import pretrained
from vdm_jax.runs import Run

ACCEPT = '--config.training.first_stage_identity.weights='


def identify(first: Run, workdir: str | os.PathLike) -> dict[str, Any]:
  """Return `training.first_stage_identity` of a second stage that is trained in `workdir` from the run `first`.

  Raises:
    FileNotFoundError: the first stage has no checkpoint.

  >>> identify(Run('pretrained:digits_fit'), 'runs/second')['step']
  8000
  """
  shipped = first.name.startswith(pretrained.PREFIX)
  path = '' if shipped else os.path.relpath(first.path.resolve(), Path(workdir).resolve())
  return {'weights': first.original_hash, 'run_id': first.run_id, 'step': first.step, 'path': path}


def find(config: Mapping[str, Any], run: Run) -> Run:
  """Return the first stage of a second one.

  It is the run that `training.first_stage` names. A name that the run itself recorded is looked for beside the run
  first, since it may have been typed in another folder or both may have been moved; and what is found must be the run
  that the second stage was trained from. It may have been trained further, which raises a warning. A name that was
  given since then is taken, with a warning if it is another run. Second stages of versions that recorded no identity
  accept any first stage.

  Args:
    config: the configuration of the second stage, with the changes of the command line.
    run: the second stage.

  Raises:
    FileNotFoundError: there is no such run; the message lists where it was looked for.
    ValueError: another run is there, or none is named.
  """
  name, wanted = config['training']['first_stage'], config['training']['first_stage_identity']
  if not name:
    raise ValueError(
      'a second stage upsamples the videos of its first stage: name that run with --config.training.first_stage=DIR.'
    )
  if name != run.config['training']['first_stage'] or name.startswith(pretrained.PREFIX):
    first = Run(name)
    if wanted['weights'] and first.exists and not _same(first, wanted) and not _further(first, wanted):
      warnings.warn(f'{name} is not the first stage that {run.name} was trained from.', stacklevel=2)
    return first
  places = {Path(place).resolve(): place for place in _places(name, wanted['path'], run)}.values()
  found = [first for first in map(Run, places) if first.exists]
  if not found:
    raise FileNotFoundError(
      f'training.first_stage={name}: there is no run at {" or ".join(places)}: move the first stage beside {run.name}, '
      'or name it with --config.training.first_stage=DIR.'
    )
  if not wanted['weights']:
    return found[0]
  if first := next((first for first in found if _same(first, wanted)), None):
    return first
  if first := next((first for first in found if _further(first, wanted)), None):
    warnings.warn(
      f'the first stage {first.name} has been trained from step {wanted["step"]} to step {first.step} since '
      f'{run.name} was trained from it; it is used as it is now.',
      stacklevel=2,
    )
    return first
  raise ValueError(
    f'training.first_stage={name}: {" and ".join(first.name for first in found)} (step {found[0].step}) is not the run '
    f'that {run.name} was trained from (step {wanted["step"]}, weights {wanted["weights"][:12]}). Name that one with '
    f'--config.training.first_stage=DIR, or accept any with {ACCEPT} (nothing after the equals sign).'
  )


def _places(name: str, path: str, run: Run) -> Iterator[str]:
  """Where a first stage may be: where it was when seen from the run, as it was typed, and beside the run."""
  own = run.path if run.path.is_dir() else run.path.parent
  if path:
    yield os.path.normpath(own / path)
  yield name
  yield os.path.normpath(run.path.absolute().parent / Path(name).name)


def _same(first: Run, wanted: Mapping[str, Any]) -> bool:
  return first.original_hash == wanted['weights']


def _further(first: Run, wanted: Mapping[str, Any]) -> bool:
  """Whether a run is the one wanted, trained for more steps."""
  return bool(wanted['run_id']) and first.run_id == wanted['run_id'] and first.step > wanted['step']
