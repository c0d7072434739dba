"""The low-resolution input of a second stage: resampling, and noise conditioning augmentation.

Snap section 3.4 corrupts this input with a variable level of noise. The form is Imagen's (Saharia et al. 2022, section
2.4): the variance-preserving process at a level drawn per example, on which the network is conditioned.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.process import diffuse, variance_preserving
from vdm_jax.rng import unit_noise
from vdm_jax.types import Array


def downsample(x: Array, factor: int, method: str = 'area') -> Array:
  """Return `x` `[... h w c]` at `[... h/factor w/factor c]`.

  Args:
    x: videos or images in [-1, 1].
    factor: pixels per side made of each new pixel.
    method: 'area', the mean of each square, which for a factor of 2 equals bilinear resizing without antialiasing; or
      'bicubic', Pillow's filter, with which clips are resized for training, clipped to [-1, 1].

  Raises:
    ValueError: `factor` does not divide the height and the width, or the method is unknown.

  >>> import jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> diffusion.downsample(jnp.array([[0.0, 2.0], [4.0, 6.0]])[..., None], 2)
  Array([[[3.]]], dtype=float32)
  """
  *lead, h, w, c = x.shape
  if h % factor or w % factor:
    raise ValueError(f'{h}x{w} pixels are not divisible by factor={factor}: choose a divisor of height and width.')
  if method not in ('area', 'bicubic'):
    raise ValueError(f'model.downsampling={method!r} is unknown: choose one of area, bicubic.')
  if method == 'bicubic':
    return jnp.clip(jax.image.resize(x, (*lead, h // factor, w // factor, c), 'cubic'), -1.0, 1.0)
  return jnp.reshape(x, (*lead, h // factor, factor, w // factor, factor, c)).mean((-4, -2))


def upsample(x: Array, factor: int) -> Array:
  """Return `x` `[... h w c]` at `[... h factor, w factor, c]`: bilinear, pixels as areas, edges repeated.

  >>> import numpy as np
  >>> from vdm_jax import diffusion
  >>> diffusion.upsample(np.float32([[0, 4]])[..., None], 2)[0, :, 0]
  Array([0., 1., 3., 4.], dtype=float32)
  """
  *lead, h, w, c = x.shape
  return jax.image.resize(x, (*lead, h * factor, w * factor, c), 'bilinear')


def augment(low: Array, factor: int, logsnr: Array, rng: Array) -> Array:
  """Return a low-resolution video as the input of a second stage: upsampled, then noised.

  Args:
    low: videos `[b t h w c]` in [-1, 1].
    factor: output pixels per side of an input pixel.
    logsnr: noise level of each video, `[b]`.
    rng: one key, or a key per example `[b]`.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion
  >>> diffusion.augment(jnp.zeros((2, 8, 16, 16, 3)), 2, jnp.array([20.0, 0.0]), jax.random.key(0)).shape
  (2, 8, 32, 32, 3)
  """
  low = upsample(jnp.asarray(low, jnp.float32), factor)
  return diffuse(variance_preserving(), low, unit_noise(rng, low.shape), logsnr)
