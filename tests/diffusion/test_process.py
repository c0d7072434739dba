"""Gaussian processes against float64: the marginals, Bayes' rule, and gaps too small to subtract."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import (
  diffuse,
  expand_dims_like,
  input_scaled,
  posterior,
  predict_eps_from_x,
  variance_preserving,
)
from vdm_jax.rng import fold_in, unit_noise

LOGSNRS = np.linspace(-20.0, 20.0, 401)


def preserving_64(logsnr):
  return 1 / np.sqrt(1 + np.exp(-logsnr)), 1 / np.sqrt(1 + np.exp(logsnr))


def scaled_64(sigma_in):
  return lambda logsnr: (np.full_like(logsnr, 1 / sigma_in), np.exp(-logsnr / 2) / sigma_in)


# The process, and its (alpha, sigma) from the definition in float64.
PROCESSES = {
  'preserving': (variance_preserving(), preserving_64),
  'scaled-1': (input_scaled(1.0), scaled_64(1.0)),
  'scaled-4': (input_scaled(4.0), scaled_64(4.0)),
  'scaled-32': (input_scaled(32), scaled_64(32.0)),
}
every_process = pytest.mark.parametrize('process, exact', PROCESSES.values(), ids=PROCESSES)

# (logsnr_t, logsnr_s), the noisier first: both ends, wide and narrow gaps. All are exact in float32.
PAIRS = np.array([(-20, -19.75), (-20, 20), (-8, -7), (-3, 4), (-1, 0), (-0.25, 0.25), (0.5, 0.75), (2, 9), (19.5, 20)])


@every_process
def test_logsnr_is_that_of_alpha_and_sigma(process, exact):
  alpha, sigma = (np.asarray(f(LOGSNRS), np.float64) for f in process)
  np.testing.assert_allclose(2 * np.log(alpha / sigma), LOGSNRS, atol=5e-6)


@every_process
def test_alpha_and_sigma_are_the_definitions_in_float32(process, exact):
  for of_logsnr, reference in zip(process, exact(LOGSNRS), strict=True):
    value = of_logsnr(LOGSNRS)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, reference, rtol=2e-6)
    np.testing.assert_array_equal(of_logsnr(float(LOGSNRS[7])), value[7])


def test_preserving_keeps_the_power():
  process = variance_preserving()
  np.testing.assert_allclose(process.alpha(LOGSNRS) ** 2 + process.sigma(LOGSNRS) ** 2, 1, atol=5e-7)


def test_scaled_by_one_is_edm():
  """EDM adds noise of standard deviation sigma to x itself, and its log-SNR is -2 ln sigma."""
  process, sigma = input_scaled(1.0), np.geomspace(0.002, 80, 9)
  x, eps = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
  z = diffuse(process, x, eps, -2 * np.log(sigma))
  np.testing.assert_allclose(z, x + sigma[:, None] * eps, rtol=2e-6, atol=1e-6)


def test_scaled_is_snaps_process():
  """x_sigma = x / sigma_in + sigma eps, whose log-SNR is -2 ln(sigma sigma_in): EDM's, shifted."""
  process, sigma = input_scaled(4.0), np.geomspace(0.002, 80, 9)
  logsnr = -2 * np.log(4 * sigma)
  np.testing.assert_allclose(process.sigma(logsnr), sigma, rtol=2e-6)
  np.testing.assert_array_equal(process.alpha(logsnr), 0.25)


@every_process
def test_diffuse_is_alpha_x_plus_sigma_eps_per_example(process, exact):
  x, eps = np.random.default_rng(1).normal(size=(2, 5, 5, 5)).astype(np.float32)
  logsnr = np.array([-20, -3, 0, 3, 20.0])
  alpha, sigma = (c[:, None, None] for c in exact(logsnr))
  z = diffuse(process, x, eps, logsnr)
  np.testing.assert_allclose(z, alpha * x + sigma * eps, rtol=1e-5, atol=1e-5 * float(np.max(alpha)))


@every_process
def test_predict_eps_from_x_is_the_inverse_of_diffuse(process, exact):
  x, eps = np.random.default_rng(2).normal(size=(2, 4, 3, 4)).astype(np.float32)
  logsnr = np.array([-20, -4, 0, 6.0])
  np.testing.assert_allclose(predict_eps_from_x(process, diffuse(process, x, eps, logsnr), x, logsnr), eps, atol=2e-5)


def bayes(z_t, x, alpha_t, sigma_t, alpha_s, sigma_s):
  """q(z_s | z_t, x) as the product of the Gaussians q(z_s | x) and q(z_t | z_s), read as a function of z_s."""
  ratio = alpha_t / alpha_s
  transition = sigma_t**2 - ratio**2 * sigma_s**2
  precision = 1 / sigma_s**2 + ratio**2 / transition
  mean = (alpha_s * x / sigma_s**2 + ratio * z_t / transition) / precision
  return mean, precision**-0.5, transition**0.5


@every_process
def test_posterior_is_bayes_rule(process, exact):
  logsnr_t, logsnr_s = PAIRS.T
  z_t, x = np.random.default_rng(3).normal(size=(2, len(PAIRS))).astype(np.float32)
  alpha_t, sigma_t = exact(logsnr_t)
  alpha_s, sigma_s = exact(logsnr_s)
  z_t = (z_t * np.sqrt(alpha_t**2 + sigma_t**2)).astype(np.float32)
  mean, std_min, std_max = bayes(z_t.astype(np.float64), x, alpha_t, sigma_t, alpha_s, sigma_s)
  ours = posterior(process, z_t, x, logsnr_t, logsnr_s)
  scale = np.sqrt(alpha_s**2 + sigma_s**2)
  np.testing.assert_allclose(ours.mean / scale, mean / scale, atol=1e-5)
  np.testing.assert_allclose(ours.std_min, std_min, rtol=1e-5)
  np.testing.assert_allclose(ours.std_max, std_max, rtol=1e-5)


@every_process
def test_two_transitions_make_the_marginal(process, exact):
  """q(z_t|z_s) q(z_s|x) integrates over z_s to q(z_t|x), and q(z_s|z_t,x) q(z_t|x) over z_t to q(z_s|x)."""
  logsnr_t, logsnr_s = PAIRS.T
  alpha_t, sigma_t = exact(logsnr_t)
  alpha_s, sigma_s = exact(logsnr_s)
  zero, one = np.zeros(len(PAIRS), np.float32), np.ones(len(PAIRS), np.float32)
  gain, std_min, std_max = (np.asarray(a, np.float64) for a in posterior(process, one, zero, logsnr_t, logsnr_s))
  np.testing.assert_allclose((alpha_t / alpha_s * sigma_s) ** 2 + std_max**2, sigma_t**2, rtol=1e-5)
  np.testing.assert_allclose((gain * sigma_t) ** 2 + std_min**2, sigma_s**2, rtol=1e-5)
  mean = posterior(process, alpha_t.astype(np.float32), one, logsnr_t, logsnr_s).mean
  np.testing.assert_allclose(mean, alpha_s, rtol=1e-5)


@every_process
@pytest.mark.parametrize('logsnr', [-20.0, 0.0, 5.0])
def test_posterior_of_a_tiny_gap_keeps_its_digits(process, exact, logsnr):
  """The standard deviations go as the square root of the gap, which `1 - exp(gap)` in float32 would round away."""
  logsnr_s = np.float32(logsnr)
  logsnr_t = np.nextafter(logsnr_s, np.float32(-21)) if logsnr else np.float32(-1e-7)
  gap = float(logsnr_s) - float(logsnr_t)
  ours = posterior(process, np.ones(1, np.float32), np.ones(1, np.float32), logsnr_t, logsnr_s)
  sigma = float(exact(np.float64(logsnr))[1])
  np.testing.assert_allclose(ours.std_min, sigma * np.sqrt(gap), rtol=1e-5)
  np.testing.assert_allclose(ours.std_max, sigma * np.sqrt(gap), rtol=1e-5)
  np.testing.assert_allclose(ours.mean, 1, rtol=1e-5)


@every_process
def test_posterior_of_no_gap_is_z_itself(process, exact):
  z, x = np.random.default_rng(4).normal(size=(2, 3, 2)).astype(np.float32)
  logsnr = np.array([-20, 0, 20.0])
  ours = posterior(process, z, x, logsnr, logsnr)
  np.testing.assert_array_equal(ours.mean, z)
  np.testing.assert_array_equal(ours.std_min, 0)
  np.testing.assert_array_equal(ours.std_max, 0)


@pytest.mark.parametrize('shape', [(3,), (3, 3), (3, 2, 4, 4, 3)])
def test_expand_dims_like_scales_example_by_example(shape):
  """Also where the last axis is as long as the batch, along which numpy would broadcast silently."""
  scale, x = np.array([2.0, 3.0, 5.0], np.float32), np.random.default_rng(5).normal(size=shape).astype(np.float32)
  np.testing.assert_array_equal(expand_dims_like(scale, x) * x, jax.vmap(jnp.multiply)(scale, x))
  np.testing.assert_array_equal(expand_dims_like(2.0, x) * x, 2 * x)


def test_unit_noise_of_a_key_per_example_is_free_of_the_batch():
  keys = jax.random.split(jax.random.key(0), 5)
  noise = unit_noise(keys, (5, 40, 50))
  np.testing.assert_array_equal(unit_noise(keys[::-1], (5, 40, 50)), noise[::-1])
  np.testing.assert_allclose(np.cov(np.reshape(noise, (5, -1))), np.eye(5), atol=0.1)
  one = unit_noise(keys[0], (5, 40, 50))
  np.testing.assert_allclose(np.cov(np.reshape(one, (5, -1))), np.eye(5), atol=0.1)
  np.testing.assert_array_equal(unit_noise(jax.random.key_data(keys), (5, 40, 50)), noise)
  np.testing.assert_array_equal(unit_noise(jax.random.key_data(keys[0]), (5, 40, 50)), one)


def test_folded_keys_are_new_keys():
  """The same for a batch of keys as one by one, and for old-style keys."""
  keys = jax.random.split(jax.random.key(0), 3)
  branches = [fold_in(keys, i) for i in (0, 1)]
  data = np.concatenate([jax.random.key_data(k) for k in (keys, *branches)])
  assert len(np.unique(data, axis=0)) == 9
  for i, key in enumerate(keys):
    assert fold_in(key, 1) == branches[1][i]
  assert np.all(fold_in(jax.random.key_data(keys), 1) == branches[1])
  assert fold_in(jax.random.key_data(keys[0]), 1) == branches[1][0]


@pytest.mark.parametrize('sigma_in', [0, -4.0, float('nan')])
def test_scaled_refuses_what_is_not_positive(sigma_in):
  with pytest.raises(ValueError, match=f'^sigma_in={sigma_in} '):
    input_scaled(sigma_in)
