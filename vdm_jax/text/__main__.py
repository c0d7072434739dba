"""Computes the embeddings of a data set's captions once, for trainings to read.

    python -m vdm_jax.text embed --encoder=bert-large --encoder_path=data/bert --data=data/clips --out=data/text
    python -m vdm_jax.text embed --config=configs/t2v_large.py --config.data.path=data/clips --out=data/text

It accepts the `--config` flags of the training. --encoder, --encoder_path, --data and --out are short for
`--config.data.text`, `data.text_path`, `data.path` and `data.text_cache`. An interrupted run resumes when the command
is repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict

import vdm_jax.runtime.loading  # noqa: F401, isort: skip (shows "loading" while the imports below last)
from vdm_jax import configuration, data, jobs, runtime
from vdm_jax.errors import InvalidInput
from vdm_jax.jobs import arguments, command
from vdm_jax.runtime import progress
from vdm_jax.text.cache import STORED
from vdm_jax.text.encoders import ENCODERS

_ENCODER = flags.DEFINE_string('encoder', None, f'Frozen encoder, one of {", ".join(ENCODERS)}.')
_ENCODER_PATH = command.define_path('encoder_path', 'Folder with its weights, configuration and tokenizer.')
_DATA = flags.DEFINE_string('data', None, 'Folder of clips, or "digits".')
_OUT = command.define_path('out', 'Folder for the embeddings.')
_STORE = flags.DEFINE_enum('store', 'float32', STORED, 'Type to round embeddings to; float32 is exact.')
_FSDP = flags.DEFINE_integer('fsdp', 1, 'Local devices to shard the weights over; -1: all.')
_TENSOR = flags.DEFINE_integer('tensor', 1, 'Local devices to shard the width of each layer over; -1: all.')
_HOST = flags.DEFINE_string('host', '0/1', 'Share of this host: 0/4 on the first of four, ..., 3/4 on the last.')


def main(argv: Sequence[str]) -> int:
  """Fill a cache. Invalid input ends the command with a message and exit status 2 before any long work."""
  command.prepare()
  if len(argv) > 1:
    command.refuse([f'{argv[1]!r} is not a flag: pass arguments as flags, such as --out=data/text.'])
  sizes = {'fsdp': _FSDP.value, 'tensor': _TENSOR.value}
  mesh = None if sizes == {'fsdp': 1, 'tensor': 1} else sizes
  try:
    return jobs.embed(_config(), stored=_STORE.value, mesh=mesh, host=jobs.read_host(_HOST.value))
  except InvalidInput as error:
    command.refuse(error.args)
  except (ValueError, OSError) as error:
    command.refuse([str(error)])


def _config() -> ConfigDict:
  """Return the configuration with the shorter flags applied."""
  config, chosen = flags.FLAGS.config, _DATA.value
  for key, flag in {'text': _ENCODER, 'text_path': _ENCODER_PATH, 'text_cache': _OUT}.items():
    if flag.value is not None:
      config.data[key] = flag.value
  if chosen is not None:
    config.data.name, config.data.path = data.locate(chosen)
  arguments.expand_paths(config)
  return config


def _define_config(argv: Sequence[str]) -> None:
  """Define the flags of an experiment's configuration, or of the default one, which needs a data set."""
  if command.peek(argv, 'config') is not None:
    return command.define_experiment(argv)
  if command.peek(argv, 'data') is None and command.peek(argv, 'config.data.name') is None:
    raise InvalidInput(
      'no data set is given: pass the configuration of the training with --config=configs/..., or a folder of clips '
      'with --data=FOLDER.'
    )
  command.define_values(configuration.default(), 'Changes to the default configuration.', argv)


def run() -> None:
  """Entry point of `python -m vdm_jax.text`."""
  if sys.argv[1:2] != ['embed']:
    command.refuse([f'{" ".join(sys.argv[1:2])!r} is not a command; the only one is `embed`:\n{__doc__}'])
  argv = sys.argv[2:]
  try:
    if not {'--help', '-h', '--helpfull'} & set(argv):
      _define_config(argv)
  except (InvalidInput, ValueError) as error:
    command.refuse(error.args)
  with progress.show('embedding captions'), runtime.end_on_interrupt():
    app.run(main, argv=[sys.argv[0], *argv], flags_parser=command.parse)


if __name__ == '__main__':
  run()
