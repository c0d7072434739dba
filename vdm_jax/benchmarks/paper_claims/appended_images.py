"""Joint training on videos and appended images: VDM Table 4."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Run, config_of

IMAGES = (0, 4, 8)  # per video, as in the table: more images are more frames per step
VIDEOS = 4  # per batch
STEPS = (1_000, 2_000)  # two points of the same run, since an early gain may vanish


def run(images: int) -> Run:
  return Run(f'appended_{images}', functools.partial(_config, images))


def arm(images: int, steps: int) -> str:
  return f'{images} images, {steps:,} steps'


def _config(images: int) -> ConfigDict:
  config = config_of('digits')
  config.data.update(num_images=images, batch_size=VIDEOS)
  # With a constant learning rate, a run of 1,000 steps is the first half of one of 2,000.
  config.training.update(schedule='constant', preview_every=STEPS[0], heldout_every=0)
  return config


CELLS = tuple((images, steps) for steps in STEPS for images in IMAGES)
CLAIM = Claim(
  name='appended_images',
  source='VDM Table 4',
  statement='samples improve as 0, 4 and 8 independent images are appended to each video',
  setting='configs/digits.py with a constant learning rate, 4 videos per step; each seed is a separate training',
  cost='60 minutes',
  arms={arm(*cell): Arm(run(cell[0]), num_steps=cell[1]) for cell in CELLS},
  baseline=arm(0, STEPS[-1]),
  scores=quality.SCORES,
  comparisons=tuple(
    Comparison(arm(images, steps), arm(fewer, steps), score, expected)
    for steps in STEPS
    for images, fewer in ((4, 0), (8, 0), (8, 4))
    for score, expected in (('frechet', 'lower'), ('digit', 'higher'))
  ),
  measure=quality.measure,
  draw=quality.drawing({arm(*cell): (f'{cell[0]} images', cell[1]) for cell in CELLS}, quality.SCORES, x='steps'),
)
