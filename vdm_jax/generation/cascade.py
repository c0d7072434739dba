"""The two-stage cascade: a second stage upsamples the videos of a first (Snap section 3.4)."""

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

# (params, keys [b], cond, low [b t h/f w/f c]) -> x [b t h w c]
Upsampler = Callable[[Params, Array, Conditioning, Array], Array]


def make_upsampler(model: Model, config: Mapping[str, Any]) -> Upsampler:
  """Return the sampler of a second stage, `(params, keys [b], cond, low [b t h/f w/f c]) -> x [b t h w c]`.

  Pure, to be jitted by its caller.

  Args:
    model: a second stage, with `model.upsampling` f above 1.
    config: the section `sampling` of a configuration.

  Raises:
    ValueError: as `make_corruption` and `make_sampler`.

  >>> import jax, jax.numpy as jnp, vdm_jax
  >>> from vdm_jax import configuration
  >>> from vdm_jax.generation import make_upsampler
  >>> model, params = vdm_jax.load('pretrained:digits_fit_upsampler')
  >>> upsampler = make_upsampler(model, configuration.default().sampling.to_dict() | {'num_steps': 2})
  >>> keys, cond = jax.random.split(jax.random.key(0), 1), model.condition(['a 3 moving left'])
  >>> jax.eval_shape(upsampler, params, keys, cond, jnp.zeros((1, 8, 16, 16, 1))).shape
  (1, 8, 32, 32, 1)
  """
  corrupt, sampler = make_corruption(model, config), make_sampler(model, config)

  def upsampler(params: Params, keys: Array, cond: Conditioning, low: Array) -> Array:
    keys = fold_in(keys, VideoStream.SECOND_STAGE)
    return sampler(params, keys, corrupt(keys, cond, low))

  return upsampler


def make_corruption(model: Model, config: Mapping[str, Any]) -> Callable[[Array, Conditioning, Array], Conditioning]:
  """Return `(keys [b], cond, low [b t h/f w/f c]) -> cond`: the conditioning of a second stage on first-stage samples.

  `low` in [-1, 1] is upsampled and noised to `config['noise_aug_level']`, a time of the cosine schedule in [0, 1] on
  which the model is conditioned.

  Raises:
    ValueError: `noise_aug_level` is outside [0, 1].
  """
  time = config['noise_aug_level']
  if not 0 <= time <= 1:
    raise ValueError(
      f'sampling.noise_aug_level={time} must be in [0, 1]: 0 leaves the low-resolution video unchanged, '
      '1 is pure noise.'
    )

  def corrupt(keys: Array, cond: Conditioning, low: Array) -> Conditioning:
    logsnr = jnp.full(keys.shape, cosine_logsnr(jnp.float32(time)))
    low = augment(low, model.upsampling, logsnr, fold_in(keys, SecondStageStream.AUGMENTATION_NOISE))
    return cond._replace(low_resolution=low, augmentation_logsnr=logsnr)

  return corrupt


def make_cascade(first: Callable[..., np.ndarray], second: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
  """Return two generators of `make_generator`, with their parameters bound, as one: `generate(**conditions) -> videos`.

  >>> import numpy as np
  >>> from vdm_jax.generation import make_cascade
  >>> first = lambda count: np.zeros((count, 8, 16, 16, 1))
  >>> second = lambda count, low_resolution: low_resolution.repeat(2, axis=2).repeat(2, axis=3)
  >>> make_cascade(first, second)(count=3).shape
  (3, 8, 32, 32, 1)
  """
  return lambda **conditions: second(low_resolution=first(**conditions), **conditions)
