"""Input scaling and images as videos of infinite frame rate: Snap Table 3."""

from __future__ import annotations

import functools

from ml_collections import ConfigDict

from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Run, config_of

SIGMAS = (1.0, 2.0, 4.0, 16.0)
RULE = 4.0  # the paper's s sqrt(T), with s = 64 / 64 and T = 16
LOGNORMAL_MEAN = -1.2  # EDM's, which the paper keeps while sigma_in changes
IMAGE_RATE = 0.25
NUM_STEPS = 1_000
# 16 evaluations suffice, since processes are compared and not solvers.
SAMPLING = {'num_steps': 16, 'grid': 'karras', 'step': 'ddim', 'threshold': 'clip', 'guidance_weight': 1.0}


def run(sigma_in: float, image_rate: float = 0.0) -> Run:
  name = f'unet_64_sigma_in_{sigma_in:g}' + (f'_stills_{image_rate:g}' if image_rate else '')
  return Run(name, functools.partial(_config, sigma_in, image_rate))


def run_snap(sigma_in: float) -> Run:
  return Run(f'unet_64_snap_sigma_in_{sigma_in:g}', functools.partial(_snap, sigma_in))


def run_single(sigma_in: float) -> Run:
  return Run(f'unet_64_sigma_in_{sigma_in:g}_single', functools.partial(_single, sigma_in))


def large_digits(config: ConfigDict) -> ConfigDict:
  """Set a configuration to 16x64x64 videos, with glyphs of 4x4 equal pixels, and common training and sampling."""
  config.data.update(num_frames=16, height=64, width=64, num_images=0, image_rate=0.0)
  config.training.update(warmup_steps=100, checkpoint_every=500, preview_every=0, heldout_every=0)
  config.sampling.update(SAMPLING)
  return config


def _config(sigma_in: float, image_rate: float) -> ConfigDict:
  config = large_digits(config_of('digits'))
  config.data.image_rate = image_rate
  # Patches of 8x8 pixels make this size cheap enough for 25 runs. A network this narrow cannot carry a patch's noise to
  # its output, which the snap parameterization requires: it predicts x.
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


def _snap(sigma_in: float) -> ConfigDict:
  """The paper's own parameterization and weight (Eqs. 15 to 43). It needs channels for all pixels of a patch."""
  config = _config(sigma_in, 0.0)
  config.model.update(parameterization='snap', patch_size=4)
  return config


def _single(sigma_in: float) -> ConfigDict:
  """Row (iv): images are single frames with sigma_in 1, one beside each video."""
  config = _config(sigma_in, 0.0)
  config.data.num_images = 1
  config.model.update(frame_logsnr='images', image_sigma_in=1.0)
  return config


def arm(sigma_in: float) -> str:
  return f'sigma_in {sigma_in:g}'


WITH_IMAGES, SINGLE = f'{arm(RULE)}, images', f'{arm(RULE)}, single images with sigma_in 1'
SCORES = quality.LARGE_SCORES | {'motion_ratio': 'motion ratio'}
CLAIM = Claim(
  name='input_scaling',
  source='Snap Table 3',
  statement='sigma_in = s sqrt(T), here 4, is better than less',
  setting='the U-Net of configs/digits.py on 16x64x64 digits, 1,000 steps of 4 videos; it predicts x with weight 1, so '
  "that the paper's Eqs. 15 to 43 take no part (input_scaling_snap has them); one arm replaces a quarter of the videos "
  'by images as videos, the others have none, which the paper does not test (input_scaling_images does what it tests); '
  'each seed is a separate training',
  cost='70 minutes',
  arms={arm(sigma_in): Arm(run(sigma_in)) for sigma_in in SIGMAS} | {WITH_IMAGES: Arm(run(RULE, IMAGE_RATE))},
  baseline=arm(RULE),
  scores=SCORES,
  comparisons=(
    # The distance alone is not enough: of two models that draw no digits yet, the worse may have the smaller one.
    *(
      Comparison(arm(RULE), arm(other), score, expected)
      for other in SIGMAS
      if other != RULE
      for score, expected in (('frechet', 'lower'), ('digit', 'higher'))
    ),
    Comparison(WITH_IMAGES, arm(RULE), 'frechet_frames', 'lower'),
  ),
  measure=quality.measure,
  draw=quality.drawing(
    {arm(sigma_in): ('videos', sigma_in) for sigma_in in SIGMAS} | {WITH_IMAGES: ('with images', RULE)},
    SCORES,
    x='sigma_in',
    log=True,
  ),
)
SNAP = CLAIM._replace(
  name='input_scaling_snap',
  statement='sigma_in = s sqrt(T), here 4, is better than less, with the parameterization and weight of the paper',
  setting='as input_scaling, but parameterization snap on patches of 4x4 pixels, and no images',
  cost='5 hours',
  arms={arm(sigma_in): Arm(run_snap(sigma_in)) for sigma_in in SIGMAS},
  comparisons=tuple(comparison for comparison in CLAIM.comparisons if comparison.of == arm(RULE)),
  draw=quality.drawing({arm(sigma_in): ('videos', sigma_in) for sigma_in in SIGMAS}, SCORES, x='sigma_in', log=True),
)
IMAGES = CLAIM._replace(
  name='input_scaling_images',
  statement='images as videos of infinite frame rate give better frames than single images with sigma_in 1, row (iv)',
  setting='as input_scaling; one arm replaces a quarter of the videos by images as videos, the other appends a single '
  'image with a noise level of its own to each video',
  cost='30 minutes',
  arms={WITH_IMAGES: Arm(run(RULE, IMAGE_RATE)), SINGLE: Arm(run_single(RULE))},
  baseline=SINGLE,
  comparisons=(Comparison(WITH_IMAGES, SINGLE, 'frechet_frames', 'lower'),),  # the paper's FVD is better in row (iv)
  draw=quality.drawing({name: (name, RULE) for name in (WITH_IMAGES, SINGLE)}, SCORES, x='sigma_in'),
)
