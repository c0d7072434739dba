"""The command line: training, sampling, evaluation and the doctor. It dispatches; the work is done in the rooms below.

    python -m vdm_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m vdm_jax.main --mode=sample --workdir=runs/digits --prompt="a 3 moving left" --out=out

Every mode takes `--config.section.key=value`. Sampling and evaluation read the run's `config.json` and never execute a
configuration.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from vdm_jax import configuration, doctor, jobs

MODES = ('train', 'sample', 'evaluate', 'doctor')
BAD_INPUT = 2  # exit status

_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: configuration, metrics, checkpoints, samples.')
_SEED = flags.DEFINE_integer('seed', None, 'Seed of training, or of sampling; config.seed by default.')
_PROMPT = flags.DEFINE_multi_string('prompt', [], 'sample: what to show; may be given several times.')
_PROMPT_FILE = flags.DEFINE_string('prompt_file', None, 'sample: a text file with one prompt per line.')
_LABEL = flags.DEFINE_multi_integer('label', [], 'sample: class to show; may be given several times.')
_NUM_VIDEOS = flags.DEFINE_integer('num_videos', 4, 'sample: videos per prompt or label.', lower_bound=1)
_OUT = flags.DEFINE_string('out', None, 'sample: folder to write to.')
_PROTOCOL = flags.DEFINE_enum('protocol', 'digits', jobs.PROTOCOLS, 'evaluate: what to measure.')


def main(argv: Sequence[str]) -> int:
  """Runs a mode; bad input ends it with a message and status 2, before any long work."""
  if len(argv) > 1:
    return _refuse([f'{argv[1]!r} is not understood: every argument is a flag, such as --workdir=runs/digits.'])
  try:
    return _run(flags.FLAGS.config)
  except jobs.BadInput as error:
    return _refuse(error.args)


def _run(config: ConfigDict) -> int:
  if _SEED.value is not None:
    config.seed = _SEED.value
  if _MODE.value == 'doctor':
    print(text := doctor.report(config))
    return BAD_INPUT if '\nproblem: ' in text else 0
  if _WORKDIR.value is None:
    raise jobs.BadInput('--workdir is missing: name the folder of the run, such as --workdir=runs/digits.')
  if _MODE.value == 'train':
    return jobs.train(config, _WORKDIR.value)
  if _MODE.value == 'evaluate':
    return jobs.evaluate(config, _WORKDIR.value, _PROTOCOL.value)
  if _OUT.value is None:
    raise jobs.BadInput('--out is missing: name the folder for the videos, such as --out=out.')
  return jobs.sample(
    config, _WORKDIR.value, _OUT.value,
    prompts=[*_PROMPT.value, *jobs.read_prompts(_PROMPT_FILE.value)], labels=_LABEL.value, repeats=_NUM_VIDEOS.value,
  )  # fmt: skip


def _refuse(messages: Sequence[str]) -> int:
  for message in messages:
    print(f'error: {message}', file=sys.stderr)
  return BAD_INPUT


def _define_config(argv: Sequence[str]) -> None:
  """Where --config comes from: a file to execute, or the run's own record when its model is to be used."""
  mode, workdir = (_peek(argv, name) for name in ('mode', 'workdir'))
  if mode not in ('sample', 'evaluate'):
    config_flags.DEFINE_config_file('config', None, 'Experiment: configs/digits.py, configs/t2v_large.py:skip4, ...')
    flags.mark_flag_as_required('config')
    return
  if _peek(argv, 'config') is not None:
    raise jobs.BadInput(
      f'--config is not read by --mode={mode}, which uses the configuration of the run: leave it out. '
      'Single keys can be changed: --config.sampling.num_steps=50.'
    )
  path = Path(workdir or '') / 'config.json'
  if not path.exists():
    raise jobs.BadInput(f'--workdir={workdir} has no config.json: name the folder of a training run.')
  config_flags.DEFINE_config_dict('config', configuration.read(path), 'Changes to the configuration of the run.')


def _peek(argv: Sequence[str], name: str) -> str | None:
  """The value of a flag before flags are parsed; None if it is not given."""
  for argument, following in zip(argv, [*argv[1:], None], strict=True):
    if argument.lstrip('-').startswith(f'{name}='):
      return argument.split('=', 1)[1]
    if argument in (f'--{name}', f'-{name}'):
      return following
  return None


def run() -> None:
  """Entry point of `python -m vdm_jax.main` and of the `vdm_jax` command."""
  try:
    _define_config(sys.argv[1:])
  except (jobs.BadInput, ValueError) as error:
    sys.exit(_refuse(error.args))
  flags.FLAGS.set_default('verbosity', logging.WARNING)
  warnings.showwarning = lambda message, *rest: print(f'warning: {message}', file=sys.stderr)
  app.run(main)


if __name__ == '__main__':
  run()
