"""Langevin steps against ancestral steps in video prediction, at equal evaluations: VDM Tables 2 and 3.

The paper compares 512 ancestral steps with 256 Langevin steps on BAIR, and 256 with 128 on Kinetics-600: a Langevin
correction evaluates the network once more after every step. Here unconditional models, one per seed, predict the second
half of held-out clips of bouncing digits from the first, under reconstruction guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import vdm_jax
from vdm_jax import configuration, evaluation
from vdm_jax.benchmarks.paper_claims import conditioning, quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Row, Rows
from vdm_jax.generation import make_long_generator

CLIPS, BATCH = 240, 24
POINTS = (8, 16, 32)  # grid points of the Langevin sampler: N points are 2N - 1 evaluations, as many as 2N - 1 points
SCORES = {'frechet': 'Fréchet distance', 'prediction_error': 'error', 'identity': 'digit kept'}


def arm(sampler: str, points: int) -> str:
  return f'{sampler}, {2 * points - 1} evaluations'


def settings_of(sampler: str, points: int) -> dict[str, Any]:
  """Return the keys of `sampling`; both samplers evaluate the network 2 points - 1 times."""
  if sampler == 'ancestral':
    return {'num_steps': 2 * points - 1}
  return {'num_steps': points, **conditioning.LANGEVIN}


def measure(workdir: str, seed: int, settings: Mapping[str, Any]) -> Row:
  """Predict held-out clips and score them against the true ones.

  The Fréchet distance is between features of the predicted clips and of the true ones, given frames included as in the
  paper; the error is the mean squared difference of predicted frames, and `identity` the share of them that show the
  clip's digit.
  """
  run = vdm_jax.Run(workdir)
  model, params = run.load()
  config = configuration.from_dict(run.config)
  block, given = model.video_shape[0], conditioning.GIVEN
  videos, digits = conditioning.heldout_clips(config, CLIPS, block)
  generate = make_long_generator(model, config.sampling.to_dict() | dict(settings), batch_size=BATCH)
  made = generate(params, conditioning.plan_of(block, block), given=videos[:, :given], seed=seed)
  true, read = evaluation.read_clips(videos), evaluation.read_clips(made)
  return {
    'frechet': evaluation.frechet_distance(read.features, true.features),
    'prediction_error': float(np.square(made - videos)[:, given:].mean()),
    'identity': float((read.frame_digits[:, given:] == digits[:, None]).mean()),
    'real': {'identity': float((true.frame_digits[:, given:] == digits[:, None]).mean())},
  }


def draw(path: Path, rows: Rows) -> None:
  """Plot the scores against the evaluations of the network."""
  points = {arm(sampler, count): (sampler, 2 * count - 1) for sampler, count in CELLS}
  quality.drawing(points, SCORES, x='network evaluations', log=True)(path, rows)


CELLS = tuple((sampler, points) for points in POINTS for sampler in ('ancestral', 'Langevin'))
CLAIM = Claim(
  name='prediction',
  source='VDM Tables 2 and 3',
  statement='Langevin steps predict better than ancestral steps with the same number of evaluations',
  setting='configs/digits_long.py, 240 held-out clips of 8 frames from their first 4, reconstruction guidance with '
  'w=10; each seed is a separate training',
  cost='25 minutes in addition to conditioning, which trains the models',
  arms={arm(*cell): Arm(conditioning.RUN, settings=settings_of(*cell)) for cell in CELLS},
  baseline=arm('ancestral', POINTS[-1]),
  scores=SCORES,
  comparisons=tuple(
    Comparison(arm('Langevin', points), arm('ancestral', points), score, expected)
    for points in POINTS
    for score, expected in (('frechet', 'lower'), ('prediction_error', 'lower'), ('identity', 'higher'))
  ),
  measure=measure,
  draw=draw,
)
