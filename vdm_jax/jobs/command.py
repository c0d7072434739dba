"""What all command lines of the project share: flags, overrides of the configuration, and error messages."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags
from tqdm import tqdm

from vdm_jax import configuration, models
from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.jobs import arguments, experiments
from vdm_jax.names import unknown


class Refusal(SystemExit):
  """The end of a command that cannot continue, mostly because of invalid input, with its messages."""

  def __init__(self, messages: Sequence[str], status: int):
    super().__init__(status)
    self.messages = tuple(str(message) for message in messages)


class UnknownChoice(ValueError):
  """A flag's value is not one of its options."""


def prepare() -> None:
  """Configure the process: one-line warnings, and a persistent compilation cache.

  The cache is $JAX_COMPILATION_CACHE_DIR, or a folder in the user's cache.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # libraries log every file that they open
  warnings.showwarning = functools.partial(_show_warning, set())
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(Path.home() / '.cache' / 'vdm_jax'))


def _show_warning(shown: set[str], message: Warning | str, *origin: Any) -> None:
  """Print a warning once, whichever lines of code raise it, and not at the end of a progress bar as `print` would."""
  if str(message) not in shown:
    shown.add(str(message))
    tqdm.write(f'warning: {message}', file=sys.stderr)


def refuse(messages: Sequence[str], status: int = ExitStatus.INVALID_INPUT) -> NoReturn:
  """Print error messages and end the command."""
  for message in messages:
    print(f'error: {message}', file=sys.stderr)
  raise Refusal(messages, status)


def define_choice(name: str, default: str | None, options: Iterable[str], help: str) -> flags.FlagHolder[str | None]:
  """Define a flag with named options; another value is an error that gives the closest one."""
  return flags.DEFINE(_Choice(name, list(options)), name, default, help)


def define_path(name: str, help: str) -> flags.FlagHolder[str | None]:
  """Define a flag that is a path; `~` is expanded, and a path that is not local is an error."""
  return flags.DEFINE(_Path(name), name, None, help)


def define_experiment(argv: Sequence[str]) -> None:
  """Define --config, an experiment whose file is executed. Raises InvalidInput if `argv` names none that exists."""
  config = peek(argv, 'config')
  if config is not None:
    experiments.split(config)
  config_flags.DEFINE_config_file(
    'config', None, 'Experiment: a name such as digits or t2v_large:skip4, or a file such as configs/digits.py.'
  )
  flag = flags.FLAGS['config']
  flag.parser = _Experiment(flag.parser)


def define_values(config: ConfigDict, help: str, argv: Sequence[str]) -> None:
  """Define --config.section.key for every key of `config`. Raises InvalidInput for unknown ones in `argv`."""
  try:
    config_flags.DEFINE_config_dict('config', config, help)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise InvalidInput(*_reasons(argv, error, config)) from error


def parse(argv: Sequence[str]) -> list[str]:
  """Parse flags as absl does, but report the closest name for an unknown key, without a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, InvalidInput, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    refuse(_reasons(argv, error))


def peek(argv: Sequence[str], name: str) -> str | None:
  """Return the value of a flag before flags are parsed; None if it is not given.

  >>> peek(['--mode=sample', '--workdir', 'runs/digits'], 'workdir')
  'runs/digits'
  """
  for argument, following in itertools.zip_longest(argv, argv[1:]):
    if argument.lstrip('-').startswith(f'{name}='):
      return argument.split('=', 1)[1]
    if argument in (f'--{name}', f'-{name}'):
      return following
  return None


class _Choice(flags.ArgumentParser):
  """Parser of a flag with named options."""

  def __init__(self, flag: str, options: Sequence[str]):
    self._flag, self.enum_values = flag, options  # the name that absl's parser of choices has for them
    self.syntactic_help = f'<{"|".join(options)}>'

  def parse(self, argument: Any) -> Any:
    if argument not in self.enum_values:
      raise UnknownChoice(unknown(f'--{self._flag}', argument, self.enum_values))
    return argument

  def flag_type(self) -> str:
    return 'string enum'


class _Path(flags.ArgumentParser):
  """Parser of a flag that is a path."""

  syntactic_help = '<path>'

  def __init__(self, flag: str):
    self._flag = flag

  def parse(self, argument: Any) -> Any:
    return arguments.read_path(f'--{self._flag}', argument)

  def flag_type(self) -> str:
    return 'path'


class _Experiment(flags.ArgumentParser):
  """Parser of --config that also accepts the names of experiments; `of_file` is the parser of ml_collections."""

  def __init__(self, of_file: flags.ArgumentParser):
    self._of_file = of_file

  def parse(self, experiment: str) -> Any:
    file, variant = experiments.split(experiment)
    return self._of_file.parse(str(file) if variant is None else f'{file}:{variant}')

  def flag_type(self) -> str:
    return 'experiment'


def _overridden(argv: Sequence[str]) -> ConfigDict | None:
  """The configuration that flags override: the experiment's, or that of `define_values`; None if it is invalid."""
  experiment = peek(argv, 'config')
  if experiment is None:
    return flags.FLAGS['config'].value if 'config' in flags.FLAGS else None
  try:
    return experiments.load(experiment)
  except Exception:  # whatever the file raises; `error` is about that already
    return None


def _reasons(argv: Sequence[str], error: Exception, config: ConfigDict | None = None) -> list[str]:
  """The messages for an error in flags, which override `config`."""
  config = _overridden(argv) if config is None else config
  network = peek(argv, 'config.model.network')
  if config is not None and network in models.NETWORKS and network != config.model.network:
    return [configuration.network_changed(network, config.model.network)]
  overrides = [argument.lstrip('-').split('=')[0] for argument in argv if argument.lstrip('-').startswith('config.')]
  if found := [message for override in overrides if (message := configuration.unknown_key(override, config))]:
    return found
  if isinstance(error.__context__, UnknownChoice):
    return [str(error.__context__)]
  if isinstance(error, flags.IllegalFlagValueError) and (match := re.match(r'flag --(config\.[\w.]+)=', str(error))):
    value = functools.reduce(lambda node, key: node[key], match[1].split('.')[1:], config or configuration.default())
    return [f'--{match[1]}={peek(argv, match[1])} is not a valid value: the key takes {type(value).__name__}.']
  # An error in an experiment's file, without its traceback and the name of its exception.
  return [re.sub(r'^\w+Error: ', '', str(error).strip().splitlines()[-1])]
