"""Sampling videos of the model's own length, in one call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vdm_jax.data import normalization
from vdm_jax.data.normalization import Normalization
from vdm_jax.errors import InvalidInput
from vdm_jax.generation.gallery import describe, write_gallery
from vdm_jax.generation.outputs import slug, writable_folder, write_sample
from vdm_jax.generation.request import Request
from vdm_jax.generation.stages import open_run
from vdm_jax.runs import Run
from vdm_jax.video import contact_sheet, write_png


def sample_short(config: ConfigDict, run: Run, out: str, request: Request) -> Path:
  """Write each video to `out` as mp4 and gif (images as png), with a contact sheet and a page.

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
  make_generate = open_run(config, run)
  prompts, labels, titles = request.expanded()
  generate, folder = make_generate(config.sampling), writable_folder(out)
  try:
    videos = generate(
      prompts=prompts,
      labels=labels,
      count=None if prompts or labels else request.count,
      seed=config.seed,
      frame_rate=request.frame_rate,
      original_size=request.original_size,
    )
  except (ValueError, FloatingPointError) as error:
    raise InvalidInput(str(error)) from error
  rate, stems, pictures = request.frame_rate or config.sampling.fps, [], []
  for number, (video, title) in enumerate(zip(videos, titles, strict=True)):
    stems.append(f'{number:04d}{slug(title)}')
    pictures.append(write_sample(video, folder / stems[-1], rate, normalize))
  write_png(folder / 'contact_sheet.png', contact_sheet(np.stack(pictures), titles))
  settings = describe(config, run, frame_rate=rate, original_size=request.original_size)
  return write_gallery(folder, stems, titles, settings=settings)


def _normalization(config: ConfigDict) -> Normalization:
  try:
    normalization.check_sampling(config)
    return normalization.of_config(config.data)
  except ValueError as error:
    raise InvalidInput(str(error)) from error
