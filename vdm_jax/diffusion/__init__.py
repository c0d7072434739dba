"""Gaussian diffusion: processes, log-SNR schedules, parameterizations, the denoiser and its loss."""

from vdm_jax.diffusion.denoiser import precondition
from vdm_jax.diffusion.frame_noise import CLEAN_LOGSNR, FRAME_LEVELS, HOLDS_FRAMES, frame_levels
from vdm_jax.diffusion.loss import denoising_loss
from vdm_jax.diffusion.low_resolution import augment, downsample, upsample
from vdm_jax.diffusion.parameterization import (
  Coefficients,
  Parameterization,
  edm,
  predict_eps,
  predict_v,
  predict_x,
  snap,
)
from vdm_jax.diffusion.process import (
  GaussianProcess,
  Posterior,
  diffuse,
  expand_dims_like,
  input_scaled,
  posterior,
  predict_eps_from_x,
  variance_preserving,
)
from vdm_jax.diffusion.schedule import (
  LogsnrSampler,
  cosine_grid,
  cosine_levels,
  cosine_logsnr,
  cosine_sampler,
  karras_grid,
  lognormal_sampler,
)

__all__ = [
  'CLEAN_LOGSNR',
  'FRAME_LEVELS',
  'HOLDS_FRAMES',
  'Coefficients',
  'GaussianProcess',
  'LogsnrSampler',
  'Parameterization',
  'Posterior',
  'augment',
  'cosine_grid',
  'cosine_levels',
  'cosine_logsnr',
  'cosine_sampler',
  'denoising_loss',
  'diffuse',
  'downsample',
  'edm',
  'expand_dims_like',
  'frame_levels',
  'input_scaled',
  'karras_grid',
  'lognormal_sampler',
  'predict_eps_from_x',
  'posterior',
  'precondition',
  'predict_eps',
  'predict_v',
  'predict_x',
  'snap',
  'upsample',
  'variance_preserving',
]
