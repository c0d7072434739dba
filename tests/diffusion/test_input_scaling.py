"""Snap's Fig. 2 as a law: what averaging a video does to its signal-to-noise ratio, and what sigma_in puts back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import diffusion

FRAMES, SCALE, SIGMA = 16, 4, 0.7


def averaged(z):
  """The mean of each T x s x s block, `[b t h w c] -> [b h/s w/s c]`."""
  return np.asarray(diffusion.downsample(jnp.asarray(z).mean(1), SCALE))


def ratio(sigma_in):
  """SNR of the averaged video at noise SIGMA, for a still, block-wise constant video of unit power."""
  rng = np.random.default_rng(0)
  picture = rng.choice([-1.0, 1.0], (1, 64, 64, 3)).astype(np.float32)
  video = np.repeat(np.repeat(picture, SCALE, 1), SCALE, 2)[:, None].repeat(FRAMES, 1)
  process = diffusion.input_scaled(sigma_in)
  logsnr = jnp.full(1, -2 * np.log(SIGMA * sigma_in))
  np.testing.assert_allclose(process.sigma(logsnr), SIGMA, rtol=1e-6)
  z = diffusion.diffuse(process, video, jax.random.normal(jax.random.key(1), video.shape), logsnr)
  mean = averaged(z)
  signal = float(process.alpha(logsnr)[0]) * picture
  return np.mean(signal**2) / np.mean((mean - signal) ** 2)


def test_averaging_raises_the_ratio_by_its_number_of_pixels():
  single = 1 / SIGMA**2
  assert ratio(1.0) == pytest.approx(FRAMES * SCALE**2 * single, rel=0.05)


def test_scaling_the_input_by_s_sqrt_t_restores_it():
  assert ratio(SCALE * np.sqrt(FRAMES)) == pytest.approx(1 / SIGMA**2, rel=0.05)
