"""The low-resolution input of a second stage: resampling, and noise conditioning augmentation.

Snap section 3.4 says that the input is corrupted by a variable level of noise; the form is Imagen's (Saharia et al.
2022, section 2.4): the variance-preserving process at a level drawn per example, which the network is told.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.process import diffuse, variance_preserving
from vdm_jax.rng import unit_noise
from vdm_jax.types import Array


def downsample(x: Array, factor: int) -> Array:
  """`[... h w c] -> [... h/factor w/factor c]`, the mean of each square. Raises ValueError if it does not divide.

  For a factor of 2 this is bilinear resizing without antialiasing, whose samples lie in the middle of four pixels.
  """
  *lead, h, w, c = x.shape
  if h % factor or w % factor:
    raise ValueError(f'{h}x{w} pixels do not divide by factor={factor}: choose a divisor of both sides.')
  return jnp.reshape(x, (*lead, h // factor, factor, w // factor, factor, c)).mean((-4, -2))


def upsample(x: Array, factor: int) -> Array:
  """`[... h w c] -> [... h factor, w factor, c]`, bilinear, pixels as areas (the edge's value outside)."""
  *lead, h, w, c = x.shape
  return jax.image.resize(x, (*lead, h * factor, w * factor, c), 'bilinear')


def augment(low: Array, factor: int, logsnr: Array, rng: Array) -> Array:
  """A low-resolution video `[b t h w c]` as a second stage is given it: upsampled, then noised to `logsnr` `[b]`.

  `rng` is one key, or a key per example.
  """
  low = upsample(jnp.asarray(low, jnp.float32), factor)
  return diffuse(variance_preserving(), low, unit_noise(rng, low.shape), logsnr)
