"""Convolution, normalization and sinusoids against their definitions; the convolution's gradient against JAX's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.tiny_networks import convolve, drawn, group_norm, normal

from vdm_jax.networks.layers import Conv3x3, GroupNorm, dense, sinusoidal


@pytest.mark.parametrize('stride', [1, 2])
def test_convolution_is_its_definition(stride):
  x = normal(2, 6, 4, 3)
  conv = Conv3x3(5, stride=stride)
  variables = drawn(conv, x)
  np.testing.assert_allclose(conv.apply(variables, x), convolve(variables['params'], x, stride), atol=1e-5)


def gradients(convolution):
  """Of a nonlinear function of the convolution, w.r.t. x and the kernel."""
  return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolution(x, kernel))), (0, 1))


def native(stride):
  def convolution(x, kernel):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=numbers)

  return convolution


def ours(stride, features):
  def convolution(x, kernel):
    params = {'kernel': kernel, 'bias': jnp.zeros(features)}
    return Conv3x3(features, stride=stride).apply({'params': params}, x)

  return convolution


SURROUNDINGS = {
  'plain': lambda f: lambda x, kernel: jax.tree.map(lambda *a: jnp.stack(a), *map(f, x, kernel)),
  'jit': lambda f: jax.jit(lambda x, kernel: jax.tree.map(lambda *a: jnp.stack(a), *map(f, x, kernel))),
  'vmap': jax.vmap,
  'scan': lambda f: lambda x, kernel: jax.lax.map(lambda a: f(*a), (x, kernel)),
  'scanned vmap': lambda f: lambda x, k: jax.lax.map(lambda x: jax.vmap(f, (None, 0))(x, k), x),
}


@pytest.mark.parametrize('around', SURROUNDINGS)
@pytest.mark.parametrize('stride', [1, 2])
def test_the_gradient_is_that_of_jax(stride, around):
  x, kernel = normal(2, 2, 6, 4, 3), normal(2, 3, 3, 3, 5, seed=1) / 5
  wrap = SURROUNDINGS[around]
  expected = SURROUNDINGS['scanned vmap' if around == 'scanned vmap' else 'plain'](gradients(native(stride)))(x, kernel)
  for found, wanted in zip(wrap(gradients(ours(stride, 5)))(x, kernel), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize('axes', [(0, None), (None, 0), (0, 0), (2, None)])
@pytest.mark.parametrize('stride', [1, 2])
def test_vmapped_convolutions_equal_single_ones(stride, axes):
  x, kernel = normal(2, 3, 6, 4, 3), normal(2, 3, 3, 3, 5, seed=1) / 5
  shown = np.moveaxis(x, 0, 2) if axes[0] == 2 else x if axes[0] == 0 else x[0]

  def both(convolution):
    return lambda x, kernel: (convolution(x, kernel), *gradients(convolution)(x, kernel))

  found = jax.vmap(both(ours(stride, 5)), axes)(shown, kernel if axes[1] == 0 else kernel[0])
  for copy in range(2):
    alone = both(native(stride))(x[copy if axes[0] is not None else 0], kernel[copy if axes[1] == 0 else 0])
    for one, wanted in zip(found, alone, strict=True):
      np.testing.assert_allclose(one[copy], wanted, atol=1e-5)


def test_nested_vmaps_of_a_convolution():
  x, kernel = normal(2, 4, 3, 6, 4, 3), normal(3, 3, 3, 5, seed=1) / 5
  found = jax.vmap(jax.vmap(ours(1, 5), (0, None)), (0, None))(x, kernel)
  np.testing.assert_allclose(found, native(1)(x.reshape(24, 6, 4, 3), kernel).reshape(found.shape), atol=1e-5)


def test_the_gradient_on_other_platforms_is_that_of_jax(monkeypatch):
  monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, **platforms: default(*args))
  x, kernel = normal(2, 6, 4, 3), normal(3, 3, 3, 5, seed=1) / 5
  for found, wanted in zip(gradients(ours(1, 5))(x, kernel), gradients(native(1))(x, kernel), strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_gradient_on_cpu_is_a_forward_convolution(monkeypatch):
  """Inside a loop XLA's CPU backend is many times slower on the transposed kernel layout."""
  chosen = []
  monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, default, cpu: chosen.append(cpu) or cpu(*args))
  jax.grad(lambda x: ours(1, 5)(x, normal(3, 3, 3, 5)).sum())(normal(2, 6, 4, 3))
  traced = [
    jax.make_jaxpr(chosen[0])(normal(2, 6, 4, 5), normal(3, 3, 3, 5)),
    jax.make_jaxpr(native(1))(normal(2, 6, 4, 5), normal(3, 3, 5, 3)),
  ]
  (backward,), (forward,) = ([e for e in t.eqns if e.primitive.name == 'conv_general_dilated'] for t in traced)
  assert backward.params == forward.params


def test_group_norm_is_that_of_flax_per_frame():
  x = 1 + 0.5 * normal(3, 4, 5, 8)
  variables = drawn(GroupNorm(2), x)
  found = GroupNorm(2).apply(variables, x)
  np.testing.assert_allclose(found, nn.GroupNorm(2, epsilon=1e-6).apply(variables, x), atol=1e-5)
  np.testing.assert_allclose(found, group_norm(variables['params'], x, 2), atol=1e-5)


def test_modulation_scales_and_shifts_the_normalized_values():
  x, scale, shift = normal(3, 4, 5, 8), normal(3, 8, seed=1), normal(3, 8, seed=2)
  variables = drawn(GroupNorm(2), x)
  expected = GroupNorm(2).apply(variables, x) * (1 + scale[:, None, None]) + shift[:, None, None]
  np.testing.assert_allclose(GroupNorm(2).apply(variables, x, scale, shift), expected, atol=1e-5)


def test_group_norm_computes_in_float32():
  """In bfloat16 statistics around a large mean, and 1 + a small scale, would be lost."""
  x = jnp.asarray(20 + normal(2, 8, 8, 8), jnp.bfloat16)
  scale, shift = (jnp.asarray(0.002 * normal(2, 8, seed=s), jnp.bfloat16) for s in (1, 2))
  variables = drawn(GroupNorm(2), x)
  wide = GroupNorm(2).apply(variables, *(a.astype(jnp.float32) for a in (x, scale, shift)))
  np.testing.assert_array_equal(GroupNorm(2).apply(variables, x, scale, shift), wide)
  narrow = GroupNorm(2, dtype=jnp.bfloat16).apply(variables, x, scale, shift)
  assert narrow.dtype == jnp.bfloat16
  np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))


def test_a_constant_frame_is_normalized_to_the_bias():
  variables = drawn(GroupNorm(2), normal(1, 4, 4, 8))
  found = GroupNorm(2).apply(variables, np.full((1, 4, 4, 8), 2.0, np.float32))
  np.testing.assert_allclose(found, np.broadcast_to(variables['params']['bias'], found.shape), atol=1e-3)


def test_groups_must_divide_the_channels():
  with pytest.raises(ValueError, match='8 channels .*norm_groups=3'):
    GroupNorm(3).init(jax.random.key(0), normal(1, 2, 2, 8))


@pytest.mark.parametrize('width', [2, 4, 8])
def test_sinusoids_are_their_closed_form(width):
  positions = np.array([[0.0, 1.0, 2.5], [10.0, 500.25, 1000.0]])
  half = width // 2
  expected = np.empty((2, 3, width))
  for i in range(half):
    angle = positions * 10.0 ** (-4 * i / max(half - 1, 1))
    expected[..., i], expected[..., half + i] = np.sin(angle), np.cos(angle)
  np.testing.assert_allclose(sinusoidal(positions, width), expected, atol=1e-4)


def test_a_dense_layer_over_several_axes():
  x = normal(5, 2, 3)
  layer = dense(4, ('heads', None, 'embed'), axis=(-2, -1))
  variables = drawn(layer, x)
  expected = np.einsum('bnd,ndc->bc', x, variables['params']['kernel']) + variables['params']['bias']
  np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_layers_have_unit_gain_at_initialization():
  """The fan-in of LeCun initialization counts all inputs of a unit, also for kernels with more than two axes."""
  key, x = jax.random.key(0), normal(256, 64)
  assert np.std(dense((3, 4, 16), (None,) * 4).init_with_output(key, x)[0]) == pytest.approx(1, abs=0.05)
  x = x.reshape(256, 4, 16)
  assert np.std(dense(64, (None,) * 3, axis=(-2, -1)).init_with_output(key, x)[0]) == pytest.approx(1, abs=0.05)
  out = Conv3x3(64).init_with_output(key, normal(4, 16, 16, 16))[0]
  assert math.isclose(np.std(out[:, 1:-1, 1:-1]), 1, abs_tol=0.05)
