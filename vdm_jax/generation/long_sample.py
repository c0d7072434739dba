"""Sampling videos of any length: planned, written as they are made, continued where a killed command stopped."""

from __future__ import annotations

import functools
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vdm_jax import checkpoints, configuration, diffusion, plots, pretrained
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation import drift
from vdm_jax.generation import Plan, cascade, long_video
from vdm_jax.generation.gallery import describe, write_gallery
from vdm_jax.generation.outputs import slug, writable, write_video
from vdm_jax.generation.progress import Progress
from vdm_jax.generation.stages import Stage, load, open_stages
from vdm_jax.generation.task import Task, make_task
from vdm_jax.jobs.arguments import Request
from vdm_jax.video import FrameStore, contact_sheet, to_float, to_uint8, write_png

BATCH_SIZE = 32  # videos made at a time
CONTACT_FRAMES = 32  # shown of each video


class Part(NamedTuple):
  """One model's share of the work: it fills the videos of a folder."""

  stage: Stage
  workdir: str  # of its run
  step: int  # of the checkpoint
  folder: Path
  plan: Plan
  frame_rate: float
  given: np.ndarray | None  # uint8 [n k h w c]
  observes: bool = False  # the videos of the part before, by reconstruction guidance
  upsamples: bool = False  # them, as a second stage


def sample_long(config: ConfigDict, workdir: str, out: str, request: Request) -> int:
  """Writes each video to `out` as .npy (uint8, exact), mp4 and gif, with a contact sheet, the plan, the drift, and a
  page, `index.html`, that shows it all.

  The plan is printed and drawn before anything is sampled. The same command goes on where it was stopped.
  """
  task = make_task(config, request)
  print(task.plan)
  folder, started = Path(out), time.perf_counter()
  asked = {
    'prompts': task.prompts,
    'labels': task.labels,
    'seed': config.seed,
    'original_size': request.original_size,
  }
  parts = _parts(config, workdir, folder, task, request)
  tools = [_tools(part, task, asked) for part in parts]
  progress = [Progress(part.folder, _record(part, task, asked)) for part in parts]
  for part, made in zip(parts, progress, strict=True):  # nothing was written until all of it could be done
    writable(part.folder)
    made.begin()
  plots.draw_plan(folder / 'plan.png', task.plan.windows, num_frames=task.plan.num_frames)
  before = None if task.low is None else long_video.InMemory(_repeat(to_float(task.low), len(task.names)))
  for number, (part, some, made) in enumerate(zip(parts, tools, progress, strict=True)):
    # A part after the first, of the same seed, draws other noise.
    before = _make(part, task, some, before, made, seed=config.seed, second_stage=number > 0)
  _report(before, task, folder)
  given = {name: getattr(request, name) for name in ('original_size', 'init_video', 'low_resolution')}
  settings = describe(
    config, workdir, parts[-1].step, frame_rate=task.frame_rate, **given, windows=len(task.plan.windows)
  )
  page = write_gallery(folder, [path.stem for path in before.paths], task.names, settings=settings)
  print(f'{len(task.names)} videos in {time.perf_counter() - started:.1f} s: {page}', file=sys.stderr)
  return 0


def _parts(config: ConfigDict, workdir: str, folder: Path, task: Task, request: Request) -> list[Part]:
  """The models at work, in their order."""
  *before, last = open_stages(config, workdir)
  step = checkpoints.latest_step(workdir)
  final = Part(last, workdir, step, folder, task.plan, task.frame_rate, task.given, observes=bool(task.plan.low))
  if task.low_run is not None:
    path = request.low_resolution
    low = Part(
      load(task.low_run, path),
      path,
      checkpoints.latest_step(path),
      folder / 'low_resolution',
      task.low_plan,
      task.frame_rate / task.low_factor,
      None,
    )
    return [low, final]
  if not before:
    return [final]
  path, given = config.training.first_stage, task.given
  if given is not None:
    small = diffusion.downsample(to_float(np.asarray(given)), last.model.upsampling)
    given = to_uint8(np.asarray(small))
  first = final._replace(
    stage=before[0], workdir=path, step=checkpoints.latest_step(path), folder=folder / 'first_stage', given=given
  )
  return [first, final._replace(upsamples=True)]


def _record(part: Part, task: Task, asked: dict[str, Any]) -> dict[str, Any]:
  """All that a part's videos depend on, ready for JSON."""
  return asked | {
    'plan': part.plan,
    'frame_rate': part.frame_rate,
    'workdir': str(pretrained.located(part.workdir).resolve()),
    'checkpoint_step': part.step,
    'model': part.stage.model.config,
    'sampling': configuration.to_dict(part.stage.sampling),
    'given': _checksum(part.given),
    'low_resolution': _checksum(task.low),
  }


def _tools(part: Part, task: Task, asked: dict[str, Any]) -> tuple[long_video.SampleWindow, long_video.Conditions]:
  """What samples a part's windows, and their conditions. Raises InvalidInput for what does not go together."""
  model, _, sampling = part.stage
  try:
    if part.upsamples:
      cascade.make_corruption(model, sampling)  # raises; what it makes needs the first stage's videos
    sample_window = long_video.make_window_sampler(model, sampling, low_resolution=part.observes)
    conditions = long_video.make_conditions(
      model,
      sampling,
      prompts=task.prompts,
      labels=task.labels,
      count=len(task.names),
      frame_rate=part.frame_rate,
      original_size=asked['original_size'],
    )
  except ValueError as error:
    raise InvalidInput(str(error)) from error
  return sample_window, conditions


def _make(
  part: Part,
  task: Task,
  tools: tuple[long_video.SampleWindow, long_video.Conditions],
  before: long_video.Frames | None,
  progress: Progress,
  *,
  seed: int,
  second_stage: bool,
) -> FrameStore:
  """Fills a part's videos, or what is still missing of them."""
  model, params, sampling = part.stage
  sample_window, conditions = tools
  count, plan = len(task.names), part.plan
  paths = [part.folder / f'{number:04d}{slug(name)}.npy' for number, name in enumerate(task.names)]
  if progress.done and not all(path.exists() for path in paths):
    progress.save(0)  # what was done is gone
  try:
    if part.upsamples:
      conditions = long_video.upsampling_conditions(conditions, model, sampling, before, plan.num_frames)
    store = FrameStore(paths, (plan.num_frames, *long_video.frame_shape(model)))
    if part.given is not None and not progress.done:
      for video, frames in enumerate(part.given):
        store.write([video], plan.given, to_float(frames[None]))
    windows, steps = long_video.num_windows(plan, count, BATCH_SIZE), sampling['num_steps'] - 1
    with tqdm(total=windows * steps, initial=progress.done * steps, unit='step', desc=part.folder.name) as bar:
      for done in long_video.fill(
        plan,
        sample_window,
        params,
        store,
        conditions,
        model=model,
        count=count,
        seed=seed,
        batch_size=BATCH_SIZE,
        low=before if part.observes else None,
        second_stage=second_stage,
        skip=progress.done,
        report=bar.update,
      ):
        progress.save(done)
        bar.set_postfix_str(f'window {done} of {windows}')
  except (ValueError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  return store


def _report(store: FrameStore, task: Task, folder: Path) -> None:
  """Files to look at, and figures of how the videos drift."""
  videos = [store.video(number) for number in range(len(task.names))]
  for path, video in zip(store.paths, videos, strict=True):
    write_video(video, path.with_suffix(''), task.frame_rate)
  write_png(folder / 'contact_sheet.png', contact_sheet(videos, task.names, max_frames=CONTACT_FRAMES))
  starts = task.plan.block_starts or (0,)  # one frame of a hierarchy has no level of the highest rate
  records = {path.stem: drift(video, starts) for path, video in zip(store.paths, videos, strict=True)}
  (folder / 'drift.json').write_text(json.dumps({'block_starts': starts, 'videos': records}, indent=1) + '\n')
  plots.draw_drift(folder / 'drift.png', records)


def _repeat(frames: np.ndarray, count: int) -> np.ndarray:
  return np.broadcast_to(frames, (count, *frames.shape))


def _checksum(frames: np.ndarray | None) -> int | None:
  """Of all frames, one row after another: a repeated video, or one in a file, is not copied."""
  if frames is None:
    return None
  return functools.reduce(lambda checksum, row: zlib.crc32(np.ascontiguousarray(row), checksum), frames, 0)
