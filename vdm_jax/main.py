"""The command line: training, sampling, evaluation, compiling ahead of time, the doctor. It only dispatches.

    python -m vdm_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m vdm_jax.main --mode=sample --workdir=runs/digits --prompt="a 3 moving left" --out=out

Every mode takes `--config.section.key=value`. Sampling and evaluation read the run's `config.json` and never execute a
configuration.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from vdm_jax import checkpoints, configuration, data, jobs, pretrained, runtime, training
from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.jobs import command

MODES = ('train', 'sample', 'evaluate', 'compile', 'doctor', 'preflight', 'replay')
OF_A_MODEL = ('sample', 'evaluate')  # modes that use a trained model
OF_A_RUN = (*OF_A_MODEL, 'replay')  # modes that read the configuration of their workdir
JOINT = ('train', 'evaluate', 'doctor', 'preflight', 'replay')  # modes that several processes may run together

_MODE = flags.DEFINE_enum('mode', 'train', MODES, 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run: configuration, metrics, checkpoints, samples.')
_PRETRAINED = flags.DEFINE_string('pretrained', None, 'sample, evaluate: a model of the package in place of a run.')
_COORDINATOR = flags.DEFINE_string('coordinator', None, "Where processes meet: host:port of the first, or 'auto'.")
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes meet at --coordinator.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.')
_SEED = flags.DEFINE_integer('seed', None, 'Seed of training, or of sampling; config.seed by default.')
_PROMPT = flags.DEFINE_multi_string('prompt', [], 'sample: what to show; may be given several times.')
_PROMPT_FILE = flags.DEFINE_string('prompt_file', None, 'sample, evaluate: a text file with one prompt per line.')
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
_OVERFIT = flags.DEFINE_bool('overfit', False, 'doctor: measure the clips, and train on eight of them; minutes.')
_OUT = flags.DEFINE_string('out', None, 'sample: folder to write to; evaluate: the same, that of the run by default.')
_PROTOCOL = flags.DEFINE_enum('protocol', 'digits', list(jobs.PROTOCOLS), 'evaluate: what to measure.')
_SWEEP = flags.DEFINE_enum('sweep', None, sorted(jobs.SWEEPS), 'evaluate: measure at several values of a setting.')
_REAL_VS_REAL = flags.DEFINE_bool('real_vs_real', False, 'evaluate: real clips in the place of samples, a floor.')
_FEATURES = flags.DEFINE_string('features', None, 'evaluate: folder of feature networks, or random: stand-ins.')
_LIMIT = flags.DEFINE_integer('limit', None, 'evaluate: most samples, and reference clips.', lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'evaluate: samples made at a time.', lower_bound=1)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'compile: v4:4x4x8, v5e:4x4, gpu:<nodes>x<per node>x<GB>, here.')


def main(argv: Sequence[str]) -> int:
  """Runs a mode; bad input ends it with a message and status 2, before any long work."""
  command.prepare()
  if len(argv) > 1:
    command.refuse([f'{argv[1]!r} is not understood: every argument is a flag, such as --workdir=runs/digits.'])
  try:
    return _run(flags.FLAGS.config)
  except (InvalidInput, data.TooManyBadClips, training.InUse, FloatingPointError) as error:
    command.refuse(error.args)
  except training.Damaged as error:
    command.refuse(error.args, ExitStatus.PROCESS_LOST)


def _run(config: ConfigDict) -> int:
  if _SEED.value is not None:
    config.seed = _SEED.value
  if _MODE.value == 'doctor':
    return jobs.examine(config, _WORKDIR.value, overfit=_OVERFIT.value)
  if _OVERFIT.value:
    raise InvalidInput(f'--overfit has no effect on --mode={_MODE.value}: give --mode=doctor, or leave it out.')
  if _MODE.value == 'compile':
    flag = flags.FLAGS['config']
    asked = {'config': config_flags.get_config_filename(flag), 'overrides': config_flags.get_override_values(flag)}
    return jobs.compile_ahead(config, _TOPOLOGY.value, asked)
  run = _named_run(_MODE.value, _WORKDIR.value, _PRETRAINED.value)
  if _MODE.value == 'preflight':
    return jobs.preflight(config, run)
  if _MODE.value == 'replay':
    return jobs.replay(config, run)
  if _MODE.value == 'train':
    return jobs.train(config, run)
  if _MODE.value == 'evaluate':
    asked = (_PROTOCOL, _SWEEP, _REAL_VS_REAL, _FEATURES, _PROMPT_FILE, _LIMIT, _BATCH_SIZE, _OUT)
    return jobs.evaluate(config, run, jobs.EvalOptions(*(flag.value for flag in asked)))
  if _OUT.value is None:
    raise InvalidInput('--out is missing: name the folder for the videos, such as --out=out.')
  return jobs.sample(config, run, _OUT.value, _request())


def _named_run(mode: str, workdir: str | None, name: str | None) -> str:
  """The run that --workdir or --pretrained names."""
  if name is not None and mode not in OF_A_MODEL:
    raise InvalidInput(
      f'--pretrained is for --mode=sample and --mode=evaluate. To train on from its weights: --workdir=runs/mine '
      f'--config.training.first_stage={pretrained.PREFIX}{name}.'
    )
  if name is not None and workdir is not None:
    raise InvalidInput('--workdir and --pretrained are both given: give one of them.')
  if name is not None:
    return pretrained.PREFIX + name
  if workdir is None:
    shipped = f', or a model of the package: --pretrained={"|".join(pretrained.names())}' if mode in OF_A_MODEL else ''
    raise InvalidInput(f'--workdir is missing: name the folder of the run, such as --workdir=runs/digits{shipped}.')
  return workdir


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
  if mode not in OF_A_RUN:
    command.define_experiment(argv)
    flags.mark_flag_as_required('config')
    return
  if command.peek(argv, 'config') is not None:
    raise InvalidInput(
      f'--config is not read by --mode={mode}, which uses the configuration of the run: leave it out. '
      'Single keys can be changed: --config.sampling.num_steps=50.'
    )
  config = checkpoints.read_config(_named_run(mode, workdir, command.peek(argv, 'pretrained')))
  command.define_values(configuration.from_dict(config), 'Changes to the configuration of the run.', argv)


def _rendezvous(argv: Sequence[str]) -> runtime.Rendezvous | None:
  mode = command.peek(argv, 'mode') or 'train'
  given = (command.peek(argv, name) for name in ('coordinator', 'num_processes', 'process_id'))
  rendezvous = runtime.find_rendezvous(*given)
  if rendezvous is not None and mode not in JOINT:
    raise InvalidInput(f'--mode={mode} is the work of one process: start it once, without --coordinator.')
  return rendezvous


def run() -> None:
  """Entry point of `python -m vdm_jax.main` and of the `vdm_jax` command."""
  argv = sys.argv[1:]
  timeout = jobs.PREFLIGHT_SECONDS if command.peek(argv, 'mode') == 'preflight' else runtime.RENDEZVOUS_SECONDS
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(
        runtime.join_process_group(_rendezvous(argv), success=(0, ExitStatus.STOPPED), timeout=timeout)
      )
      _define_config(argv)
    except (InvalidInput, ValueError, OSError) as error:
      command.refuse(error.args)
    app.run(main, flags_parser=command.parse)


if __name__ == '__main__':
  run()
