"""Experiments by file or by name: `configs/t2v_large.py:skip4`, or anywhere `t2v_large:skip4`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from vdm_jax import configs
from vdm_jax.errors import InvalidInput
from vdm_jax.jobs import arguments
from vdm_jax.names import closest

FOLDER = Path(next(iter(configs.__path__)))


def names() -> list[str]:
  """Return the names of the experiments that ship with the package, sorted.

  >>> 't2v_large' in names()
  True
  """
  return sorted(file.stem for file in FOLDER.glob('*.py') if file.stem != '__init__')


def split(experiment: str) -> tuple[Path, str | None]:
  """Return the file and the variant (the part after the colon) of an experiment.

  Args:
    experiment: path of an existing file, otherwise a name in `vdm_jax.configs`; with a variant after a colon.

  Raises:
    InvalidInput: it is neither; the message gives the closest name.

  >>> file, variant = split('t2v_large:skip4')
  >>> file.name, variant
  ('t2v_large.py', 'skip4')
  """
  given, colon, variant = arguments.read_path('--config', experiment).partition(':')
  file = Path(given)
  if not file.is_file():
    if given not in names():
      near = closest(file.stem, names())
      hint = f' Did you mean {near}?' if near else ''
      raise InvalidInput(
        f'--config={experiment} is neither a file nor the name of an experiment: give a file, or one of '
        f'{", ".join(names())}.{hint}'
      )
    file = FOLDER / f'{given}.py'
  return file, variant if colon else None


def load(experiment: str) -> ConfigDict:
  """Return the configuration of an experiment, whose file is executed.

  >>> load('t2v_large:skip4').data.frame_skip
  4
  """
  file, variant = split(experiment)
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*([] if variant is None else [variant]))
