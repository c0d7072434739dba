"""The jobs behind the command line: each puts the rooms together for one mode and returns an exit status."""

from __future__ import annotations

import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
  doctor,
  evaluation,
  generation,
  models,
  partitioning,
  training,
)
from vdm_jax.models import Model
from vdm_jax.types import Batch, Params

PROTOCOLS = ('digits',)
# What --sweep varies: a key of `sampling`, and its values. Guidance: those of Snap's Fig. 5 up to 8.
SWEEPS = {
  'guidance': ('guidance_weight', (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)),
  'steps': ('num_steps', (8, 16, 32, 64, 128, 256)),
  'augmentation': ('augmentation', (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)),
}
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
  starts_from = config.training.first_stage if not checkpoints.steps(workdir) else ''
  starting_point = training.starting_point(config, model, mesh) if starts_from else None
  preview = _previews(model, config, workdir, mesh)
  print(f'{doctor.parameters(model):,} parameters, mesh {dict(mesh.shape)}', file=sys.stderr)
  state = training.train(
    model, config, workdir, mesh=mesh, batches=batches,
    heldout=heldout if config.training.heldout_every else None, preview=preview, starting_point=starting_point,
  )  # fmt: skip
  if int(state.step) < config.training.num_steps:
    return STOPPED
  every = config.training.preview_every
  if not every or config.training.num_steps % every:  # else the last preview was of the last step
    preview(state.ema, int(state.step))
  return 0


def sample(
  config: ConfigDict,
  workdir: str,
  out: str,
  *,
  prompts: Sequence[str],
  labels: Sequence[int],
  repeats: int,
  frame_rate: float | None = None,
  original_size: tuple[int, int] | None = None,
) -> int:
  """Writes `repeats` videos per prompt or label to `out`: mp4, gif (images as png), and a contact sheet of all.

  A second stage is sampled together with its first. `frame_rate` is infinite for images.
  """
  if prompts and labels:
    raise BadInput('--prompt and --label are both given: give one of them.')
  model, make_generate = _open(config, workdir)
  for flag, given, name in (('fps', frame_rate, 'frame_interval'), ('original_size', original_size, 'resolution')):
    if given is not None and not model.takes(name):
      raise BadInput(f'--{flag} has no effect: this model was trained without {name} in model.scalars. Leave it out.')
  count = None if prompts or labels else repeats
  prompts = [prompt for prompt in prompts for _ in range(repeats)] or None
  labels = [label for label in labels for _ in range(repeats)] or None
  generate, folder = make_generate(config.sampling), _writable(out)
  started = time.perf_counter()
  try:
    videos = generate(
      prompts=prompts, labels=labels, count=count, seed=config.seed, frame_rate=frame_rate, original_size=original_size
    )
  except (ValueError, FloatingPointError) as error:
    raise BadInput(str(error)) from error
  names = prompts or [f'class {label}' for label in labels or ()] or [''] * len(videos)
  for number, (video, name) in enumerate(zip(videos, names, strict=True)):
    _write(video, folder / f'{number:04d}{_slug(name)}', frame_rate or config.sampling.fps)
  data.write_png(folder / 'contact_sheet.png', data.contact_sheet(videos, names))
  seconds = time.perf_counter() - started
  print(f'{len(videos)} videos in {seconds:.1f} s: {folder / "contact_sheet.png"}', file=sys.stderr)
  return 0


def evaluate(config: ConfigDict, workdir: str, protocol: str, sweep: str | None = None) -> int:
  """Measures a run by a protocol; prints the record and writes it to `workdir/evaluation/PROTOCOL.json`.

  With a sweep it measures every value of it, and writes `PROTOCOL_SWEEP.json`.
  """
  _, make_generate = _open(config, workdir)
  if sweep is None:
    return _report(_measure(config, workdir, protocol, make_generate), workdir, protocol)
  key, values = SWEEPS[sweep]
  if sweep == 'augmentation' and config.model.upsampling == 1:
    raise BadInput('--sweep=augmentation is for a second stage: this model has no low-resolution input.')
  records = []
  for value in values:
    config.sampling[key] = value
    records.append(_measure(config, workdir, protocol, make_generate))
    print(f'{key}={value}: frechet {records[-1]["frechet"]:.2f}', file=sys.stderr)
  best = min(range(len(values)), key=lambda i: records[i]['frechet'])
  return _report({'sweep': key, 'best': values[best], 'records': records}, workdir, f'{protocol}_{sweep}')


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


def read_frame_rate(text: str | None) -> float | None:
  """`24`, or `image`, which is an infinite frame rate; None where nothing is given."""
  if text is None:
    return None
  try:
    rate = math.inf if text == 'image' else float(text)
  except ValueError:
    rate = 0.0
  if not rate > 0:
    raise BadInput(f'--fps={text} is no frame rate: give frames per second, such as 24, or image.')
  return rate


def read_size(text: str | None) -> tuple[int, int] | None:
  """`720x1280`, height and width; None where nothing is given."""
  if text is None:
    return None
  if not (match := re.fullmatch('([1-9][0-9]*)x([1-9][0-9]*)', text)):
    raise BadInput(f'--original_size={text} is no size: give height and width in pixels, such as 720x1280.')
  return int(match[1]), int(match[2])


def _measure(
  config: ConfigDict, workdir: str, protocol: str, make_generate: Callable[[ConfigDict], Callable[..., np.ndarray]]
) -> dict[str, Any]:
  generate = make_generate(config.sampling)
  try:
    record = {'digits': evaluation.evaluate_digits}[protocol](
      lambda prompts: generate(prompts=prompts, seed=config.seed), config.data
    )
  except ValueError as error:
    raise BadInput(str(error)) from error
  step = checkpoints.steps(workdir)[-1]
  return record | {'step': step, 'seed': config.seed, 'sampling': config.sampling.to_dict(), 'model': 'EMA'}


def _report(record: dict[str, Any], workdir: str, name: str) -> int:
  text = json.dumps(record, indent=2)
  (_writable(Path(workdir) / 'evaluation') / f'{name}.json').write_text(text + '\n')
  print(text)
  return 0


def _open(config: ConfigDict, workdir: str) -> tuple[Model, Callable[[ConfigDict], Callable[..., np.ndarray]]]:
  """The run's model, and what makes a generator of its EMA out of a section `sampling`.

  That of a second stage has its first before it, which samples as its own run's configuration says.
  """
  if config.model.upsampling == 1:
    model, params = _load(config, workdir)
    return model, lambda sampling: functools.partial(_make_generator(model, sampling), params)
  path = config.training.first_stage
  if not path:
    raise BadInput(
      'a second stage makes videos out of those of its first: name that run with --config.training.first_stage=DIR.'
    )
  try:
    first_config = checkpoints.read_config(path)
    models.check_cascade(first_config['model'], config.model)
  except (ValueError, OSError) as error:
    raise BadInput(f'training.first_stage={path}: {error}') from error
  model, params = _load(config, workdir)
  shares_text = all(first_config['model'][key] == model.config[key] for key in ('text', 'text_length'))
  first, first_params = _load(first_config, path, model.encode if shares_text else None)
  before = _remember(functools.partial(_make_generator(first, first_config['sampling']), first_params))
  return model, lambda sampling: generation.make_cascade(
    before, functools.partial(_make_generator(model, sampling), params)
  )


def _make_generator(model: Model, sampling: Mapping[str, Any]) -> Callable[..., np.ndarray]:
  try:
    return generation.make_generator(model, sampling)
  except ValueError as error:
    raise BadInput(str(error)) from error


def _remember(generate: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """The same function with its last result kept: a sweep asks for the same first-stage videos every time."""
  last: list[tuple[dict[str, Any], np.ndarray]] = []

  def remembered(**conditions: Any) -> np.ndarray:
    if not last or last[0][0] != conditions:
      last[:] = [(conditions, generate(**conditions))]
    return last[0][1]

  return remembered


def _load(config: Mapping[str, Any], workdir: str, encode: Any = None) -> tuple[Model, Params]:
  """The run's model under the (possibly changed) configuration, and its EMA parameters."""
  try:
    return checkpoints.load(workdir, model=models.build(config['model'], encode))
  except (ValueError, OSError) as error:
    raise BadInput(str(error)) from error


def _previews(model: Model, config: ConfigDict, workdir: str, mesh: Mesh) -> Callable[[Params, int], None]:
  """A function of (EMA, step) that writes the videos of held-out captions or labels, the same ones every time."""
  clips = data.examples(config.data, 'test', seed=config.seed, count=PREVIEW_VIDEOS)
  prompts = [clip.caption for clip in clips] if model.encode else None
  labels = [clip.label for clip in clips] if config.data.labels else None
  low = None
  if model.upsampling > 1:  # the held-out clips themselves, for the first stage's errors are not this one's
    videos = data.to_float(np.stack([clip.video for clip in clips]))
    low = np.asarray(diffusion.downsample(videos, model.upsampling))
  generate = generation.make_generator(model, config.sampling, batch_size=len(clips), mesh=mesh)
  names = prompts or [f'class {label}' for label in labels or ()] or [''] * len(clips)

  def preview(ema: Params, step: int) -> None:
    videos = generate(
      ema, prompts=prompts, labels=labels, count=len(clips), seed=config.seed, low_resolution=low
    )
    if jax.process_index() == 0:
      _write_together(videos, names, Path(workdir) / 'samples' / f'step_{step:08d}', config.sampling.fps)

  return preview


def _write(video: np.ndarray, stem: Path, frame_rate: float) -> None:
  """One video as mp4 and gif, or as png where it is an image."""
  video = data.enlarge(video, WATCHABLE)
  if math.isinf(frame_rate):
    data.write_png(f'{stem}.png', video[0])
    return
  data.write_mp4(f'{stem}.mp4', video, frame_rate)
  data.write_gif(f'{stem}.gif', video, frame_rate)


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
