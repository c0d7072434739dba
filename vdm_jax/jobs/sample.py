"""Sampling a run."""

from __future__ import annotations

import sys
import time

from ml_collections import ConfigDict

from vdm_jax import checkpoints, models
from vdm_jax.errors import InvalidInput
from vdm_jax.generation.gallery import check_page, describe, write_gallery
from vdm_jax.generation.long_sample import sample_long
from vdm_jax.generation.outputs import slug, writable, write_video
from vdm_jax.generation.stages import open_run
from vdm_jax.jobs.arguments import Request
from vdm_jax.video import contact_sheet, write_png


def sample(config: ConfigDict, workdir: str, out: str, request: Request) -> int:
  """Writes the videos to `out`: mp4, gif (images as png), a contact sheet of all, and `index.html`, which shows them.

  A second stage is sampled together with its first. Videos of more frames than the model makes, or conditioned on
  frames, are made window by window.
  """
  if request.prompts and request.labels:
    raise InvalidInput('--prompt and --label are both given: give one of them.')
  for flag, given, name in (
    ('fps', request.frame_rate, 'frame_interval'),
    ('original_size', request.original_size, 'resolution'),
  ):
    if given is not None and name not in models.scalars(config.model):
      raise InvalidInput(
        f'--{flag} has no effect: this model was trained without {name} in model.scalars. Leave it out.'
      )
  check_page(out)
  if request.long(config.model.num_frames):
    return sample_long(config, workdir, out, request)
  make_generate = open_run(config, workdir)
  prompts, labels, names = request.expanded()
  generate, folder = make_generate(config.sampling), writable(out)
  started = time.perf_counter()
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
  rate, stems = request.frame_rate or config.sampling.fps, []
  for number, (video, name) in enumerate(zip(videos, names, strict=True)):
    stems.append(f'{number:04d}{slug(name)}')
    write_video(video, folder / stems[-1], rate)
  write_png(folder / 'contact_sheet.png', contact_sheet(videos, names))
  settings = describe(
    config, workdir, checkpoints.latest_step(workdir), frame_rate=rate, original_size=request.original_size
  )
  page = write_gallery(folder, stems, names, settings=settings)
  print(f'{len(videos)} videos in {time.perf_counter() - started:.1f} s: {page}', file=sys.stderr)
  return 0
