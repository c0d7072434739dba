"""The denoiser against networks whose output is known exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import (
  diffuse,
  edm,
  expand_dims_like,
  input_scaled,
  precondition,
  predict_eps,
  predict_v,
  predict_x,
  snap,
  variance_preserving,
)

PROCESSES = {'preserving': variance_preserving(), 'scaled-1': input_scaled(1.0), 'scaled-4': input_scaled(4.0)}
PARAMETERIZATIONS = {'eps': predict_eps, 'v': predict_v, 'x': predict_x, 'edm': edm(0.5), 'snap': snap(1.0)}
every_pair = pytest.mark.parametrize(
  'process, parameterization',
  [(p, q) for p in PROCESSES.values() for q in PARAMETERIZATIONS.values()],
  ids=[f'{p}-{q}' for p in PROCESSES for q in PARAMETERIZATIONS],
)

LOGSNR = np.array([-6.0, -1.0, 0.0, 6.0], np.float32)
X, EPS = np.random.default_rng(0).normal(size=(2, 4, 2, 3, 3, 1)).astype(np.float32)


def coefficients(process, parameterization, logsnr):
  return parameterization(process.alpha(logsnr), process.sigma(logsnr))


@every_pair
def test_exact_network_gives_back_x(process, parameterization):
  """Each example at its own noise level; the network must receive exactly `input z` and the log-SNR."""
  c = coefficients(process, parameterization, LOGSNR)
  z = diffuse(process, X, EPS, LOGSNR)

  def network(network_input, logsnr, cond, carry):
    np.testing.assert_allclose(network_input, expand_dims_like(c.input, X) * z, rtol=1e-6)
    np.testing.assert_array_equal(logsnr, LOGSNR)
    return expand_dims_like(c.target_x, X) * X + expand_dims_like(c.target_eps, X) * EPS, carry

  x_hat, _ = precondition(network, process, parameterization)(z, LOGSNR, None, None)
  np.testing.assert_allclose(x_hat, X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('parameterization', PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)
def test_arithmetic_is_float32_whatever_the_network_computes_in(parameterization):
  """A bfloat16 output costs its own rounding and nothing more; z of another type is taken as float32."""
  process = variance_preserving()
  c = coefficients(process, parameterization, LOGSNR)
  output = jnp.asarray(EPS, jnp.bfloat16)
  z = jnp.asarray(X, jnp.bfloat16)
  x_hat, _ = precondition(lambda *_: (output, None), process, parameterization)(z, LOGSNR, None, None)
  assert x_hat.dtype == jnp.float32
  wide = expand_dims_like(c.skip, X) * z.astype(jnp.float32) + expand_dims_like(c.out, X) * output.astype(jnp.float32)
  np.testing.assert_allclose(x_hat, wide, rtol=1e-6, atol=1e-6)
  with jax.enable_x64(True):
    wide_z = jnp.asarray(X, float)
    x_hat, _ = precondition(lambda *_: (output, None), process, parameterization)(wide_z, LOGSNR, None, None)
  assert wide_z.dtype == jnp.float64 and x_hat.dtype == jnp.float32


def test_condition_and_carry_go_through():
  def network(network_input, logsnr, cond, carry):
    return network_input * 0 + expand_dims_like(cond['scale'], network_input), carry + 1

  denoiser = precondition(network, input_scaled(4.0), predict_x)
  scale = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
  x_hat, carry = denoiser(X, LOGSNR, {'scale': scale}, np.array([5.0, 6.0, 7.0, 8.0]))
  np.testing.assert_array_equal(x_hat, np.broadcast_to(expand_dims_like(scale, X), X.shape))
  np.testing.assert_array_equal(carry, [6, 7, 8, 9])


def test_jit_and_gradient_see_the_same_denoiser():
  denoiser = precondition(lambda x, logsnr, cond, carry: (jnp.tanh(x), None), variance_preserving(), predict_v)
  plain, compiled = (f(X, LOGSNR, None, None)[0] for f in (denoiser, jax.jit(denoiser)))
  np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-6)
  gradient = jax.grad(lambda z: denoiser(z, LOGSNR, None, None)[0].sum())(X)
  alpha, sigma = (expand_dims_like(f(LOGSNR), X) for f in variance_preserving())
  np.testing.assert_allclose(gradient, alpha - sigma / np.cosh(X) ** 2, rtol=1e-4, atol=1e-5)
