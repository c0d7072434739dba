"""Mode `sample`: sampling a run."""

from __future__ import annotations

import sys
import time
import warnings

from ml_collections import ConfigDict

from vdm_jax import models
from vdm_jax.errors import InvalidInput
from vdm_jax.evaluation.metrics.drift import drift
from vdm_jax.generation.gallery import check_page
from vdm_jax.generation.long_sample import sample_long
from vdm_jax.generation.request import Request, untrained_rates
from vdm_jax.generation.short_sample import sample_short
from vdm_jax.runs import Run
from vdm_jax.runtime import progress


def sample(config: ConfigDict, run: Run, out: str | None, request: Request) -> int:
  """Write videos to a folder and return the exit status.

  The folder gets mp4 and gif (images as png), a contact sheet, and `index.html`, which shows them. A second stage is
  sampled together with its first. Videos longer than the model's, or conditioned on frames, are made in windows.

  Args:
    config: the configuration of the run, with the changes of the command line.
    run: the run.
    out: value of --out.
    request: the videos to make.
  """
  if out is None:
    raise InvalidInput('--out is missing: name the folder for the videos, such as --out=out.')
  if request.prompts and request.labels:
    raise InvalidInput('--prompt and --label are both given: give one of them.')
  for flag, given, scalar in (
    ('fps', request.frame_rate, 'frame_interval'),
    ('original_size', request.original_size, 'resolution'),
  ):
    if given is not None and scalar not in models.scalars(config.model):
      raise InvalidInput(
        f'--{flag} has no effect: this model was trained without {scalar} in model.scalars. Omit --{flag}.'
      )
  for seed in request.seeds or (config.seed,):
    if not -(2**31) <= seed < 2**32:  # JAX would drop the other bits
      raise InvalidInput(f'the seed {seed} has more than 32 bits: give one below {2**32}.')
  if request.fit != 'cover' and not (request.init_video or request.low_resolution):
    raise InvalidInput(
      f'--fit={request.fit} has no effect without a file of --init_video or --low_resolution: omit it.'
    )
  if config.sampling.guidance_weight < 0 and (request.prompts or request.labels):
    warnings.warn(
      f'sampling.guidance_weight={config.sampling.guidance_weight:g} is below 0: videos follow the prompt less than '
      'without guidance, and not at all at -1.',
      stacklevel=2,
    )
  _warn_of_rates(config, request)
  check_page(out, request.count)
  started = time.perf_counter()
  with progress.phase(f'sampling {request.count} {"video" if request.count == 1 else "videos"}'):
    if request.is_long(config.model.num_frames):
      page = sample_long(config, run, out, request, measure_drift=drift)
    else:
      page = sample_short(config, run, out, request)
  videos = '1 video' if request.count == 1 else f'{request.count} videos'
  print(f'{videos} in {time.perf_counter() - started:.1f} s: {page}', file=sys.stderr)
  return 0


def _warn_of_rates(config: ConfigDict, request: Request) -> None:
  asked = request.frame_rates or ((request.frame_rate,) if request.frame_rate is not None else ())
  if 'frame_interval' in models.scalars(config.model) and (rates := untrained_rates(config, asked)):
    shown = ', '.join('an image' if rate == float('inf') else f'{rate:g}' for rate in rates)
    print(
      f'warning: this model was not trained at these frame rates: {shown}. data.frame_skip={config.data.frame_skip}, '
      f'data.frame_skip_max={config.data.frame_skip_max} and the rates of the clips say which it was trained at.',
      file=sys.stderr,
    )
