"""The command line. It reads flags and dispatches to a mode of `vdm_jax.jobs`.

    python -m vdm_jax.main --config=digits --workdir=runs/digits
    python -m vdm_jax.main --mode=sample --workdir=runs/digits --prompt="a 3 moving left" --out=out

Modes that train or prepare training take an experiment, `--config`. Modes that use a run read the run's `config.json`,
which is data: they never execute a configuration. Every mode accepts `--config.section.key=value`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags
from ml_collections import ConfigDict, config_flags

import vdm_jax.runtime.loading  # noqa: F401, isort: skip (shows "loading" while the imports below last)
from vdm_jax import __version__, checkpoints, configuration, data, jobs, pretrained, runtime, training
from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.jobs import arguments, command
from vdm_jax.names import choose
from vdm_jax.runs import Run
from vdm_jax.runtime import progress, shutdown, signals
from vdm_jax.text.prompts import read_prompts
from vdm_jax.video import FITS

# Where a mode gets its configuration from.
EXPERIMENT, RUN = '--config', "the run's config.json"
EVALUATED_AT_A_TIME = 32
# What a mode works on: nothing else, the folder of a run, or any trained model.
NOTHING, WORKDIR, MODEL = '', '--workdir', '--workdir or --pretrained'


class Mode(NamedTuple):
  """A mode of the command line."""

  about: str
  reads: str  # EXPERIMENT or RUN
  needs: str  # NOTHING, WORKDIR or MODEL
  joint: bool  # several processes may run it together


MODES = {
  'train': Mode('train a model, or resume its training', EXPERIMENT, WORKDIR, joint=True),
  'sample': Mode('sample videos from a trained model', RUN, MODEL, joint=False),
  'evaluate': Mode('measure a trained model by a protocol', RUN, MODEL, joint=True),
  'compile': Mode('compile for devices that need not be present; report memory and FLOPs', EXPERIMENT, NOTHING, False),
  'doctor': Mode('check configuration, data and machine before training', EXPERIMENT, NOTHING, joint=True),
  'preflight': Mode('check that the processes of a job agree before training', EXPERIMENT, WORKDIR, joint=True),
  'replay': Mode('repeat the step at which a run ended with a loss that was not finite', RUN, WORKDIR, joint=True),
}

_MODE = command.define_choice(
  'mode', 'train', MODES, '; '.join(f'{name}: {mode.about}' for name, mode in MODES.items()) + '.'
)
_WORKDIR = command.define_path('workdir', 'Folder of the run: configuration, metrics, checkpoints, samples.')
_PRETRAINED = flags.DEFINE_string('pretrained', None, 'sample, evaluate: use a model of the package instead of a run.')
_CHECKPOINT = flags.DEFINE_integer(
  'checkpoint', None, 'sample, evaluate: step of the checkpoint to use; default: the newest good one.', lower_bound=0
)
_WEIGHTS = command.define_choice(
  'weights',
  None,
  checkpoints.WEIGHTS,
  'sample, evaluate: averaged (ema, the default) or last updated (raw) parameters.',
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, "Address of process 0, host:port, or 'auto' to detect it.")
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes, with --coordinator.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Index of this process, from 0, with --coordinator.')
_SEED = flags.DEFINE_integer('seed', None, 'Seed of training or of sampling; default: that of the configuration.')
_PROMPT = flags.DEFINE_multi_string('prompt', [], 'sample: a prompt; may be repeated.')
_PROMPT_FILE = command.define_path('prompt_file', 'sample, evaluate: text file with one prompt per line.')
_LABEL = flags.DEFINE_multi_integer('label', [], 'sample: a class; may be repeated.')
_NUM_VIDEOS = flags.DEFINE_integer('num_videos', 4, 'sample: videos per prompt or label.', lower_bound=1)
_FIRST_VIDEO = flags.DEFINE_integer(
  'first_video', 0, 'sample: number of the first video. Video N of a larger request is made again with its number.', 0
)
_SEEDS = flags.DEFINE_string('seeds', None, 'sample: make one video of each seed per prompt or label, as 1,5,9.')
_FORMAT = flags.DEFINE_string('format', 'mp4,gif,npy', 'sample: formats of the videos: some of mp4, gif, webm, npy.')
_FPS = flags.DEFINE_string('fps', None, 'sample: frames per second to condition on, or "image".')
_ORIGINAL_SIZE = flags.DEFINE_string('original_size', None, 'sample: footage size to condition on, HxW, as 720x1280.')
_NUM_FRAMES = flags.DEFINE_integer('num_frames', None, 'sample: frames per video; any number.')
_INIT_VIDEO = command.define_path(
  'init_video', 'sample: video, GIF, image or .npy to continue or interpolate, or "test" for clips of the test split.'
)
_INIT_FRAMES = flags.DEFINE_integer('init_frames', None, 'sample: number of frames of --init_video to use.')
_INTERPOLATE = flags.DEFINE_integer('interpolate', None, 'sample: factor by which to raise the frame rate.')
_LOW_RESOLUTION = command.define_path(
  'low_resolution', 'sample: video, GIF, image or .npy to upsample, or a run whose videos to upsample.'
)
_FIT = command.define_choice(
  'fit', 'cover', FITS, 'sample: what to do with frames of a file that do not have the size or the rate of the model.'
)
_FRAME_RATES = flags.DEFINE_string('frame_rates', None, 'sample: hierarchy of frame rates, lowest first, as 2,8,24.')
_OVERLAP = flags.DEFINE_integer('overlap', None, 'sample: frames that a window shares with the previous one.')
_OVERFIT = flags.DEFINE_bool('overfit', False, 'doctor: also measure the clips and overfit eight of them; minutes.')
_ALLOW_CHANGE = flags.DEFINE_bool(
  'allow_change', False, 'train, doctor, preflight: continue a run although settings such as the learning rate differ.'
)
_OUT = command.define_path('out', 'sample: folder for the videos; evaluate: for the record, default: the run.')
_PROTOCOL = command.define_choice('protocol', 'digits', jobs.PROTOCOLS, 'evaluate: the protocol.')
_SWEEP = command.define_choice('sweep', None, sorted(jobs.SWEEPS), 'evaluate: measure several values of a setting.')
_REAL_VS_REAL = flags.DEFINE_bool(
  'real_vs_real', False, 'evaluate: measure real clips instead of samples, the best value a model can reach.'
)
_FEATURES = command.define_path(
  'features', 'evaluate: folder of the feature networks, or "random" for untrained ones, to test a command.'
)
_LIMIT = flags.DEFINE_integer('limit', None, 'evaluate: maximum number of samples and reference clips.', lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size',
  None,
  f'sample, evaluate: videos made at a time; default: {EVALUATED_AT_A_TIME} to evaluate; to sample 1 on a CPU, 8 on '
  'accelerators.',
  lower_bound=1,
)
_VIDEOS = command.define_path(
  'videos', 'evaluate: folder of videos you already have, of any model, to score; no run is needed.'
)
_TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'compile: devices to compile for: v4:4x4x8, v5e:4x4, gpu:NODESxDEVICESxGB, or here.'
)


def main(opened: Run | None, argv: Sequence[str]) -> int:
  """Run a mode and return its exit status. Invalid input ends it with a message and status 2, before any long work.

  Args:
    opened: the run whose configuration was read, for modes that use one.
    argv: arguments that are not flags.
  """
  command.prepare()
  if len(argv) > 1:
    command.refuse([f'{argv[1]!r} is not a flag: pass every argument as a flag, such as --workdir=runs/digits.'])
  try:
    return _run(flags.FLAGS.config, opened)
  except (InvalidInput, data.TooManyBadClips, training.InUse, FloatingPointError) as error:
    command.refuse(error.args)
  except training.Damaged as error:
    command.refuse(error.args, ExitStatus.PROCESS_LOST)


def _run(config: ConfigDict, opened: Run | None) -> int:
  mode = _MODE.value
  arguments.expand_paths(config)
  if _SEED.value is not None:
    config.seed = _SEED.value
  for flag in (_CHECKPOINT, _WEIGHTS):
    if flag.value is not None and MODES[mode].needs != MODEL:
      raise InvalidInput(
        f'--{flag.name}={flag.value} has no effect on --mode={mode}: use it with sample and evaluate, or omit it.'
      )
  if _OVERFIT.value and mode != 'doctor':
    raise InvalidInput(f'--overfit has no effect on --mode={mode}: use --mode=doctor, or omit it.')
  if _ALLOW_CHANGE.value and mode not in ('train', 'doctor', 'preflight'):
    raise InvalidInput(f'--allow_change has no effect on --mode={mode}, which continues no training: omit it.')
  if mode == 'doctor':
    return jobs.examine(config, _WORKDIR.value, overfit=_OVERFIT.value, allow_change=_ALLOW_CHANGE.value)
  if mode == 'compile':
    flag = flags.FLAGS['config']
    origin = {'config': config_flags.get_config_filename(flag), 'overrides': config_flags.get_override_values(flag)}
    return jobs.compile_ahead(config, _TOPOLOGY.value, origin)
  if mode == 'sample':
    return jobs.sample(config, opened, _OUT.value, _request())
  if mode == 'evaluate':
    options = (_PROTOCOL, _SWEEP, _REAL_VS_REAL, _FEATURES, _PROMPT_FILE, _LIMIT, _BATCH_SIZE, _OUT, _VIDEOS)
    options = jobs.EvalOptions(*(flag.value for flag in options))
    return jobs.evaluate(config, opened, options._replace(batch_size=options.batch_size or EVALUATED_AT_A_TIME))
  if mode == 'replay':
    return jobs.replay(config, opened)
  workdir = _run_name(mode, _WORKDIR.value, _PRETRAINED.value)
  job = jobs.preflight if mode == 'preflight' else jobs.train
  return job(config, workdir, allow_change=_ALLOW_CHANGE.value)


def _run_name(mode: str, workdir: str | None, name: str | None) -> str:
  """The run that --workdir or --pretrained names. Raises InvalidInput if neither does, or both."""
  if name is not None and MODES[mode].needs != MODEL:
    raise InvalidInput(
      f'--pretrained={name} cannot be used with --mode={mode}, only with sample and evaluate. To train from its '
      f'weights: --workdir=runs/mine --config.training.first_stage={pretrained.PREFIX}{name}.'
    )
  if name is not None and workdir is not None:
    raise InvalidInput('--workdir and --pretrained are both given: give one of them.')
  if name is not None:
    return pretrained.PREFIX + name
  if workdir is None:
    shipped = f', or --pretrained={"|".join(pretrained.names())}' if MODES[mode].needs == MODEL else ''
    raise InvalidInput(f'--workdir is missing: name the folder of the run, such as --workdir=runs/digits{shipped}.')
  return arguments.read_path('--workdir', workdir)


def _request() -> jobs.Request:
  """The videos that the flags ask for."""
  seeds = arguments.read_seeds(_SEEDS.value)
  for flag in ('seed', 'num_videos', 'first_video') if seeds else ():
    if flags.FLAGS[flag].present:
      raise InvalidInput(f'--seeds and --{flag} are both given: --seeds alone says which videos are made.')
  return jobs.Request(
    prompts=[*_PROMPT.value, *read_prompts(_PROMPT_FILE.value)],
    labels=_LABEL.value,
    repeats=_NUM_VIDEOS.value,
    frame_rate=arguments.read_frame_rate(_FPS.value),
    original_size=arguments.read_size(_ORIGINAL_SIZE.value),
    num_frames=_NUM_FRAMES.value,
    init_video=_INIT_VIDEO.value,
    init_frames=_INIT_FRAMES.value,
    interpolate=_INTERPOLATE.value,
    low_resolution=_LOW_RESOLUTION.value,
    frame_rates=arguments.read_frame_rates(_FRAME_RATES.value),
    overlap=_OVERLAP.value,
    fit=_FIT.value,
    first_video=_FIRST_VIDEO.value,
    seeds=seeds,
    batch_size=_BATCH_SIZE.value,
    formats=arguments.read_formats(_FORMAT.value),
  )


def _define_config(mode: str, argv: Sequence[str]) -> Run | None:
  """Define --config: an experiment to execute, or the configuration of a run, which is returned."""
  if MODES[mode].reads == EXPERIMENT:
    command.define_experiment(argv)
    flags.mark_flag_as_required('config')
    return None
  if command.peek(argv, 'config') is not None:
    raise InvalidInput(
      f'--config cannot be used with --mode={mode}, which reads the configuration of the run: omit it. '
      'Single keys can be changed: --config.sampling.num_steps=50.'
    )
  if mode == 'evaluate' and _has_no_run(argv):
    command.define_values(configuration.default(), 'The data to compare the videos to: --config.data.key=value.', argv)
    return None
  run = _open(mode, argv)
  command.define_values(configuration.from_dict(run.config), 'Overrides of the configuration of the run.', argv)
  return run


def _has_no_run(argv: Sequence[str]) -> bool:
  """Whether existing videos are measured without the configuration of a run."""
  named = (command.peek(argv, name) for name in ('workdir', 'pretrained'))
  return command.peek(argv, 'videos') is not None and all(name is None for name in named)


def _open(mode: str, argv: Sequence[str]) -> Run:
  """The run of the flags. Raises InvalidInput, ValueError or FileNotFoundError if its checkpoint cannot be used."""
  name = _run_name(mode, command.peek(argv, 'workdir'), command.peek(argv, 'pretrained'))
  step, weights = command.peek(argv, 'checkpoint'), command.peek(argv, 'weights')
  if MODES[mode].needs != MODEL or (step is None and weights is None):
    return Run(name)
  if step is not None and not step.isdecimal():
    raise InvalidInput(f'--checkpoint={step} is not a step: give the number of a checkpoint, such as 10000.')
  run = Run(name, checkpoint=None if step is None else int(step), weights=weights)
  _ = run.config, run.step, run.weights  # raise before any work
  return run


def _rendezvous(mode: str, argv: Sequence[str]) -> runtime.Rendezvous | None:
  """Where this process joins others; None if it runs alone."""
  given = (command.peek(argv, name) for name in ('coordinator', 'num_processes', 'process_id'))
  rendezvous = runtime.find_rendezvous(*given)
  if rendezvous is not None and not MODES[mode].joint:
    raise InvalidInput(f'--mode={mode} runs in a single process: start it once, without --coordinator.')
  return rendezvous


def run() -> None:
  """Entry point of `python -m vdm_jax.main` and of the `vdm_jax` command."""
  argv = sys.argv[1:]
  if '--version' in argv:
    print(f'vdm_jax {__version__}')
    return
  with contextlib.ExitStack() as stack:
    stack.enter_context(progress.show('starting'))
    stack.enter_context(runtime.end_on_interrupt())
    try:
      mode = command.peek(argv, 'mode') or 'train'
      choose('--mode', mode, MODES)
      timeout = jobs.PREFLIGHT_SECONDS if mode == 'preflight' else runtime.RENDEZVOUS_SECONDS
      success = (0, ExitStatus.STOPPED)
      stack.enter_context(runtime.join_process_group(_rendezvous(mode, argv), success=success, timeout=timeout))
      if shutdown.index():
        progress.stop()  # the first process of the group shows it
      opened = _define_config(mode, argv)
    except (InvalidInput, ValueError, OSError) as error:
      command.refuse(error.args)
    try:
      app.run(functools.partial(main, opened), flags_parser=command.parse)
    except KeyboardInterrupt:
      command.refuse(['interrupted'], signals.INTERRUPTED)
    except SystemExit as end:
      if signals.abandoned():  # a compilation that was given up: Python would wait for it, or crash
        shutdown.stop(end.code)
      raise


if __name__ == '__main__':
  run()
