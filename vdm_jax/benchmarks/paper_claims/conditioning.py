"""Reconstruction guidance against replacement of the given frames: VDM section 3.1, Table 6.

Unconditional models, one per seed, continue held-out clips of bouncing digits from four frames to four times the length
of the model's videos, with each method from the same noise. The true continuation and digit of every clip are known.

A second claim sets guidance against what it replaces: a model of the same size and training, trained on given frames.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import vdm_jax
from vdm_jax import configuration, data, evaluation, plots
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Row, Rows, Run, config_of
from vdm_jax.data.sources.digits import DIRECTIONS
from vdm_jax.evaluation import drift
from vdm_jax.generation import Plan, extension, make_long_generator
from vdm_jax.video import to_float, to_uint8

VIDEOS, NUM_FRAMES, GIVEN, NUM_STEPS = 24, 32, 4, 32
LANGEVIN = {'langevin_delta': 0.1}
BASELINE, GUIDED, CORRECTED = 'replacement', 'reconstruction, w=10', 'reconstruction, w=10, Langevin'
# Method -> keys of the section `sampling`.
METHODS = {
  BASELINE: {'conditioning': 'replacement'},
  'replacement, Langevin': {'conditioning': 'replacement', **LANGEVIN},
  'redraw': {'conditioning': 'redraw'},
  'reconstruction, w=1': {'conditioning': 'reconstruction', 'reconstruction_weight': 1.0},
  GUIDED: {'conditioning': 'reconstruction', 'reconstruction_weight': 10.0},
  CORRECTED: {'conditioning': 'reconstruction', 'reconstruction_weight': 10.0, **LANGEVIN},
}
SCORES = {
  'prediction_error': 'error, first block',
  'extension_error': 'error, later blocks',
  'identity': 'digit kept',
  'seam_score': 'seam score',
}


def heldout_clips(config: ConfigDict, count: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
  """Return videos float32 [n t h w c] from the test split, and the digit that each shows: int [n]."""
  clips = data.examples(config.data, 'test', seed=config.seed, count=count, num_frames=num_frames)
  videos = to_float(np.stack([clip.video for clip in clips]))
  return videos, np.array([clip.label for clip in clips]) // len(DIRECTIONS)


def plan_of(block: int, num_frames: int) -> Plan:
  """Return windows of which half is given and half is generated."""
  return extension(num_frames, block, overlap=block // 2, given=GIVEN)


def measure(workdir: str, seed: int, settings: Mapping[str, Any]) -> Row:
  """Continue held-out clips from their first frames to their full length, and score the result.

  Errors are mean squared differences from the true continuation, per frame and over the first and the later blocks.
  """
  run = vdm_jax.Run(workdir)
  model, params = run.load()
  config = configuration.from_dict(run.config)
  videos, digits = heldout_clips(config, VIDEOS, NUM_FRAMES)
  sampling = config.sampling.to_dict() | dict(settings) | {'num_steps': NUM_STEPS}
  block = model.video_shape[0]
  plan = plan_of(block, NUM_FRAMES)
  started = time.perf_counter()
  made = make_long_generator(model, sampling, batch_size=VIDEOS)(params, plan, given=videos[:, :GIVEN], seed=seed)
  seconds = time.perf_counter() - started
  errors = np.square(made - videos).mean(axis=(0, 2, 3, 4))
  return score(made, digits, plan.block_starts) | {
    'prediction_error': float(errors[GIVEN:block].mean()),
    'extension_error': float(errors[block:].mean()),
    'error_of_frame': errors.tolist(),
    'seconds': seconds,
    'real': score(videos, digits, plan.block_starts) | {'prediction_error': 0.0, 'extension_error': 0.0},
  }


def score(videos: np.ndarray, digits: np.ndarray, starts: Sequence[int]) -> dict[str, float]:
  """Return the share of generated frames that show the clip's digit, and the mean seam score."""
  read = evaluation.read_clips(videos)
  seams = [drift(video, starts)['seam_score'] for video in to_uint8(videos)]
  return {
    'identity': float((read.frame_digits[:, GIVEN:] == digits[:, None]).mean()),
    'seam_score': float(np.mean([seam for seam in seams if seam is not None])),
  }


def draw(path: Path, rows: Rows) -> None:
  """Plot the error of each frame, by method."""
  curves = {name: [row['error_of_frame'] for row in seeds] for name, seeds in rows.items()}
  plots.draw_curves(path, curves, x='frame', y='squared error against the true continuation')


def trained() -> ConfigDict:
  """Return the same training with some frames of each clip given, that is, without noise."""
  config = config_of('digits_long')
  config.model.frame_logsnr = 'given'
  return config


RUN = Run('digits_long', lambda: config_of('digits_long'))
TRAINED = 'trained on given frames'
CLAIM = Claim(
  name='conditioning',
  source='VDM section 3.1, Table 6',
  statement='reconstruction guidance conditions better than replacement; Langevin correction improves it',
  setting='configs/digits_long.py, 24 held-out clips from 4 frames to 32, 32 steps; each seed is a separate training',
  cost='60 minutes',
  arms={name: Arm(RUN, settings=method) for name, method in METHODS.items()},
  baseline=BASELINE,
  scores=SCORES,
  comparisons=tuple(
    Comparison(of, to, score, expected)
    for of, to in ((GUIDED, BASELINE), (CORRECTED, GUIDED))
    for score, expected in (('prediction_error', 'lower'), ('extension_error', 'lower'), ('identity', 'higher'))
  ),
  measure=measure,
  draw=draw,
)
AGAINST_TRAINED = CLAIM._replace(
  name='conditioning_trained',
  statement='an unconditional model under reconstruction guidance conditions better than one trained on given frames '
  '(the paper does not compare them)',
  cost='30 minutes in addition to conditioning, which trains the unconditional models',
  arms={
    GUIDED: Arm(RUN, settings=METHODS[GUIDED]),
    CORRECTED: Arm(RUN, settings=METHODS[CORRECTED]),
    TRAINED: Arm(Run('digits_long_given', trained), settings={'conditioning': 'given_frames'}),
  },
  baseline=TRAINED,
  comparisons=tuple(
    Comparison(of, TRAINED, score, expected)
    for of in (GUIDED, CORRECTED)
    for score, expected in (('prediction_error', 'lower'), ('extension_error', 'lower'), ('identity', 'higher'))
  ),
)
