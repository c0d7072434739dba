"""From a request for long or conditional videos to a plan: given frames, frames to make, and errors in the request."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import data, generation, models
from vdm_jax.configuration import frames_per_second
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import Plan
from vdm_jax.generation.request import Request
from vdm_jax.runs import Run
from vdm_jax.video import (
  InputVideo,
  Measured,
  TooFewFrames,
  check_fps,
  check_frame_rate,
  measure_input_video,
  read_input_video,
)

TEST_SPLIT = 'test'  # value of --init_video that stands for clips of the test split


class Task(NamedTuple):
  """The n videos to make."""

  plan: Plan
  frame_rate: float  # of the whole video
  prompts: list[str] | None  # n
  labels: list[int] | None  # n
  titles: list[str]  # n
  given: np.ndarray | None = None  # uint8 [n k h w c], the frames at plan.given
  low: np.ndarray | None = None  # uint8 [k h w c], the frames at plan.low
  low_run: Run | None = None  # the run that makes the frames at plan.low
  low_plan: Plan | None = None  # its plan
  low_factor: int = 1  # ratio of the frame rate to that of plan.low
  fitted: str | None = None  # what was done to the frames of a file


def make_task(config: ConfigDict, request: Request) -> Task:
  """Return the task of a request for long or conditional videos. Raises InvalidInput before anything is loaded."""
  if config.data.normalization != 'pixels':
    raise InvalidInput(
      f'data.normalization={config.data.normalization!r}: long and conditional videos of data that are not pictures '
      'are made in Python, with vdm_jax.generation.make_long_generator; the command samples videos of the model alone.'
    )
  _check_flags(config, request)
  prompts, labels, titles = request.expanded()
  requested = {'prompts': prompts, 'labels': labels, 'titles': titles}
  try:
    task = _make_task(config, request, requested)
    check_fps(task.frame_rate, 'frames per second of the whole video')
  except (ValueError, OSError) as error:
    raise InvalidInput(str(error)) from error
  return task


def _make_task(config: ConfigDict, request: Request, requested: dict[str, Any]) -> Task:
  if request.low_resolution:
    return _upsample(config, request, requested)
  if request.frame_rates:
    overlap = 1 if request.overlap is None else request.overlap
    plan = generation.hierarchy(request.num_frames, request.frame_rates, config.model.num_frames, overlap=overlap)
    return Task(plan, request.frame_rates[-1], **requested)
  if request.init_video == TEST_SPLIT:
    return _continue_test_clips(config, request)
  if request.init_video:
    return _continue_file(config, request, requested)
  return Task(_extend(config, request, 0), request.frame_rate or frames_per_second(config.sampling), **requested)


def _check_flags(config: ConfigDict, request: Request) -> None:
  """Raise InvalidInput for flags that contradict each other or the configuration."""
  requested = {name: value for name, value in request._asdict().items() if value not in (None, (), [])}

  def only(flag: str, *others: str) -> None:
    for other in others:
      if flag in requested and other in requested:
        flags = ['fps' if name == 'frame_rate' else name for name in (flag, other)]
        raise InvalidInput(f'--{flags[0]} and --{flags[1]} are both given: give one of them.')

  only('low_resolution', 'init_video', 'frame_rates')
  only('frame_rates', 'init_video', 'interpolate', 'frame_rate')
  if config.model.num_frames == 1:
    raise InvalidInput(
      'this model makes single images (data.num_frames=1), of which no longer videos can be made: omit --num_frames, '
      '--init_video, --low_resolution and --frame_rates.'
    )
  if request.seeds and request.init_video == TEST_SPLIT:
    raise InvalidInput('--seeds and --init_video=test are both given: choose the clips with --first_video.')
  if request.num_frames is not None and request.num_frames < 1:
    raise InvalidInput(f'--num_frames={request.num_frames} is not a valid number of frames: give 1 or more.')
  if request.init_frames is not None and (not request.init_video or request.init_frames < 1):
    raise InvalidInput(
      f'--init_frames={request.init_frames} is the number of given frames: give 1 or more, together with --init_video.'
    )
  if request.interpolate is not None and 'init_video' not in requested and 'low_resolution' not in requested:
    raise InvalidInput(
      f'--interpolate={request.interpolate} needs frames to interpolate between: name their file with --init_video, or '
      'use --frame_rates to make a video at several frame rates.'
    )
  if request.interpolate is not None and request.interpolate < 2:
    raise InvalidInput(f'--interpolate={request.interpolate} is not a valid factor: give 2 or more.')
  others = requested.keys() & {'prompts', 'labels', 'interpolate'}
  if request.init_video == TEST_SPLIT and (others or not request.init_frames):
    raise InvalidInput(
      '--init_video=test continues clips of the test split with their own captions: set the number of their frames '
      'with --init_frames, and omit --prompt, --label and --interpolate.'
    )
  if request.frame_rates and not request.num_frames:
    raise InvalidInput('--frame_rates needs the length of the video at the highest frame rate: give --num_frames.')
  if len(request.frame_rates) > 1 and 'frame_interval' not in models.scalars(config.model):
    raise InvalidInput(
      '--frame_rates needs a model conditioned on frame rate, but this one was trained without frame_interval in '
      'model.scalars. Use --init_video and --interpolate, with a model trained at the higher frame rate.'
    )
  if request.frame_rate == math.inf:
    raise InvalidInput('--fps=image asks for a single image, which cannot be combined with flags for longer videos.')
  if not frames_per_second(config.sampling) > 0:
    raise InvalidInput(f'sampling.fps={config.sampling.fps:g} is not a valid frame rate: give a positive number.')
  if request.low_resolution and config.model.upsampling > 1:
    raise InvalidInput(
      '--low_resolution cannot be used with a second stage, which samples its own first stage: name a run of a model '
      'without low-resolution input.'
    )


def _extend(config: ConfigDict, request: Request, given: int) -> Plan:
  block = config.model.num_frames
  if given and given >= (length := request.num_frames or block):
    raise ValueError(
      f'{given} frames are given, but the whole video has {length} ('
      f'{"as asked" if request.num_frames else "the length of the model"}; --num_frames={length}): raise '
      '--num_frames, or give fewer with --init_frames.'
    )
  overlap = max(1, block // 2) if request.overlap is None else request.overlap
  return generation.extension(request.num_frames or block, block, overlap=overlap, given=given)


def _continue_file(config: ConfigDict, request: Request, requested: dict[str, Any]) -> Task:
  """Continue or interpolate the video of a file."""
  height, width, channels = _frame_shape(config)
  path, factor = request.init_video, request.interpolate or 1
  rate = _frame_rate(config, request, measure_input_video(path), factor, path)
  try:
    given = read_input_video(
      path,
      channels=channels,
      height=height,
      width=width,
      fit=request.fit,
      frame_rate=None if request.fit == 'none' else rate / factor,
      num_frames=request.init_frames,
    )
  except TooFewFrames as error:
    raise ValueError(f'--init_frames={request.init_frames}: {error}') from error
  count = len(given.video)
  if request.interpolate is None:
    plan = _extend(config, request, count)
  else:
    overlap = 1 if request.overlap is None else request.overlap
    plan = generation.interpolation(
      count, factor, config.model.num_frames, overlap=overlap, num_frames=request.num_frames
    )
  frames = np.broadcast_to(given.video, (request.count, *given.video.shape))
  return Task(plan, rate, given=frames, fitted=_say(path, given), **requested)


def _continue_test_clips(config: ConfigDict, request: Request) -> Task:
  """Continue clips of the test split with their own captions: video i continues clip i."""
  _check_fit(request)
  first, count = request.first_video, request.repeats
  try:
    clips = data.examples(
      config.data, TEST_SPLIT, seed=config.seed, count=first + count, num_frames=request.init_frames
    )
  except ValueError as error:
    raise ValueError(f'--init_video=test --init_frames={request.init_frames}: {error}') from error
  if len(clips) < first + count:
    named = f'--first_video={first}, --num_videos={count}' if first else f'--num_videos={count}'
    raise ValueError(f'{named}, but the test split has only {len(clips)} clips: ask for fewer.')
  clips = clips[first:]
  prompts = [clip.caption for clip in clips] if config.data.text != 'none' else None
  labels = [clip.label for clip in clips] if config.data.labels else None
  titles = [clip.caption for clip in clips]
  rate = clips[0].frame_rate or frames_per_second(config.sampling)
  if request.frame_rate not in (None, rate):
    raise ValueError(f'--fps={request.frame_rate:g}, but the test split has {rate:g} frames per second: omit --fps.')
  frames = np.stack([clip.video for clip in clips])
  return Task(_extend(config, request, request.init_frames), rate, prompts, labels, titles, given=frames)


def _upsample(config: ConfigDict, request: Request, requested: dict[str, Any]) -> Task:
  """Upsample the video of a file or of another run in space and, with a factor, in time."""
  factor, block, path = request.interpolate or 1, config.model.num_frames, request.low_resolution
  overlap = 1 if request.overlap is None else request.overlap
  given = low_run = low_plan = None
  if (run := Run(path)).exists:
    _check_fit(request)
    low_run, model = run, run.config['model']
    if model['upsampling'] > 1:
      raise ValueError(f'--low_resolution={path} is a second stage: name a run that samples from noise alone.')
    if model['channels'] != config.model.channels:
      raise ValueError(
        f'--low_resolution={path} makes videos with channels={model["channels"]}, but this model has '
        f'channels={config.model.channels}: name a run with the same number.'
      )
    count = math.ceil(request.num_frames / factor) if request.num_frames else model['num_frames']
    low_plan = generation.extension(count, model['num_frames'], overlap=max(1, model['num_frames'] // 2))
    size = (model['height'] - 2 * model['pad_rows'], model['width'])
    rate = request.frame_rate or frames_per_second(config.sampling)
  elif Path(path).is_dir():
    raise ValueError(f'--low_resolution={path} has no config.json: name the folder of a training run, or a file.')
  else:
    measured = measure_input_video(path)
    size = _smaller_size(measured.size, _frame_shape(config)[:2], request.fit)
    rate = _frame_rate(config, request, measured, factor, path)
    given = read_input_video(
      path,
      channels=config.model.channels,
      height=size[0],
      width=size[1],
      fit=request.fit,
      frame_rate=None if request.fit == 'none' else rate / factor,
    )
    count = len(given.video)
  _check_smaller(size, _frame_shape(config)[:2], path)
  plan = generation.super_resolution(count, block, factor=factor, overlap=overlap, num_frames=request.num_frames)
  if given is None:
    return Task(plan, rate, low_run=low_run, low_plan=low_plan, low_factor=factor, **requested)
  return Task(plan, rate, low=given.video, low_factor=factor, fitted=_say(path, given), **requested)


def _frame_shape(config: ConfigDict) -> tuple[int, int, int]:
  model = config.model
  return model.height - 2 * model.pad_rows, model.width, model.channels


def _frame_rate(config: ConfigDict, request: Request, given: Measured, factor: int, path: str) -> float:
  """The frame rate of the video to make: what was asked for, or that of the given file if the model can follow it.

  Otherwise the frames of the file are picked by time, unless the file is so slow that frames would be repeated, or
  --fit=none.
  """
  conditional = 'frame_interval' in models.scalars(config.model)
  if conditional and request.frame_rate is None and given.frame_rate is not None:
    return given.frame_rate * factor
  rate = request.frame_rate or frames_per_second(config.sampling)
  if given.frame_rate is not None and (request.fit == 'none' or given.frame_rate < rate / factor):
    flag = '--fps' if conditional else '--config.sampling.fps'
    check_frame_rate(given, rate / factor, path, remedy=f'give {flag}={given.frame_rate * factor:.4g}')
  return rate


def _smaller_size(size: tuple[int, int], wanted: tuple[int, int], fit: str) -> tuple[int, int]:
  """Return the size that frames are fitted to: the largest part of `wanted` that they fill, else the smallest."""
  height, width = wanted
  parts = [(height // f, width // f) for f in range(2, height + 1) if not height % f and not width % f]
  if fit == 'none' or not parts:
    return size
  return next((part for part in parts if part[0] <= size[0] and part[1] <= size[1]), parts[-1])


def _check_fit(request: Request) -> None:
  """Raise ValueError for --fit, if the frames to start from are not those of a file."""
  if request.fit != 'cover':
    raise ValueError(f'--fit={request.fit} has no effect on frames that do not come from a file: omit it.')


def _say(path: str, given: InputVideo) -> str | None:
  """Print what was done to the frames of a file, and return it; None for nothing."""
  if not given.fitted:
    return None
  print(f'{path}: {given.fitted}.', file=sys.stderr)
  return given.fitted


def _check_smaller(size: tuple[int, int], wanted: tuple[int, int], path: str) -> None:
  """Raise ValueError unless `wanted` is an integer multiple, 2 or more, of `size`."""
  factors = {whole / part for whole, part in zip(wanted, size, strict=True)}
  if len(factors) > 1 or not (factor := factors.pop()).is_integer() or factor < 2:
    height, width = wanted
    divisors = [f for f in range(2, height + 1) if not height % f and not width % f]
    smaller = [f'{height // f}x{width // f}' for f in divisors[:3]] or ['another model']
    raise ValueError(
      f'--low_resolution={path} has frames of {size[0]}x{size[1]}, which cannot be upsampled to {height}x{width} by an '
      f'integer factor of 2 or more: use {", ".join(smaller)}.'
    )
