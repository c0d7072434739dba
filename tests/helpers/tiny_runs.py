"""Runs of tiny untrained models, and their sampling and measuring in this process, with each sampler compiled once."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from helpers.tiny_networks import draw

from vdm_jax import checkpoints, configuration, generation, jobs, models
from vdm_jax.evaluation import EvalOptions, Metric, Protocol
from vdm_jax.evaluation.features import Extractor, Features
from vdm_jax.generation import long_video
from vdm_jax.runs import Run

REPOSITORY = Path(__file__).resolve().parents[2]
CLIP = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1)).astype(np.uint8)
STEP = 3  # of the checkpoint
BLOCK = 8  # frames of a window
TINY = {
  'data.num_frames': BLOCK,
  'data.height': 16,
  'data.width': 16,
  'data.channels': 1,
  'data.digits.bounce': True,
  'data.digits.clip_frames': 32,
  'model.base_channels': 8,
  'model.channel_multipliers': (1,),
  'model.num_blocks': 1,
  'model.attention_resolutions': (),
  'model.head_width': 8,
  'model.norm_groups': 4,
  'model.embedding_width': 16,
  'model.embedding_layers': 1,
  'model.patch_size': 2,
  'model.parameterization': 'v',
  'model.scalars': ('frame_interval',),
  'sampling.num_steps': 4,
}
SMALL = {'data.height': 8, 'data.width': 8, 'model.scalars': ()}
SECOND = {
  'data.height': 32,
  'data.width': 32,
  'model.upsampling': 2,
  'model.scalars': ('frame_interval', 'augmentation_logsnr'),
}


def make_run(workdir: Path, changes: dict[str, Any] | None = None, *, weights: bool = True, seed: int = 0) -> Path:
  """A workdir as training leaves it."""
  config = configuration.default('unet3d')
  for values in (TINY, changes or {}):
    config.update_from_flattened_dict(values)
  workdir.mkdir(parents=True)
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  if weights:
    model = models.build(config.model)
    ema = draw(jax.eval_shape(model.init, jax.random.key(0)), seed)
    with checkpoints.Checkpointer(workdir, 1) as checkpointer:
      checkpointer.save(STEP, {'ema': ema})
      checkpointer.wait()
  return workdir


def command(workdir: Path, out: Path, *, changes: dict[str, Any] | None = None, **request: Any) -> None:
  """Runs `--mode=sample`, after its flags are read; two videos at a time."""
  config = configuration.read(workdir / 'config.json')
  config.update_from_flattened_dict(changes or {})
  request = {'batch_size': 2} | request
  request = {name: str(value) if isinstance(value, Path) else value for name, value in request.items()}
  assert jobs.sample(config, Run(workdir), str(out), jobs.Request(**request)) == 0


def videos(out: Path) -> np.ndarray:
  """uint8 [n t h w c]."""
  return np.stack([np.load(path) for path in sorted(out.glob('*.npy'))])


class Samplers:
  """Replaces `make_window_sampler`: makes each sampler once and counts calls."""

  def __init__(self):
    self.calls = 0
    self.keys: list[bytes] = []  # of the first video of each call
    self.stop = None  # number of the call that raises KeyboardInterrupt instead
    self._make, self._made = long_video.make_window_sampler, {}

  def __call__(self, model: Any, config: Any, **options: Any) -> Any:
    key = json.dumps([model.config, configuration.to_dict(config), options], sort_keys=True)
    sampler = self._made[key] if key in self._made else self._made.setdefault(key, self._make(model, config, **options))

    def sample_window(*inputs: Any) -> np.ndarray:
      if self.calls == self.stop:
        raise KeyboardInterrupt
      self.calls += 1
      self.keys.append(np.asarray(jax.random.key_data(inputs[1][0])).tobytes())
      return sampler(*inputs)

    return sample_window


SAMPLERS = Samplers()

# A run to measure, and a small protocol.
MEASURED = {
  'data.num_frames': 4,
  'data.channels': 3,
  'data.digits.bounce': False,
  'data.digits.clip_frames': 8,
  'model.scalars': (),
  'sampling.num_steps': 2,
  'sampling.conditioning': 'replacement',
}
FVD, SCORE = Metric('fvd', 'frechet', 'i3d', 'logits'), Metric('is', 'inception', 'i3d', 'logits')
SMALL_PROTOCOL = Protocol(
  name='small',
  source='a test',
  task='unconditional',
  metrics=(FVD, SCORE, Metric('fid', 'frechet', 'inception', frames='each')),
  references=('train', 'test'),
  height=16,
  width=16,
  num_frames=4,
  num_samples=21,
  num_references=26,
  training_clips=26,
)
OPTIONS = EvalOptions(protocol='small', features='random', batch_size=8)
WEIGHTS = 'random:0 of a test'


class Networks:
  """Replaces `vdm_jax.evaluation.features`: computes a few means of pixels, and records the clips it gets."""

  def __init__(self):
    self.seen: list[np.ndarray] = []
    self.stop: int | None = None  # number of the call that raises KeyboardInterrupt

  def load(self, name, path, **options):
    def apply(videos: np.ndarray) -> Features:
      if len(self.seen) == self.stop:
        raise KeyboardInterrupt
      self.seen.append(videos)
      n, t = videos.shape[:2]
      cells = videos.reshape(n, t, 2, 8, 2, 8, 3).mean((3, 5)).reshape(n, t, 12)[..., :3].astype(np.float32) / 64
      rows = cells if name == 'inception' else cells.reshape(n, -1)[:, -5:]
      return Features(rows, rows)

    return Extractor(name, WEIGHTS, 1, None, apply)


@functools.cache
def compiled_once():
  """A `make_generator` that compiles each sampler once."""
  make, made = generation.make_generator, {}

  def make_generator(model, sampling, **options):
    key = json.dumps([model.config, sampling, str(options)], sort_keys=True)
    return made[key] if key in made else made.setdefault(key, make(model, sampling, **options))

  return make_generator
