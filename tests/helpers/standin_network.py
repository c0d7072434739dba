"""A model whose network is one convolution: quick to compile, with everything around it real."""

from __future__ import annotations

from flax import linen as nn

from vdm_jax.benchmarks import sampler_loop
from vdm_jax.models import Model
from vdm_jax.networks import VideoNetwork


class OneConvolution(VideoNetwork):
  """`(x, logsnr, cond, carry) -> (convolution of each frame, carry)`."""

  @nn.compact
  def __call__(self, x, logsnr, cond, carry=None, *, train=False):
    return nn.Conv(x.shape[-1], (1, 3, 3))(x), carry


def standin() -> Model:
  return sampler_loop.small_model(8)._replace(module=OneConvolution())
