"""The two-stage cascade: a first stage's videos, made larger by a second (Snap section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import augment, cosine_logsnr
from vdm_jax.generation.sampler import make_sampler
from vdm_jax.models import Model
from vdm_jax.rng import SecondStageStream, VideoStream, fold_in
from vdm_jax.types import Array, Conditioning, Params

Upsampler = Callable[[Params, Array, Conditioning, Array], Array]


def make_upsampler(model: Model, config: Mapping[str, Any]) -> Upsampler:
  """Builds `(params, keys [b], cond, low [b t h/f w/f c]) -> x [b t h w c]`: pure, to be jitted by its caller.

  Raises ValueError as `make_corruption` and `make_sampler` do.
  """
  corrupt, sampler = make_corruption(model, config), make_sampler(model, config)

  def upsampler(params: Params, keys: Array, cond: Conditioning, low: Array) -> Array:
    keys = fold_in(keys, VideoStream.SECOND_STAGE)
    return sampler(params, keys, corrupt(keys, cond, low))

  return upsampler


def make_corruption(model: Model, config: Mapping[str, Any]) -> Callable[[Array, Conditioning, Array], Conditioning]:
  """Builds `(keys [b], cond, low [b t h/f w/f c]) -> cond`: what a second stage is told of a first one's videos.

  `low` in [-1, 1] is upsampled and noised to `config['noise_aug_level']`, a time of the cosine schedule in [0, 1] that
  conditions the model. Raises ValueError outside of it.
  """
  time = config['noise_aug_level']
  if not 0 <= time <= 1:
    raise ValueError(
      f'sampling.noise_aug_level={time} must be in [0, 1]: 0 leaves the low-resolution video as it is, 1 is pure noise.'
    )

  def corrupt(keys: Array, cond: Conditioning, low: Array) -> Conditioning:
    logsnr = jnp.full(keys.shape, cosine_logsnr(jnp.float32(time)))
    low = augment(low, model.upsampling, logsnr, fold_in(keys, SecondStageStream.AUGMENTATION_NOISE))
    return cond._replace(low_resolution=low, augmentation_logsnr=logsnr)

  return corrupt


def make_cascade(first: Callable[..., np.ndarray], second: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """Two generators of `make_generator`, their parameters bound, as one: `generate(**conditions) -> videos`."""
  return lambda **conditions: second(low_resolution=first(**conditions), **conditions)
