"""Sampling videos of any length: planned, written as they are made, continued where a killed command stopped."""

from __future__ import annotations

import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from vdm_jax import checkpoints, configuration, data, diffusion, evaluation, plots
from vdm_jax.data import FrameStore
from vdm_jax.generation import Plan, long_video
from vdm_jax.jobs.arguments import BadInput, Request
from vdm_jax.jobs.files import slug, writable, write_video
from vdm_jax.jobs.resumable import Progress
from vdm_jax.jobs.run import Stage, load, open_stages
from vdm_jax.jobs.task import Task, make_task

BATCH_SIZE = 32  # videos made at a time
CONTACT_FRAMES = 32  # shown of each video


class Part(NamedTuple):
  """One model's share of the work: it fills the videos of a folder."""

  stage: Stage
  step: int  # of the checkpoint
  folder: Path
  plan: Plan
  frame_rate: float
  given: np.ndarray | None  # uint8 [n k h w c]
  observes: bool = False  # the videos of the part before, by reconstruction guidance
  upsamples: bool = False  # them, as a second stage


def sample_long(config: ConfigDict, workdir: str, out: str, request: Request) -> int:
  """Writes each video to `out` as .npy (uint8, exact), mp4 and gif, with a contact sheet, the plan, and its drift.

  The plan is printed and drawn before anything is sampled. The same command goes on where it was stopped.
  """
  task = make_task(config, request)
  print(task.plan)
  folder = writable(out)
  started = time.perf_counter()
  asked = {
    'prompts': task.prompts, 'labels': task.labels, 'seed': config.seed, 'original_size': request.original_size,
  }  # fmt: skip
  parts = _parts(config, workdir, folder, task, request)
  progress = [Progress(part.folder, _record(part, task, asked)) for part in parts]  # refuses before anything is written
  plots.draw_plan(folder / 'plan.png', task.plan.windows, num_frames=task.plan.num_frames)
  before = None if task.low is None else long_video.InMemory(data.to_float(_repeat(task.low, len(task.names))))
  for part, made in zip(parts, progress, strict=True):
    before = _make(part, task, asked, before, made)
  _report(before, task, folder)
  print(f'{len(task.names)} videos in {time.perf_counter() - started:.1f} s: {folder}', file=sys.stderr)
  return 0


def _parts(config: ConfigDict, workdir: str, folder: Path, task: Task, request: Request) -> list[Part]:
  """The models at work, in their order."""
  *before, last = open_stages(config, workdir)
  step = checkpoints.steps(workdir)[-1]
  final = Part(last, step, folder, task.plan, task.frame_rate, task.given, observes=bool(task.plan.low))
  if task.low_run is not None:
    path = request.low_resolution
    low = Part(
      load(task.low_run, path), checkpoints.steps(path)[-1], writable(folder / 'low_resolution'), task.low_plan,
      task.frame_rate / task.low_factor, None,
    )  # fmt: skip
    return [low, final]
  if not before:
    return [final]
  path, given = config.training.first_stage, task.given
  if given is not None:
    small = diffusion.downsample(data.to_float(np.asarray(given)), last.model.upsampling)
    given = data.to_uint8(np.asarray(small))
  first = final._replace(
    stage=before[0], step=checkpoints.steps(path)[-1], folder=writable(folder / 'first_stage'), given=given
  )
  return [first, final._replace(upsamples=True)]


def _record(part: Part, task: Task, asked: dict[str, Any]) -> dict[str, Any]:
  """All that a part's videos depend on, ready for JSON."""
  return asked | {
    'plan': part.plan, 'frame_rate': part.frame_rate, 'checkpoint_step': part.step, 'model': part.stage.model.config,
    'sampling': configuration.to_dict(part.stage.sampling), 'given': _checksum(part.given),
    'low_resolution': _checksum(task.low),
  }  # fmt: skip


def _make(
  part: Part, task: Task, asked: dict[str, Any], before: long_video.Frames | None, progress: Progress
) -> FrameStore:
  """Fills a part's videos, or what is still missing of them."""
  model, params, sampling = part.stage
  count, plan = len(task.names), part.plan
  try:
    sample_window = long_video.make_window_sampler(model, sampling, low_resolution=part.observes)
    conditions = long_video.make_conditions(
      model, sampling, prompts=task.prompts, labels=task.labels, count=count,
      frame_rate=part.frame_rate, original_size=asked['original_size'],
    )  # fmt: skip
    if part.upsamples:
      conditions = long_video.upsampling_conditions(conditions, model, sampling, before, plan.num_frames)
    paths = [part.folder / f'{number:04d}{slug(name)}.npy' for number, name in enumerate(task.names)]
    store = FrameStore(paths, (plan.num_frames, *long_video.frame_shape(model)))
    if part.given is not None and not progress.done:
      for video, frames in enumerate(part.given):
        store.write([video], plan.given, data.to_float(frames[None]))
    windows, steps = long_video.num_windows(plan, count, BATCH_SIZE), sampling['num_steps'] - 1
    with tqdm(total=windows * steps, initial=progress.done * steps, unit='step', desc=part.folder.name) as bar:
      for done in long_video.fill(
        plan, sample_window, params, store, conditions, model=model, count=count, seed=asked['seed'],
        batch_size=BATCH_SIZE, low=before if part.observes else None, second_stage=part.upsamples, skip=progress.done,
        report=bar.update,
      ):  # fmt: skip
        progress.save(done)
        bar.set_postfix_str(f'window {done} of {windows}')
  except (ValueError, FloatingPointError) as error:
    raise BadInput(str(error)) from error
  return store


def _report(store: FrameStore, task: Task, folder: Path) -> None:
  """Files to look at, and figures of how the videos drift."""
  videos = [store.video(number) for number in range(len(task.names))]
  for path, video in zip(store.paths, videos, strict=True):
    write_video(video, path.with_suffix(''), task.frame_rate)
  data.write_png(folder / 'contact_sheet.png', data.contact_sheet(videos, task.names, max_frames=CONTACT_FRAMES))
  starts = task.plan.block_starts
  records = {path.stem: evaluation.drift(video, starts) for path, video in zip(store.paths, videos, strict=True)}
  (folder / 'drift.json').write_text(json.dumps({'block_starts': starts, 'videos': records}, indent=1) + '\n')
  plots.draw_drift(folder / 'drift.png', records)


def _repeat(frames: np.ndarray, count: int) -> np.ndarray:
  return np.broadcast_to(frames, (count, *frames.shape))


def _checksum(frames: np.ndarray | None) -> int | None:
  return None if frames is None else zlib.crc32(np.ascontiguousarray(frames))
