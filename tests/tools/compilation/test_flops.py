"""Model FLOPs: closed forms of products and convolutions, their gradients, loops, and the paper's networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vdm_jax import configuration, models
from vdm_jax.networks.layers import Conv3x3
from vdm_jax.tools.compilation import model_flops
from vdm_jax.types import Conditioning

A, B, C = 5, 7, 11


def spec(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(x, kernel, stride=1):
  return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def of_sum(function):
  """Return the function with a scalar result, for differentiation."""
  return lambda *args: jnp.sum(jnp.sin(function(*args)))


def test_a_matrix_product_is_two_per_multiply_add():
  assert model_flops(jnp.matmul, spec(A, B), spec(B, C)) == 2 * A * B * C
  assert model_flops(jnp.matmul, spec(3, A, B), spec(3, B, C)) == 3 * 2 * A * B * C
  assert model_flops(lambda x, y: jnp.einsum('nab,ncb->nac', x, y), spec(3, A, B), spec(3, C, B)) == 3 * 2 * A * B * C


@pytest.mark.parametrize('stride', [1, 2])
def test_a_convolution_counts_every_tap(stride):
  pixels = 2 * (8 // stride) * (6 // stride)
  assert model_flops(lambda x, k: convolve(x, k, stride), spec(2, 8, 6, 3), spec(3, 5, 3, 7)) == (
    2 * pixels * 7 * 3 * 5 * 3
  )


def test_a_grouped_convolution_counts_only_its_group():
  def depthwise(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=4
    )

  assert model_flops(depthwise, spec(2, 8, 8, 4), spec(3, 3, 1, 4)) == 2 * (2 * 8 * 8 * 4) * 9


@pytest.mark.parametrize(
  ('function', 'shapes'),
  [
    (jnp.matmul, ((A, B), (B, C))),
    (convolve, ((2, 8, 6, 3), (3, 3, 3, 7))),
    (lambda x, k: convolve(x, k, 2), ((2, 8, 6, 3), (3, 3, 3, 7))),
  ],
  ids=['matmul', 'convolution', 'strided convolution'],
)
def test_each_gradient_costs_as_much_as_the_function(function, shapes):
  args = [spec(*shape) for shape in shapes]
  once = model_flops(function, *args)
  assert model_flops(jax.grad(of_sum(function), (0, 1)), *args) == 3 * once
  assert model_flops(jax.grad(of_sum(function), 0), *args) == 2 * once
  assert model_flops(jax.grad(of_sum(function), 1), *args) == 2 * once


@pytest.mark.parametrize('stride', [1, 2])
def test_the_convolution_with_a_custom_gradient_counts_like_any_other(stride):
  module = Conv3x3(7, stride=stride)
  params = jax.eval_shape(module.init, jax.random.key(0), spec(2, 8, 8, 3))
  once = model_flops(module.apply, params, spec(2, 8, 8, 3))
  assert once == 2 * (2 * (8 // stride) ** 2 * 7) * 9 * 3
  assert model_flops(jax.grad(of_sum(module.apply), (0, 1)), params, spec(2, 8, 8, 3)) == 3 * once
  assert model_flops(jax.grad(of_sum(module.apply), 1), params, spec(2, 8, 8, 3)) == 2 * once


def power(x, times):
  return jax.lax.scan(lambda y, _: (y @ x, None), x, length=times)[0]


def test_a_scan_counts_once_per_iteration():
  assert model_flops(lambda x: power(x, 9), spec(A, A)) == 9 * 2 * A**3
  nested = jax.jit(lambda x: jax.lax.scan(lambda y, _: (power(y, 4), None), x, length=3)[0])
  assert model_flops(nested, spec(A, A)) == 12 * 2 * A**3
  assert model_flops(jax.grad(of_sum(lambda x: power(x, 9))), spec(A, A)) == 3 * 9 * 2 * A**3


def test_a_branch_counts_as_its_most_expensive_alternative():
  def choose(i, x):
    return jax.lax.switch(i, [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x], x)

  assert model_flops(choose, jax.ShapeDtypeStruct((), jnp.int32), spec(A, A)) == 2 * 2 * A**3


def test_rematerialization_does_not_count():
  def layer(x, w):
    return jnp.sin(jnp.cos(x @ w) @ w)

  args = spec(3, A), spec(A, A)
  plain = model_flops(jax.grad(of_sum(layer), (0, 1)), *args)
  assert plain == 3 * 2 * 2 * 3 * A * A
  assert model_flops(jax.grad(of_sum(jax.checkpoint(layer)), (0, 1)), *args) == plain
  assert model_flops(jax.checkpoint(layer), *args) == plain // 3


def test_unused_results_do_not_count():
  assert model_flops(lambda x: (x @ x, x + 1)[1], spec(A, A)) == 0


def test_a_loop_of_unknown_length_is_an_error():
  def until_large(x):
    return jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y @ y, x)

  with pytest.raises(ValueError, match='while_loop'):
    model_flops(until_large, spec(A, A))
  assert model_flops(lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y + 1, x), spec(A, A)) == 0


VDM = {
  'UCF101': (7.84, {'base_channels': 256}),
  'BAIR': (
    1.72,
    {'base_channels': 128, 'channel_multipliers': (1, 2, 3, 4), 'num_blocks': 3, 'embedding_layers': 2},
  ),
  'text-to-video, small': (2.01, {'base_channels': 128}),
}


@pytest.mark.parametrize('name', VDM)
def test_the_papers_networks(name):
  """Forward TFLOP per video of 16x64x64, against sums over the layers' sizes."""
  tera, fields = VDM[name]
  config = configuration.default()
  config.model.update(fields)
  model = models.build(config.model)
  params = jax.eval_shape(model.init, jax.random.key(0))

  def forward(params, x, logsnr):
    return model.network(params)(x, logsnr, Conditioning(), None)[0]

  assert model_flops(forward, params, spec(1, *model.video_shape), spec(1)) == pytest.approx(tera * 1e12, rel=0.04)


@pytest.mark.slow
def test_training_is_three_forward_passes_with_and_without_rematerialization():
  config = configuration.default()
  config.data.update({'num_frames': 4, 'height': 16, 'width': 16})
  config.model.update({'base_channels': 32, 'channel_multipliers': (1, 2), 'num_blocks': 1, 'head_width': 32})

  def counts(remat):
    config.model.remat = remat
    model = models.build(config.model)
    params = jax.eval_shape(model.init, jax.random.key(0))
    args = params, spec(2, *model.video_shape), spec(2)

    def forward(params, x, logsnr):
      return model.network(params)(x, logsnr, Conditioning(), None)[0]

    return model_flops(forward, *args), model_flops(jax.grad(of_sum(forward), (0, 1)), *args)

  forward, training = counts(remat=False)
  assert counts(remat=True) == (forward, training)
  # The noise level is not differentiated, so its embedding costs less than three passes.
  assert training == pytest.approx(3 * forward, rel=1e-4)
