"""The command line: training, sampling, evaluation, compiling ahead of time and the doctor.

It dispatches; the work is done in the rooms below.

    python -m vdm_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m vdm_jax.main --mode=sample --workdir=runs/digits --prompt="a 3 moving left" --out=out

Every mode takes `--config.section.key=value`. Sampling and evaluation read the run's `config.json` and never execute a
configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from vdm_jax import compilation, configuration, data, doctor, jobs
from vdm_jax.jobs import command

MODES = ('train', 'sample', 'evaluate', 'compile', 'doctor')

_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: configuration, metrics, checkpoints, samples.')
_SEED = flags.DEFINE_integer('seed', None, 'Seed of training, or of sampling; config.seed by default.')
_PROMPT = flags.DEFINE_multi_string('prompt', [], 'sample: what to show; may be given several times.')
_PROMPT_FILE = flags.DEFINE_string('prompt_file', None, 'sample: a text file with one prompt per line.')
_LABEL = flags.DEFINE_multi_integer('label', [], 'sample: class to show; may be given several times.')
_NUM_VIDEOS = flags.DEFINE_integer('num_videos', 4, 'sample: videos per prompt or label.', lower_bound=1)
_FPS = flags.DEFINE_string('fps', None, 'sample: frame rate to ask a model for that is told it, or "image".')
_ORIGINAL_SIZE = flags.DEFINE_string('original_size', None, 'sample: HxW of the footage to ask for, such as 720x1280.')
_NUM_FRAMES = flags.DEFINE_integer('num_frames', None, 'sample: frames of each video; any number.')
_INIT_VIDEO = flags.DEFINE_string('init_video', None, 'sample: file to continue or interpolate, or "test": test clips.')
_INIT_FRAMES = flags.DEFINE_integer('init_frames', None, 'sample: how many frames of --init_video are given.')
_INTERPOLATE = flags.DEFINE_integer('interpolate', None, 'sample: factor by which the frame rate is raised.')
_LOW_RESOLUTION = flags.DEFINE_string('low_resolution', None, 'sample: file, or run, whose videos to make larger.')
_FRAME_RATES = flags.DEFINE_string('frame_rates', None, 'sample: hierarchy of frame rates, lowest first: 2,8,24.')
_OVERLAP = flags.DEFINE_integer('overlap', None, 'sample: frames that a window sees of the one before.')
_OUT = flags.DEFINE_string('out', None, 'sample: folder to write to.')
_PROTOCOL = flags.DEFINE_enum('protocol', 'digits', jobs.PROTOCOLS, 'evaluate: what to measure.')
_SWEEP = flags.DEFINE_enum('sweep', None, sorted(jobs.SWEEPS), 'evaluate: measure at several values of a setting.')
_TOPOLOGY = flags.DEFINE_string('topology', None, 'compile: v4:4x4x8, v5e:4x4, gpu:<nodes>x<per node>x<GB>, here.')


def main(argv: Sequence[str]) -> int:
  """Runs a mode; bad input ends it with a message and status 2, before any long work."""
  command.prepare()
  if len(argv) > 1:
    return command.refuse([f'{argv[1]!r} is not understood: every argument is a flag, such as --workdir=runs/digits.'])
  try:
    return _run(flags.FLAGS.config)
  except (jobs.BadInput, data.TooManyBadClips) as error:
    return command.refuse(error.args)


def _run(config: ConfigDict) -> int:
  if _SEED.value is not None:
    config.seed = _SEED.value
  if _MODE.value == 'doctor':
    print(text := doctor.report(config))
    return command.BAD_INPUT if '\nproblem: ' in text else 0
  if _MODE.value == 'compile':
    return _compile(config)
  if _WORKDIR.value is None:
    raise jobs.BadInput('--workdir is missing: name the folder of the run, such as --workdir=runs/digits.')
  if _MODE.value == 'train':
    return jobs.train(config, _WORKDIR.value)
  if _MODE.value == 'evaluate':
    return jobs.evaluate(config, _WORKDIR.value, _PROTOCOL.value, _SWEEP.value)
  if _OUT.value is None:
    raise jobs.BadInput('--out is missing: name the folder for the videos, such as --out=out.')
  return jobs.sample(config, _WORKDIR.value, _OUT.value, _request())


def _compile(config: ConfigDict) -> int:
  if _TOPOLOGY.value is None:
    raise jobs.BadInput('--topology is missing: name the devices to compile for, such as v4:4x4x8 or gpu:1x8x80.')
  flag = flags.FLAGS['config']
  asked = {'config': config_flags.get_config_filename(flag), 'overrides': config_flags.get_override_values(flag)}
  try:
    print(json.dumps(asked | compilation.report(config, _TOPOLOGY.value), indent=2))
  except (ValueError, RuntimeError) as error:
    raise jobs.BadInput(str(error)) from error
  return 0


def _request() -> jobs.Request:
  return jobs.Request(
    prompts=[*_PROMPT.value, *jobs.read_prompts(_PROMPT_FILE.value)],
    labels=_LABEL.value,
    repeats=_NUM_VIDEOS.value,
    frame_rate=jobs.read_frame_rate(_FPS.value),
    original_size=jobs.read_size(_ORIGINAL_SIZE.value),
    num_frames=_NUM_FRAMES.value,
    init_video=_INIT_VIDEO.value,
    init_frames=_INIT_FRAMES.value,
    interpolate=_INTERPOLATE.value,
    low_resolution=_LOW_RESOLUTION.value,
    frame_rates=jobs.read_frame_rates(_FRAME_RATES.value),
    overlap=_OVERLAP.value,
  )


def _define_config(argv: Sequence[str]) -> None:
  """Where --config comes from: a file to execute, or the run's own record when its model is to be used."""
  mode, workdir = (command.peek(argv, name) for name in ('mode', 'workdir'))
  if mode not in ('sample', 'evaluate'):
    command.define_experiment(argv)
    flags.mark_flag_as_required('config')
    return
  if command.peek(argv, 'config') is not None:
    raise jobs.BadInput(
      f'--config is not read by --mode={mode}, which uses the configuration of the run: leave it out. '
      'Single keys can be changed: --config.sampling.num_steps=50.'
    )
  path = Path(workdir or '') / 'config.json'
  if not path.exists():
    raise jobs.BadInput(f'--workdir={workdir} has no config.json: name the folder of a training run.')
  command.define_values(configuration.read(path), 'Changes to the configuration of the run.', argv)


def run() -> None:
  """Entry point of `python -m vdm_jax.main` and of the `vdm_jax` command."""
  try:
    _define_config(sys.argv[1:])
  except (jobs.BadInput, ValueError) as error:
    sys.exit(command.refuse(error.args))
  app.run(main, flags_parser=command.parse)


if __name__ == '__main__':
  run()
