"""The jobs behind the command line: each puts the rooms together for one mode and returns an exit status."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vdm_jax import checkpoints, configuration, data, doctor, evaluation, generation, models, partitioning, training
from vdm_jax.models import Model
from vdm_jax.types import Batch, Params

PROTOCOLS = ('digits',)
HELDOUT_BATCHES = 8
PREVIEW_VIDEOS = 10
STOPPED = 75  # exit status of a run that was asked to stop and can be resumed
WATCHABLE = 128  # pixels: smaller videos are enlarged in files for people


class BadInput(Exception):
  """What the user can mend: one message per argument."""


def train(config: ConfigDict, workdir: str) -> int:
  """Trains, or resumes; then writes samples. Previews and samples go to `workdir/samples/step_XXXXXXXX.{mp4,png}`."""
  if found := doctor.problems(config, workdir):
    raise BadInput(*found)
  configuration.resolve(config, doctor.words(config))
  mesh = partitioning.make_mesh(config.mesh)
  model = models.build(config.model)
  index, count = partitioning.batch_shard(mesh)
  shard = {'seed': config.seed, 'shard_index': index, 'shard_count': count}

  def batches(start: int) -> Iterator[Batch]:
    return data.build(config.data, model.encode, start=start, **shard)

  heldout = data.held_out(config.data, model.encode, num_batches=HELDOUT_BATCHES, **shard)
  preview = _previews(model, config, workdir, mesh)
  print(f'{doctor.parameters(model):,} parameters, mesh {dict(mesh.shape)}', file=sys.stderr)
  state = training.train(
    model, config, workdir, mesh=mesh, batches=batches,
    heldout=heldout if config.training.heldout_every else None, preview=preview,
  )  # fmt: skip
  if int(state.step) < config.training.num_steps:
    return STOPPED
  every = config.training.preview_every
  if not every or config.training.num_steps % every:  # else the last preview was of the last step
    preview(state.ema, int(state.step))
  return 0


def sample(
  config: ConfigDict, workdir: str, out: str, *, prompts: Sequence[str], labels: Sequence[int], repeats: int
) -> int:
  """Writes `repeats` videos per prompt or label to `out`: mp4, gif, and a contact sheet of all with their prompts."""
  model, params = _load(config, workdir)
  if prompts and labels:
    raise BadInput('--prompt and --label are both given: give one of them.')
  count = None if prompts or labels else repeats
  prompts = [prompt for prompt in prompts for _ in range(repeats)] or None
  labels = [label for label in labels for _ in range(repeats)] or None
  folder = _writable(out)
  started = time.perf_counter()
  try:
    generate = generation.make_generator(model, config.sampling)
    videos = generate(params, prompts=prompts, labels=labels, count=count, seed=config.seed)
  except (ValueError, FloatingPointError) as error:
    raise BadInput(str(error)) from error
  names = prompts or [f'class {label}' for label in labels or ()] or [''] * len(videos)
  for number, (video, name) in enumerate(zip(videos, names, strict=True)):
    stem = folder / f'{number:04d}{_slug(name)}'
    watchable = data.enlarge(video, WATCHABLE)
    data.write_mp4(f'{stem}.mp4', watchable, config.sampling.fps)
    data.write_gif(f'{stem}.gif', watchable, config.sampling.fps)
  data.write_png(folder / 'contact_sheet.png', data.contact_sheet(videos, names))
  seconds = time.perf_counter() - started
  print(f'{len(videos)} videos in {seconds:.1f} s: {folder / "contact_sheet.png"}', file=sys.stderr)
  return 0


def evaluate(config: ConfigDict, workdir: str, protocol: str) -> int:
  """Measures a run by a protocol; prints the record and writes it to `workdir/evaluation/PROTOCOL.json`."""
  model, params = _load(config, workdir)
  generate = generation.make_generator(model, config.sampling)
  try:
    record = {'digits': evaluation.evaluate_digits}[protocol](
      lambda prompts: generate(params, prompts=prompts, seed=config.seed), config.data
    )
  except ValueError as error:
    raise BadInput(str(error)) from error
  step = checkpoints.steps(workdir)[-1]
  record |= {'step': step, 'seed': config.seed, 'sampling': config.sampling.to_dict(), 'model': 'EMA'}
  text = json.dumps(record, indent=2)
  (_writable(Path(workdir) / 'evaluation') / f'{protocol}.json').write_text(text + '\n')
  print(text)
  return 0


def read_prompts(path: str | None) -> list[str]:
  """The non-empty lines of a UTF-8 text file; none without a path."""
  if path is None:
    return []
  try:
    lines = Path(path).read_text(encoding='utf-8').splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise BadInput(
      f'--prompt_file={path} cannot be read ({error}): give a UTF-8 text file, one prompt a line.'
    ) from error
  return [line.strip() for line in lines if line.strip()]


def _load(config: ConfigDict, workdir: str) -> tuple[Model, Params]:
  """The run's model under the (possibly changed) configuration, and its EMA parameters."""
  try:
    return checkpoints.load(workdir, model=models.build(config.model))
  except (ValueError, OSError) as error:
    raise BadInput(str(error)) from error


def _previews(model: Model, config: ConfigDict, workdir: str, mesh: Mesh) -> Callable[[Params, int], None]:
  """A function of (EMA, step) that writes the videos of held-out captions or labels, the same ones every time."""
  clips = data.examples(config.data, 'test', seed=config.seed, count=PREVIEW_VIDEOS)
  prompts = [clip.caption for clip in clips] if model.encode else None
  labels = [clip.label for clip in clips] if config.data.labels else None
  generate = generation.make_generator(model, config.sampling, batch_size=len(clips), mesh=mesh)
  names = prompts or [f'class {label}' for label in labels or ()] or [''] * len(clips)

  def preview(ema: Params, step: int) -> None:
    videos = generate(ema, prompts=prompts, labels=labels, count=len(clips), seed=config.seed)
    if jax.process_index() == 0:
      _write_together(videos, names, Path(workdir) / 'samples' / f'step_{step:08d}', config.sampling.fps)

  return preview


def _write_together(videos: np.ndarray, names: Sequence[str], stem: Path, fps: int) -> None:
  stem.parent.mkdir(exist_ok=True)
  data.write_mp4(f'{stem}.mp4', data.tile(videos, frame_size=WATCHABLE), fps)
  data.write_png(f'{stem}.png', data.contact_sheet(videos, names))
  print(f'samples: {stem}.png', file=sys.stderr)


def _writable(folder: str | Path) -> Path:
  path = Path(folder)
  try:
    path.mkdir(parents=True, exist_ok=True)
    (path / '.writable').touch()
    (path / '.writable').unlink()
  except OSError as error:
    raise BadInput(f'{folder} cannot be written to ({error.strerror}): choose a folder of your own.') from error
  return path


def _slug(name: str) -> str:
  """`-a-3-moving-left` for a file name: letters and digits alone, at most 40 of them."""
  words = re.findall('[a-z0-9]+', name.lower())
  return ''.join(f'-{word}' for word in words)[:40]
