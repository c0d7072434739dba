"""Sampling videos of any length: planned, written as they are made, continued after an interruption."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax import diffusion, plots
from vdm_jax.errors import InvalidInput
from vdm_jax.generation import Plan, cascade, long_video
from vdm_jax.generation.gallery import describe, write_gallery
from vdm_jax.generation.outputs import RECORD, check_unused, file_stem, progress_bar, writable_folder, write_video
from vdm_jax.generation.request import Request
from vdm_jax.generation.sampler import SampleInParts, default_batch_size
from vdm_jax.generation.stages import Stage, identify, load_stage, open_stages
from vdm_jax.generation.task import Task, make_task
from vdm_jax.runs import Run
from vdm_jax.runtime.resumable import Work
from vdm_jax.video import FrameStore, contact_sheet, to_float, to_uint8, write_png

CONTACT_FRAMES = 32  # frames of each video on the contact sheet

# (video uint8 [t h w c], first frames of its blocks) -> statistics along the video, for drift.json and drift.png
MeasureDrift = Callable[[np.ndarray, Sequence[int]], dict[str, Any]]


class Part(NamedTuple):
  """One model's share of the work: it fills the videos of a folder."""

  stage: Stage
  folder: Path
  plan: Plan
  frame_rate: float
  given: np.ndarray | None  # uint8 [n k h w c]
  observes: bool = False  # conditioned on the videos of the previous part by reconstruction guidance
  upsamples: bool = False  # conditioned on them as a second stage


def sample_long(config: ConfigDict, run: Run, out: str, request: Request, measure_drift: MeasureDrift) -> Path:
  """Write each video to `out` as npy (uint8, exact), mp4 and gif, with contact sheet, plan, drift and a page.

  The plan is printed and drawn before anything is sampled. The same call continues where an earlier one was stopped.

  Args:
    config: the configuration of the run, with the changes of the command line.
    run: the run.
    out: folder to write to.
    request: the videos to make.
    measure_drift: statistics to draw along each video, such as `evaluation.metrics.drift`.

  Returns:
    The page, `out/index.html`.

  Raises:
    InvalidInput: the request cannot be fulfilled, or `out` holds the videos of another one.
  """
  check_unused(out, RECORD, 'short videos')
  task = make_task(config, request)
  print(task.plan)
  folder = Path(out)
  noise = request.noise(config.seed) | {'batch_size': request.batch_size or default_batch_size()}
  shared = {
    'prompts': task.prompts,
    'labels': task.labels,
    'seed': noise['seed'],
    'first': noise['first'] or None,  # absent from older records
    'batch_size': noise['batch_size'],
    'original_size': request.original_size,
  }
  parts = _parts(config, run, folder, task)
  samplers = [_sampler(part, task, request.original_size) for part in parts]
  works = [_work(parts[: number + 1], task, shared) for number in range(len(parts))]
  for part, work in zip(parts, works, strict=True):  # nothing is written until all of it can be done
    writable_folder(part.folder)
    work.begin()
  plots.draw_plan(folder / 'plan.png', task.plan.windows, num_frames=task.plan.num_frames)
  before = None if task.low is None else long_video.InMemory(_repeat(to_float(task.low), len(task.titles)))
  for number, (part, sampler, work) in enumerate(zip(parts, samplers, works, strict=True)):
    # Parts after the first have the same seed, but their own random streams.
    before = _make(part, task, sampler, before, work, noise=noise, second_stage=number > 0)
  _write_files(before, task, folder, request.formats, measure_drift)
  given = {name: getattr(request, name) for name in ('original_size', 'init_video', 'low_resolution')}
  settings = describe(
    config,
    run,
    frame_rate=task.frame_rate,
    batch_size=noise['batch_size'],
    seeds=request.seeds,
    **given,
    fitted=task.fitted,
    windows=len(task.plan.windows),
  )
  stems = [path.stem for path in before.paths]
  return write_gallery(folder, stems, task.titles, settings=settings, first=noise['first'], seeds=request.seeds)


def _parts(config: ConfigDict, run: Run, folder: Path, task: Task) -> list[Part]:
  """The models at work, in order."""
  *before, last = open_stages(config, run)
  final = Part(last, folder, task.plan, task.frame_rate, task.given, observes=bool(task.plan.low))
  if task.low_run is not None:
    low = Part(
      stage=load_stage(task.low_run.config, task.low_run),
      folder=folder / 'low_resolution',
      plan=task.low_plan,
      frame_rate=task.frame_rate / task.low_factor,
      given=None,
    )
    return [low, final]
  if not before:
    return [final]
  given = task.given
  if given is not None:
    small = diffusion.downsample(to_float(np.asarray(given)), last.model.upsampling, last.model.config['downsampling'])
    given = to_uint8(np.asarray(small))
  first = final._replace(stage=before[0], folder=folder / 'first_stage', given=given)
  return [first, final._replace(upsamples=True)]


def _work(parts: Sequence[Part], task: Task, shared: dict[str, Any]) -> Work:
  """The resumable work of the last of some parts, identified by everything that its videos depend on."""
  part = parts[-1]
  try:
    record = shared | {
      'plan': part.plan,
      'frame_rate': part.frame_rate,
      'given': _checksum(part.given),
      'low_resolution': _checksum(task.low),
      **identify([part.stage for part in parts]),
    }
    return Work(part.folder, record, setting='--out')
  except ValueError as error:
    raise InvalidInput(str(error)) from error


def _sampler(
  part: Part, task: Task, original_size: tuple[int, int] | None
) -> tuple[SampleInParts, long_video.Conditions]:
  """The sampler of a part's windows, and their conditions. Raises InvalidInput for settings that do not go together."""
  model, sampling = part.stage.model, part.stage.sampling
  try:
    if part.upsamples:
      cascade.make_corruption(model, sampling)  # raises; its result needs the videos of the first stage
    sample_window = long_video.make_window_sampler(model, sampling, low_resolution=part.observes)
    conditions = long_video.make_conditions(
      model,
      sampling,
      prompts=task.prompts,
      labels=task.labels,
      count=len(task.titles),
      frame_rate=part.frame_rate,
      original_size=original_size,
    )
  except ValueError as error:
    raise InvalidInput(str(error)) from error
  return sample_window, conditions


def _make(
  part: Part,
  task: Task,
  sampler: tuple[SampleInParts, long_video.Conditions],
  before: long_video.Frames | None,
  work: Work,
  *,
  noise: Mapping[str, Any],
  second_stage: bool,
) -> FrameStore:
  """Make the missing windows of a part's videos."""
  model, params, sampling = part.stage.model, part.stage.params, part.stage.sampling
  sample_window, conditions = sampler
  count, plan = len(task.titles), part.plan
  stems = [file_stem(number, title) for number, title in enumerate(task.titles, noise['first'])]
  paths = [part.folder / f'{stem}.npy' for stem in stems]
  if work.done and not all(path.exists() for path in paths):
    work.save(0)  # the videos were deleted
  try:
    if part.upsamples:
      conditions = long_video.upsampling_conditions(conditions, model, sampling, before, plan.num_frames)
    store = FrameStore(paths, (plan.num_frames, *long_video.frame_shape(model)))
    if part.given is not None and not work.done:
      for video, frames in enumerate(part.given):
        store.write([video], plan.given, to_float(frames[None]))
    windows = long_video.num_windows(plan, count, noise['batch_size'])
    with progress_bar('window', windows, work.done) as bar:
      for done in long_video.fill(
        plan,
        sample_window,
        params,
        store,
        conditions,
        model=model,
        count=count,
        **noise,
        low=before if part.observes else None,
        second_stage=second_stage,
        skip=work.done,
        report=bar.update,
      ):
        work.save(done)
  except (ValueError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  return store


def _write_files(
  store: FrameStore, task: Task, folder: Path, formats: Sequence[str], measure_drift: MeasureDrift
) -> None:
  """Write videos, contact sheet and drift statistics."""
  videos = [store.video(number) for number in range(len(task.titles))]
  for path, video in zip(store.paths, videos, strict=True):
    write_video(video, path.with_suffix(''), task.frame_rate, [name for name in formats if name != 'npy'])
  write_png(folder / 'contact_sheet.png', contact_sheet(videos, task.titles, max_frames=CONTACT_FRAMES))
  starts = task.plan.block_starts or (0,)  # a hierarchy of one frame has no level of the highest rate
  records = {path.stem: measure_drift(video, starts) for path, video in zip(store.paths, videos, strict=True)}
  (folder / 'drift.json').write_text(json.dumps({'block_starts': starts, 'videos': records}, indent=1) + '\n')
  plots.draw_drift(folder / 'drift.png', records)


def _repeat(frames: np.ndarray, count: int) -> np.ndarray:
  return np.broadcast_to(frames, (count, *frames.shape))


def _checksum(frames: np.ndarray | None) -> int | None:
  """CRC-32 of all frames, row by row, since the array may be broadcast or a memory map too large to copy."""
  if frames is None:
    return None
  return functools.reduce(lambda crc, row: zlib.crc32(np.ascontiguousarray(row), crc), frames, 0)
