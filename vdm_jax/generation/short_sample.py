"""Sampling videos of the model's own length, each in one call."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.configuration import frames_per_second
from vdm_jax.data import normalization
from vdm_jax.data.normalization import Normalization
from vdm_jax.errors import InvalidInput
from vdm_jax.generation.gallery import describe, write_gallery
from vdm_jax.generation.outputs import (
  Written,
  check_unused,
  file_stem,
  progress_bar,
  writable_folder,
  write_sample,
)
from vdm_jax.generation.request import Request
from vdm_jax.generation.sampler import default_batch_size
from vdm_jax.generation.stages import open_generator, open_stages
from vdm_jax.runs import Run
from vdm_jax.runtime.resumable import JOB
from vdm_jax.video import MAX_ROWS, check_fps, contact_sheet, to_uint8, write_png

MOST_OUTSIDE = 0.02  # share of pixels far outside [-1, 1] that is not worth a warning


def sample_short(config: ConfigDict, run: Run, out: str, request: Request) -> Path:
  """Write each video to `out` in the formats requested (images as png), with a contact sheet and a page.

  Videos are written as they are made, so memory does not grow with their number. The page and the list beside it show
  the videos of this request alone; files that an earlier one left in `out` are removed if they are unchanged.

  Data that are not pictures are also written as .npy in their own units; pictures show the channels
  `data.shown_channels`.

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
  normalize = _normalization(config)
  rate, size = request.frame_rate or frames_per_second(config.sampling), request.batch_size or default_batch_size()
  check_unused(out, JOB, 'a long video')
  batches, shown, outside = _batches(request, config.seed, size), [], 0.0
  try:
    check_fps(rate, '--fps' if request.frame_rate else 'sampling.fps')
    rate = math.inf if config.model.num_frames == 1 else rate
    stages = open_stages(config, run)
    generate = open_generator(stages, config.sampling, batch_size=size)
    for stage, batch in itertools.product(stages, batches):
      stage.model.condition(**batch.conditions)  # warns, and raises for the last prompt, before the first video
    folder = writable_folder(out)
    with Written(folder) as written, progress_bar('video', request.count) as bar:
      for batch in batches:
        videos = generate(
          **batch.conditions,
          **batch.noise,
          frame_rate=request.frame_rate,
          original_size=request.original_size,
          report=lambda done: bar.update(done / len(stages)),
        )
        for stem, video in zip(batch.stems, videos, strict=True):
          written.add(write_sample(video, folder / stem, rate, request.formats, normalize))
        shown += [to_uint8(normalize.pictures(video)) for video in videos[: max(0, MAX_ROWS - len(shown))]]
        if normalize.is_pixels:
          outside = max(outside, float(np.mean(np.abs(videos) > 1.25)))
  except (ValueError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  _warn_of_saturation(outside, config.sampling.guidance_weight)
  titles = [title for batch in batches for title in batch.titles]
  write_png(folder / 'contact_sheet.png', contact_sheet(shown, titles[: len(shown)]))
  settings = describe(
    config, run, frame_rate=rate, batch_size=size, seeds=request.seeds, original_size=request.original_size
  )
  stems = [stem for batch in batches for stem in batch.stems]
  return write_gallery(folder, stems, titles, settings=settings, first=request.first_video, seeds=request.seeds)


class _Batch(NamedTuple):
  """Videos that are made in one call of a generator."""

  stems: list[str]  # of their files
  titles: list[str]
  conditions: dict[str, Any]  # arguments of the generator
  noise: dict[str, Any]  # likewise


def _batches(request: Request, seed: int, size: int) -> list[_Batch]:
  """Return the videos of a request, `size` at a time."""
  (prompts, labels, titles), noise = request.expanded(), request.noise(seed)
  stems = [file_stem(number, title) for number, title in enumerate(titles, request.first_video)]
  batches = []
  for start in range(0, len(titles), size):
    rows = slice(start, start + size)
    conditions = {'prompts': prompts and prompts[rows], 'labels': labels and labels[rows], 'count': len(titles[rows])}
    of_rows = noise | {'seed': noise['seed'][rows]} if request.seeds else noise | {'first': noise['first'] + start}
    batches.append(_Batch(stems[rows], titles[rows], conditions, of_rows))
  return batches


def _warn_of_saturation(outside: float, weight: float) -> None:
  """Warn if a large share of pixels was far outside [-1, 1]."""
  if outside > MOST_OUTSIDE:
    warnings.warn(
      f'{outside:.0%} of the pixels are far outside [-1, 1] and are cut off: set sampling.threshold=clip or dynamic, '
      f'or reduce sampling.guidance_weight={weight:g}.',
      stacklevel=3,
    )


def _normalization(config: ConfigDict) -> Normalization:
  try:
    normalization.check_sampling(config)
    return normalization.of_config(config.data)
  except ValueError as error:
    raise InvalidInput(str(error)) from error
