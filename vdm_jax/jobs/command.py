"""What every command line of the project does alike: flags, overrides of the configuration, and refusals."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from vdm_jax import configuration
from vdm_jax.errors import ExitStatus, InvalidInput


class Refusal(SystemExit):
  """The end of a command that cannot go on, mostly for bad input, with what was said about it."""

  def __init__(self, messages: Sequence[str], status: int):
    super().__init__(status)
    self.messages = tuple(str(message) for message in messages)


def prepare() -> None:
  """Sets what a process prints and keeps: warnings in one line, and compiled programs between runs.

  These are in $JAX_COMPILATION_CACHE_DIR, or in the user's cache.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # the libraries below report every file they open
  warnings.showwarning = lambda message, *rest: print(f'warning: {message}', file=sys.stderr)
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(Path.home() / '.cache' / 'vdm_jax'))


def refuse(messages: Sequence[str], status: int = ExitStatus.INVALID_INPUT) -> NoReturn:
  """Prints what is wrong and ends the command."""
  for message in messages:
    print(f'error: {message}', file=sys.stderr)
  raise Refusal(messages, status)


def define_experiment(argv: Sequence[str]) -> None:
  """Defines --config, a file that is executed. Raises InvalidInput where there is none."""
  config = peek(argv, 'config')
  if config is not None and not (path := Path(config.split(':')[0])).is_file():
    beside = sorted(str(file) for file in path.parent.glob('*.py'))
    raise InvalidInput(f'--config={config} is not a file: choose one of {", ".join(beside) or "configs/*.py"}.')
  config_flags.DEFINE_config_file('config', None, 'Experiment: configs/digits.py, configs/t2v_large.py:skip4, ...')


def define_values(config: ConfigDict, meaning: str, argv: Sequence[str]) -> None:
  """Defines --config.section.key for the keys of `config`. Raises InvalidInput for bad ones in `argv`."""
  try:
    config_flags.DEFINE_config_dict('config', config, meaning)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise InvalidInput(*_reasons(argv, error)) from error


def parse(argv: Sequence[str]) -> list[str]:
  """As absl does, but with the nearest right name for a wrong key, and without a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    refuse(_reasons(argv, error))


def peek(argv: Sequence[str], name: str) -> str | None:
  """The value of a flag before flags are parsed; None if it is not given."""
  for argument, following in itertools.zip_longest(argv, argv[1:]):
    if argument.lstrip('-').startswith(f'{name}='):
      return argument.split('=', 1)[1]
    if argument in (f'--{name}', f'-{name}'):
      return following
  return None


def _reasons(argv: Sequence[str], error: Exception) -> list[str]:
  overrides = [argument.lstrip('-').split('=')[0] for argument in argv if argument.lstrip('-').startswith('config.')]
  unknown = [message for override in overrides if (message := configuration.unknown_key(override))]
  return unknown or [str(error).strip().splitlines()[-1]]  # of a configuration file's own error, without its traceback
