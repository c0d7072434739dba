"""Input scaling and images as videos of infinite frame rate: Snap Table 3."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Run, config_of

SIGMAS = (1.0, 2.0, 4.0, 16.0)
RULE = 4.0  # s sqrt(T), 64 / 64 times the root of 16
LOGNORMAL_MEAN = -1.2  # EDM's, which the paper keeps while sigma_in changes: the rule is about this one
STILLS = 0.25
NUM_STEPS = 1_000
# 16 evaluations: the process is what is compared, not its solver.
SAMPLING = {'num_steps': 16, 'grid': 'karras', 'step': 'ddim', 'threshold': 'clip', 'guidance_weight': 1.0}


def run(sigma_in: float, image_rate: float = 0.0) -> Run:
  name = f'unet_64_sigma_in_{sigma_in:g}' + (f'_stills_{image_rate:g}' if image_rate else '')
  return Run(name, functools.partial(_config, sigma_in, image_rate))


def large_digits(config: ConfigDict) -> ConfigDict:
  """The configuration on 16x64x64 videos, whose glyphs are of 4x4 equal pixels, trained and sampled alike for all."""
  config.data.update(num_frames=16, height=64, width=64, num_images=0, image_rate=0.0)
  config.training.update(warmup_steps=100, checkpoint_every=500, preview_every=0, heldout_every=0)
  config.sampling.update(SAMPLING)
  return config


def _config(sigma_in: float, image_rate: float) -> ConfigDict:
  config = large_digits(config_of('digits'))
  config.data.image_rate = image_rate
  # 8x8 pixels a patch make this size cheap enough for 25 runs. So small a network cannot carry the noise of a patch to
  # its output, as the snap parameterization asks: it predicts x.
  config.model.update(
    process='input_scaled',
    parameterization='x',
    sigma_in=sigma_in,
    logsnr='lognormal',
    lognormal_mean=LOGNORMAL_MEAN,
    logsnr_shift=0.0,
    patch_size=8,
  )
  config.training.num_steps = NUM_STEPS
  return config


def arm(sigma_in: float) -> str:
  return f'sigma_in {sigma_in:g}'


WITH_STILLS = f'{arm(RULE)}, images'
SCORES = quality.LARGE_SCORES | {'motion_ratio': 'motion ratio'}
CLAIM = Claim(
  name='input_scaling',
  source='Snap Table 3',
  says='sigma_in = s sqrt(T), here 4, is better than less; images as videos of infinite frame rate improve frames',
  setting='the U-Net of configs/digits.py, predicting x, on 16x64x64 digits, 1,000 steps of 4 videos; in one arm a '
  'quarter of them are images, beside none (the other row of the paper has images too, with a sigma_in of their own); '
  'seeds train anew',
  cost='70 minutes',
  arms={arm(sigma_in): Arm(run(sigma_in)) for sigma_in in SIGMAS} | {WITH_STILLS: Arm(run(RULE, STILLS))},
  baseline=arm(RULE),
  scores=SCORES,
  judged=(
    # The distance alone is not enough: of models that draw no digits yet, the worse can have the smaller one.
    *(
      Comparison(arm(RULE), arm(other), score, expected)
      for other in SIGMAS
      if other != RULE
      for score, expected in (('frechet', 'lower'), ('digit', 'higher'))
    ),
    Comparison(WITH_STILLS, arm(RULE), 'frechet_frames', 'lower'),
  ),
  measure=quality.measure,
  draw=quality.drawing(
    {arm(sigma_in): ('videos', sigma_in) for sigma_in in SIGMAS} | {WITH_STILLS: ('with images', RULE)},
    SCORES,
    x='sigma_in',
    log=True,
  ),
)
