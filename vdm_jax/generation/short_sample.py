"""Sampling videos of the model's own length, each in one call."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.errors import InvalidInput
from vdm_jax.generation.gallery import describe, write_gallery
from vdm_jax.generation.outputs import (
  Written,
  check_unused,
  file_stem,
  progress_bar,
  writable_folder,
  write_video,
)
from vdm_jax.generation.request import Request
from vdm_jax.generation.sampler import default_batch_size
from vdm_jax.generation.stages import open_generator, open_stages
from vdm_jax.runs import Run
from vdm_jax.runtime.resumable import JOB
from vdm_jax.video import MAX_ROWS, check_fps, contact_sheet, to_uint8, write_png


def sample_short(config: ConfigDict, run: Run, out: str, request: Request) -> Path:
  """Write each video to `out` in the formats requested (images as png), with a contact sheet and a page.

  Videos are written as they are made, so memory does not grow with their number. The page and the list beside it show
  the videos of this request alone; files that an earlier one left in `out` are removed if they are unchanged.

  Args:
    config: the configuration of the run, with the changes of the command line.
    run: the run.
    out: folder to write to.
    request: the videos to make.

  Returns:
    The page, `out/index.html`.

  Raises:
    InvalidInput: the model cannot make these videos, or they are not finite.
  """
  rate, size = request.frame_rate or config.sampling.fps, request.batch_size or default_batch_size()
  check_unused(out, JOB)
  try:
    check_fps(rate, '--fps' if request.frame_rate else 'sampling.fps')
    rate = math.inf if config.model.num_frames == 1 else rate
    stages = open_stages(config, run)
    generate = open_generator(stages, config.sampling, batch_size=size)
    prompts, labels, titles = request.expanded()
    stages[-1].model.condition(None, labels, count=len(titles))  # raises for the last label before the first video
    stems = [file_stem(number, title) for number, title in enumerate(titles, request.first_video)]
    folder, noise = writable_folder(out), request.noise(config.seed)
    with Written(folder) as written, progress_bar('video', len(titles)) as bar:
      shown: list[np.ndarray] = []
      for start in range(0, len(titles), size):
        rows = slice(start, start + size)
        videos = generate(
          prompts=prompts and prompts[rows],
          labels=labels and labels[rows],
          count=len(titles[rows]),
          seed=noise['seed'][rows] if request.seeds else noise['seed'],
          first=noise['first'] + (0 if request.seeds else start),
          frame_rate=request.frame_rate,
          original_size=request.original_size,
          report=lambda done: bar.update(done / len(stages)),
        )
        for stem, video in zip(stems[rows], videos, strict=True):
          written.add(write_video(video, folder / stem, rate, request.formats))
        shown += [to_uint8(video) for video in videos[: max(0, MAX_ROWS - len(shown))]]
  except (ValueError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  write_png(folder / 'contact_sheet.png', contact_sheet(shown, titles[: len(shown)]))
  settings = describe(
    config, run, frame_rate=rate, batch_size=size, seeds=request.seeds, original_size=request.original_size
  )
  return write_gallery(folder, stems, titles, settings=settings, first=request.first_video, seeds=request.seeds)
