"""Mode `train`: training a model, with previews of its samples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

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
  training,
)
from vdm_jax.data import quarantine
from vdm_jax.errors import ExitStatus, InvalidInput
from vdm_jax.generation.outputs import write_preview
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.tools import doctor
from vdm_jax.tools.compilation import ideal_step_seconds
from vdm_jax.types import Batch, Params
from vdm_jax.video import to_float

HELDOUT_BATCHES = 8
PREVIEW_VIDEOS = 10


def train(config: ConfigDict, workdir: str) -> int:
  """Train, or resume, then sample; return the exit status.

  Previews and final samples are written to `workdir/samples/step_XXXXXXXX.{mp4,png}`.

  Args:
    config: the configuration.
    workdir: the folder of the run.

  Raises:
    InvalidInput: the doctor finds problems, one message each.
  """
  first = Run(config.training.first_stage)  # read only if there is one
  if found := doctor.problems(config, workdir, first):
    raise InvalidInput(*found)
  configuration.resolve(config, doctor.words(config))
  mesh = partitioning.make_mesh(config.mesh)
  model = models.build(config.model)
  rows = partitioning.batch_rows(mesh, config.data.batch_size)
  own = {'seed': config.seed, 'rows': rows, 'quarantine': workdir}

  def batches(start: int) -> Iterator[Batch]:
    made = data.build(config.data, model.encode, start=start, **own)
    _report_unusable(workdir)
    return made

  heldout = data.held_out(config.data, model.encode, num_batches=HELDOUT_BATCHES, **own)
  is_new = not checkpoints.steps(workdir)
  _record_first_stage(config, first, workdir, is_new)
  starting_point = training.starting_point(config, model, mesh, first) if first.name and is_new else None
  preview = _previews(model, config, workdir, mesh)
  if jax.process_index() == 0:
    print(f'{doctor.parameters(model):,} parameters, mesh {dict(mesh.shape)}', file=sys.stderr)
  state = training.train(
    model,
    config,
    workdir,
    mesh=mesh,
    batches=batches,
    heldout=heldout if config.training.heldout_every else None,
    preview=preview,
    starting_point=starting_point,
    ideal_step_seconds=ideal_step_seconds(model, config, heldout[0]),
  )
  if int(state.step) < config.training.num_steps:
    return ExitStatus.STOPPED
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


def _report_unusable(workdir: str) -> None:
  """Print how many clips are known to be unusable, if there are any."""
  number = quarantine.count(workdir)
  if number and jax.process_index() == 0:
    noun = 'clip' if number == 1 else 'clips'
    print(f'{number} {noun} cannot be used; see {Path(workdir) / quarantine.FILE}', file=sys.stderr)


def _previews(model: Model, config: ConfigDict, workdir: str, mesh: Mesh) -> Callable[[Params, int], None]:
  """A function of (EMA parameters, step) that samples videos for fixed held-out captions or labels."""
  clips = data.examples(config.data, 'test', seed=config.seed, count=PREVIEW_VIDEOS)
  prompts = [clip.caption for clip in clips] if model.encode else None
  labels = [clip.label for clip in clips] if config.data.labels else None
  low = None
  if model.upsampling > 1:  # of the held-out clips, so that previews show the errors of this stage alone
    videos = to_float(np.stack([clip.video for clip in clips]))
    low = np.asarray(diffusion.downsample(videos, model.upsampling, model.config['downsampling']))
  generate = generation.make_generator(model, config.sampling, batch_size=len(clips), mesh=mesh)
  titles = prompts or [f'class {label}' for label in labels or ()] or [''] * len(clips)

  def preview(ema: Params, step: int) -> None:
    videos = generate(ema, prompts=prompts, labels=labels, count=len(clips), seed=config.seed, low_resolution=low)
    if jax.process_index() == 0:
      write_preview(videos, titles, Path(workdir) / 'samples' / f'step_{step:08d}', config.sampling.fps)

  return preview
