"""Grids and samplers of log-SNR: closed forms in float64, both ends, and the distributions they claim."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import (
  cosine_grid,
  cosine_levels,
  cosine_logsnr,
  cosine_sampler,
  input_scaled,
  karras_grid,
  lognormal_sampler,
)

# The constants of the cosine schedule cut to [-20, 20]: lambda(u) = -2 log tan(A u + B).
A, B = 1.570705527, 4.53999297e-5


def cosine_64(u, logsnr_min=-20.0, logsnr_max=20.0):
  b = np.arctan(np.exp(-0.5 * logsnr_max))
  return -2 * np.log(np.tan((np.arctan(np.exp(-0.5 * logsnr_min)) - b) * u + b))


def position(logsnr):
  """The u of a log-SNR, in float64: the inverse of the cosine schedule."""
  low, high = (np.arctan(np.exp(-0.5 * end)) for end in (20.0, -20.0))
  return (np.arctan(np.exp(-0.5 * np.asarray(logsnr, np.float64))) - low) / (high - low)


def distance_from(cdf, samples):
  """The Kolmogorov-Smirnov statistic times sqrt(n): above 1.95 with probability 0.001."""
  samples = np.sort(np.asarray(samples, np.float64))
  n, value = len(samples), cdf(samples)
  steps = np.arange(n + 1) / n
  return math.sqrt(n) * max(np.max(steps[1:] - value), np.max(value - steps[:-1]))


def test_cosine_runs_from_20_through_0_to_minus_20():
  np.testing.assert_allclose(cosine_logsnr(jnp.array([0.0, 0.5, 1.0])), [20, 0, -20], atol=4e-6)


def test_cosine_has_the_constants_of_its_range():
  u = np.linspace(0, 1, 101)
  np.testing.assert_allclose(cosine_logsnr(u.astype(np.float32)), -2 * np.log(np.tan(A * u + B)), atol=1e-4)


def test_cosine_in_float32_is_accurate_at_both_ends():
  tail = np.geomspace(1e-7, 0.4, 60)
  u = np.concatenate([[0.0], tail, 1 - tail, [1.0]]).astype(np.float32)
  np.testing.assert_allclose(cosine_logsnr(u), cosine_64(u.astype(np.float64)), atol=1e-5)


def test_cosine_falls_and_does_not_jump_in_the_middle():
  u = np.linspace(0.49, 0.51, 201).astype(np.float32)
  slopes = np.diff(cosine_logsnr(u)) / np.diff(u)
  np.testing.assert_allclose(slopes, -4 * A, rtol=0.02)


@pytest.mark.parametrize('low, high', [(-9.0, 12.0), (-20.0, -1.0), (2.0, 20.0)])
def test_cosine_can_be_cut_to_any_range(low, high):
  u = np.linspace(0, 1, 33)
  ours = cosine_logsnr(u.astype(np.float32), logsnr_min=low, logsnr_max=high)
  np.testing.assert_allclose(ours, cosine_64(u, low, high), atol=2e-5)
  np.testing.assert_allclose(ours[jnp.array([0, -1])], [high, low], atol=1e-5)


def test_uniform_u_has_a_hyperbolic_density():
  """1 / |d lambda / du| = 1 / (4 a cosh(lambda / 2)), also through the derivative of the float32 code."""
  u = jnp.linspace(0.001, 0.999, 97)
  slope = jax.vmap(jax.grad(cosine_logsnr))(u)
  np.testing.assert_allclose(-1 / slope, 1 / (4 * A * np.cosh(np.asarray(cosine_logsnr(u)) / 2)), rtol=1e-4)


@pytest.mark.parametrize('stratified', [False, True])
def test_cosine_sampler_has_that_distribution(stratified):
  grid = np.linspace(-20, 20, 20001)
  density = 1 / (4 * A * np.cosh(grid / 2))
  cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
  np.testing.assert_allclose(cdf[-1], 1, atol=1e-6)
  samples = cosine_sampler(stratified=stratified)(jax.random.key(0), 20000)
  assert samples.dtype == jnp.float32
  assert distance_from(lambda logsnr: np.interp(logsnr, grid, cdf), samples) < 1.95


def test_stratified_batches_are_evenly_spaced():
  """One uniform draw moves the whole comb, so that the gaps are all 1 / n around the circle."""
  u = np.sort(position(cosine_sampler()(jax.random.key(1), 16)))
  np.testing.assert_allclose(np.diff(u, append=u[0] + 1), 1 / 16, atol=1e-5)
  loose = np.sort(position(cosine_sampler(stratified=False)(jax.random.key(1), 16)))
  assert np.ptp(np.diff(loose)) > 0.05


@pytest.mark.parametrize('place', [0, 3, 7])
def test_each_place_of_a_stratified_batch_is_uniform(place):
  keys = jax.random.split(jax.random.key(2), 4000)
  samples = jax.jit(jax.vmap(lambda key: cosine_sampler()(key, 8)[place]))(keys)
  assert distance_from(lambda u: u, position(samples)) < 1.95


def test_shift_moves_the_samples_inside_the_range():
  rng = jax.random.key(3)
  plain, shifted = (np.asarray(cosine_sampler(shift=shift)(rng, 512)) for shift in (0.0, -4.0))
  np.testing.assert_allclose(shifted, np.maximum(plain - 4, -20), atol=1e-5)
  raised = np.asarray(cosine_sampler(shift=4.0, logsnr_max=10.0)(rng, 512))
  assert raised.max() == 10


def test_cosine_grid_is_the_schedule_from_noise_to_data():
  grid = cosine_grid(256)
  assert grid.shape == (256,) and grid.dtype == jnp.float32
  assert grid[0] == -20 and grid[-1] == 20
  assert np.all(np.diff(grid) > 0)
  np.testing.assert_allclose(grid, cosine_64(np.linspace(1, 0, 256)), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(cosine_grid(2, logsnr_min=-9.0, logsnr_max=12.0), [-9, 12], rtol=1e-6)


def test_cosine_levels_are_the_authors_times_of_evaluation():
  """u = 1, (N - 1) / N, ..., 1 / N; one level is pure noise."""
  np.testing.assert_allclose(cosine_levels(8), cosine_64(np.arange(8, 0, -1) / 8), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(cosine_levels(1, logsnr_min=-9.0, logsnr_max=12.0), [-9], rtol=1e-6)
  with pytest.raises(ValueError, match='^num_levels=0 '):
    cosine_levels(0)


@pytest.mark.parametrize('sigma_in', [1.0, 4.0, 32.0])
@pytest.mark.parametrize('rho', [7.0, 1.0])
def test_karras_grid_is_its_formula(sigma_in, rho):
  """EDM Eq. 5 for the sigma of x / sigma_in + sigma eps, written as log-SNR."""
  n, top, bottom = 18, 80.0, 0.002
  i = np.arange(n)
  sigma = (top ** (1 / rho) + i / (n - 1) * (bottom ** (1 / rho) - top ** (1 / rho))) ** rho
  grid = karras_grid(n, sigma_min=bottom, sigma_max=top, rho=rho, sigma_in=sigma_in)
  assert grid.dtype == jnp.float32
  assert np.all(np.diff(grid) > 0)
  np.testing.assert_allclose(grid, -2 * np.log(sigma * sigma_in), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(input_scaled(sigma_in).sigma(grid), sigma, rtol=3e-6)


def test_karras_grid_moves_by_sigma_in():
  one, four = (karras_grid(9, sigma_min=0.002, sigma_max=80.0, sigma_in=s) for s in (1.0, 4.0))
  np.testing.assert_allclose(one - four, 2 * math.log(4), atol=2e-6)
  np.testing.assert_allclose(one[jnp.array([0, -1])], [-2 * math.log(80), -2 * math.log(0.002)], rtol=1e-6)


@pytest.mark.parametrize('sigma_in', [1.0, 4.0, 32.0])
def test_lognormal_sampler_draws_sigma_not_sigma_times_sigma_in(sigma_in):
  """The moments belong to sigma; the mean of log(sigma_in sigma) is 0.186 for 4 and 2.266 for 32."""
  logsnr = np.asarray(lognormal_sampler(sigma_in=sigma_in)(jax.random.key(4), 20000), np.float64)
  log_sigma = -logsnr / 2 - math.log(sigma_in)
  assert abs(log_sigma.mean() + 1.2) < 0.03
  assert abs(log_sigma.std() - 1.2) < 0.02
  erf = np.vectorize(math.erf)
  assert distance_from(lambda value: (1 + erf((value + 1.2) / (1.2 * math.sqrt(2)))) / 2, log_sigma) < 1.95
  np.testing.assert_allclose((-logsnr / 2).mean(), {1: -1.2, 4: 0.186, 32: 2.266}[sigma_in], atol=0.03)


def test_lognormal_sampler_takes_mean_and_std():
  rng = jax.random.key(5)
  base, other = (lognormal_sampler(mean=m, std=s)(rng, 64) for m, s in ((0.0, 1.0), (0.5, 2.0)))
  np.testing.assert_allclose(other, 2 * base - 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('grid', [cosine_grid, lambda n: karras_grid(n, sigma_min=0.002, sigma_max=80.0)])
@pytest.mark.parametrize('num_points', [1, 0])
def test_grids_refuse_less_than_both_ends(grid, num_points):
  with pytest.raises(ValueError, match=f'^num_points={num_points} '):
    grid(num_points)


@pytest.mark.parametrize(
  'sigma_min, sigma_max, rho, sigma_in',
  [(0.0, 80.0, 7.0, 1.0), (80.0, 0.002, 7.0, 1.0), (1.0, 1.0, 7.0, 1.0), (0.1, 1.0, 0.0, 1.0), (0.1, 1.0, 7.0, -4.0)],
)
def test_karras_grid_refuses_an_invalid_range(sigma_min, sigma_max, rho, sigma_in):
  message = f'^sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho}, sigma_in={sigma_in} '
  with pytest.raises(ValueError, match=message):
    karras_grid(8, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, sigma_in=sigma_in)


@pytest.mark.parametrize(
  'use',
  [
    lambda **ends: cosine_logsnr(0.5, **ends),
    lambda **ends: cosine_grid(8, **ends),
    lambda **ends: cosine_levels(8, **ends),
    lambda **ends: cosine_sampler(**ends),  # when it is made, not at its first draw
  ],
)
def test_cosine_refuses_an_empty_range(use):
  with pytest.raises(ValueError, match='^logsnr_min=3.0 .*logsnr_max=-3.0'):
    use(logsnr_min=3.0, logsnr_max=-3.0)
