"""A model without a network: videos whose frames are jointly Gaussian, pixel by pixel, and their exact denoiser."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vdm_jax import configuration, diffusion
from vdm_jax.diffusion import expand_dims_like
from vdm_jax.types import Conditioning

PROCESSES = {'variance_preserving': diffusion.variance_preserving(), 'scaled': diffusion.input_scaled(4.0)}


def settings(**changes):
  """The section `sampling` for data that leaves [-1, 1]."""
  config = configuration.default().sampling
  config.update({'num_steps': 12, 'threshold': 'none', 'reconstruction_weight': 1.0} | changes)
  return config


def autoregressive(num_frames: int, correlation: float, std: float = 0.5) -> np.ndarray:
  """The covariance of a stationary AR(1) process."""
  distance = np.abs(np.subtract.outer(np.arange(num_frames), np.arange(num_frames)))
  return std**2 * correlation**distance


class GaussianVideos(NamedTuple):
  """The part of a `Model` that `make_stages` and long videos use."""

  video_shape: tuple[int, int, int, int] = (8, 2, 2, 1)
  correlation: float = 0.95
  process: Any = PROCESSES['variance_preserving']
  mean: float = 0.1
  pad_rows: int = 0
  scalars: tuple[str, ...] = ('frame_interval',)
  encode = None
  upsampling: int = 1

  @property
  def config(self) -> dict[str, Any]:
    return {'pad_rows': self.pad_rows, 'scalars': self.scalars}

  def grid(self, name: str, num_points: int, **options: float):
    if name == 'cosine':
      return diffusion.cosine_levels(num_points)
    return diffusion.karras_grid(num_points, sigma_in=4.0, **options)

  def noise_level(self, sigma: float) -> float:
    return 4 * sigma

  def condition(self, prompts=None, labels=None, *, count, frame_rate, original_size):
    return Conditioning(frame_interval=np.full(count, 1 / frame_rate, np.float32))

  def denoiser(self, params):
    """`params` shifts the mean, so that it has an effect."""
    values, vectors = np.linalg.eigh(autoregressive(self.video_shape[0], self.correlation))
    turn = jnp.asarray(vectors, jnp.float32)
    mean = self.mean + params

    def denoiser(z, logsnr, cond, carry):
      alpha, sigma = (expand_dims_like(f(logsnr), jnp.zeros((len(z), 1, 1, 1, 1))) for f in self.process)
      modes = jnp.asarray(values, jnp.float32)[None, :, None, None, None]
      gain = alpha * modes / (alpha**2 * modes + sigma**2)
      centred = jnp.einsum('bthwc,tk->bkhwc', z - alpha * mean, turn, precision='highest')
      x_hat = mean + jnp.einsum('bkhwc,tk->bthwc', gain * centred, turn, precision='highest')
      return x_hat, carry

    return denoiser
