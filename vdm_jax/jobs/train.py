"""Mode `train`: training a model, with previews of its samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import (
  checkpoints,
  configuration,
  data,
  diffusion,
  first_stages,
  generation,
  models,
  partitioning,
  runtime,
  training,
)
from vdm_jax.configuration import frames_per_second
from vdm_jax.data import normalization, quarantine
from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.generation.outputs import write_preview
from vdm_jax.jobs import arguments
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.runtime import progress
from vdm_jax.text import truncation
from vdm_jax.tools import doctor
from vdm_jax.tools.compilation import ideal_step_seconds
from vdm_jax.training import run_folder
from vdm_jax.types import Batch, Params

HELDOUT_BATCHES = 8
PREVIEW_VIDEOS = 10
SHOWN_WORDS = 10


def train(config: ConfigDict, workdir: str, *, allow_change: bool = False) -> int:
  """Train, or resume, then sample; return the exit status.

  Previews and final samples are written to `workdir/samples/step_XXXXXXXX.{mp4,png}`.

  Args:
    config: the configuration.
    workdir: the folder of the run.
    allow_change: value of --allow_change.

  Raises:
    InvalidInput: the doctor finds problems, one message each.
  """
  arguments.adopt(config, Run(workdir))
  first = Run(config.training.first_stage)  # read only if there is one
  if found := doctor.problems(config, workdir, first, allow_change=allow_change):
    raise InvalidInput(*found)
  run_folder.prepare(workdir)
  given = config.data.vocabulary or run_folder.vocabulary(workdir)
  progress.note('reading captions')
  overview = data.overview(config.data)
  configuration.resolve(config, doctor.words(config, workdir), overview.frame_rate)
  if given:  # otherwise the captions have just given it
    _report_unknown_words(config)
  mesh = partitioning.make_mesh(config.mesh)
  model = models.build(config.model)
  _report_data(config, model, overview)
  rows = partitioning.batch_rows(mesh, config.data.batch_size)
  own = {'seed': config.seed, 'rows': rows, 'quarantine': workdir}

  def batches(start: int) -> Iterator[Batch]:
    offset = run_folder.example_offset(Path(workdir), config.data.batch_size) if jax.process_index() == 0 else None
    offset = runtime.exchange('data position', offset)[0]  # process 0 has just written what it follows from
    made = data.build(config.data, model.encode, start=start, offset=offset, **own)
    _report_unusable(workdir)
    return made

  progress.note('reading the held-out clips')
  heldout = _held_out(config, model, overview.num_clips, own)
  any_batch = (
    heldout[0] if heldout else data.held_out(config.data, model.encode, num_batches=1, split='train', **own)[0]
  )
  is_new = not checkpoints.steps(workdir)
  _record_first_stage(config, first, workdir, is_new)
  starting_point = training.starting_point(config, model, mesh, first) if first.name and is_new else None
  progress.note('building the sampler')
  preview = _previews(model, config, workdir, mesh, 'test' if heldout else 'train')
  _say(f'{doctor.parameters(model):,} parameters, mesh {dict(mesh.shape)}')
  state = training.train(
    model,
    config,
    workdir,
    mesh=mesh,
    batches=batches,
    heldout=heldout if heldout and config.training.heldout_every else None,
    preview=preview,
    starting_point=starting_point,
    allow_change=allow_change,
    ideal_step_seconds=ideal_step_seconds(model, config, any_batch),
  )
  if int(state.step) < config.training.num_steps:
    return ExitStatus.STOPPED
  progress.note('sampling the last preview')
  every = config.training.preview_every
  if not every or config.training.num_steps % every:  # otherwise the last preview was of the last step
    preview(state.ema, int(state.step))
  return 0


def _record_first_stage(config: ConfigDict, first: Run, workdir: str, is_new: bool) -> None:
  """Note in the configuration which run a second stage starts from; a run that resumes keeps its note."""
  if is_new:
    recorded = first_stages.identify(first, workdir) if first.name else {}
  else:
    recorded = Run(workdir).config['training']['first_stage_identity']
  config.training.first_stage_identity.update(recorded)


def _held_out(config: ConfigDict, model: Model, clips: int, own: Mapping[str, Any]) -> list[Batch]:
  """Return the held-out batches, none if no clip is held out; say so, and that batches repeat few training clips."""
  size = config.data.batch_size
  if clips < size:
    _say(f'{clips} training {"clip" if clips == 1 else "clips"} for batches of {size}: clips repeat within a batch')
  try:
    return data.held_out(config.data, model.encode, num_batches=HELDOUT_BATCHES, **own)
  except data.EmptySplit:
    _say('no clip is held out: the held-out loss is off, and previews show captions or labels of the training clips')
    return []


def _say(message: str) -> None:
  if jax.process_index() == 0:
    print(message, file=sys.stderr)


def _report_unknown_words(config: ConfigDict) -> None:
  """Print which words of the captions are not in the vocabulary, such as those of clips added to a run's data."""
  if unknown := doctor.unknown_words(config):
    more = ', ...' if len(unknown) > SHOWN_WORDS else ''
    _say(
      f'data.vocabulary lacks {len(unknown)} of the words in the captions, each of which is read as the unknown word: '
      f'{", ".join(map(repr, unknown[:SHOWN_WORDS]))}{more}'
    )


def _report_data(config: ConfigDict, model: Model, overview: data.Overview) -> None:
  """Print what the data leave out and how many captions are cut, once instead of a warning for each."""
  truncation.mute()
  for remark in doctor.remarks(config, model.encode, overview) if jax.process_index() == 0 else ():
    print(f'warning: {remark}', file=sys.stderr)


def _report_unusable(workdir: str) -> None:
  """Print how many clips are known to be unusable, if there are any."""
  number = quarantine.count(workdir)
  if number:
    noun = 'clip' if number == 1 else 'clips'
    _say(f'{number} {noun} cannot be used; see {Path(workdir) / quarantine.FILE}')


def _previews(model: Model, config: ConfigDict, workdir: str, mesh: Mesh, split: str) -> Callable[[Params, int], None]:
  """A function of (EMA parameters, step) that samples videos for fixed captions or labels of a split."""
  normalize = normalization.of_config(config.data)
  clips = data.examples(config.data, split, seed=config.seed, count=PREVIEW_VIDEOS)
  prompts = [clip.caption for clip in clips] if model.encode else None
  labels = [clip.label for clip in clips] if config.data.labels else None
  low = None
  if model.upsampling > 1:  # of the held-out clips, so that previews show the errors of this stage alone
    videos = normalize.apply(np.stack([clip.video for clip in clips]))
    low = np.asarray(diffusion.downsample(videos, model.upsampling, model.config['downsampling']))
  generate = generation.make_generator(model, config.sampling, batch_size=len(clips), mesh=mesh)
  titles = prompts or [f'class {label}' for label in labels or ()] or [''] * len(clips)

  def preview(ema: Params, step: int) -> None:
    videos = generate(ema, prompts=prompts, labels=labels, count=len(clips), seed=config.seed, low_resolution=low)
    if jax.process_index() == 0:
      pictures, stem = normalize.pictures(videos), Path(workdir) / 'samples' / f'step_{step:08d}'
      write_preview(pictures, titles, stem, frames_per_second(config.sampling))

  return preview
