"""Each step against its closed form: linear maps, noise gains, variances, orders, and loops in float64."""

from __future__ import annotations

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closed_forms import (
  GAUSSIAN,
  MIXTURE,
  PROCESSES,
  Gaussian,
  compiled,
  even_normals,
  exact,
  probability_flow,
  states,
)

from vdm_jax.diffusion import cosine_grid, cosine_levels, expand_dims_like, input_scaled, karras_grid
from vdm_jax.rng import StepStream, fold_in
from vdm_jax.sampling import (
  advance,
  ancestral,
  begin,
  ddim,
  dpm_solver,
  heun,
  langevin_corrected,
  memoryless,
  redraw,
  replacement,
  sample,
)

MANY = 2**16


def in_two(step):
  """A step made of two steps, so that a multistep method has a memory in the second."""

  @memoryless
  def both(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
    middle = 0.3 * logsnr_t + 0.7 * logsnr_s
    inputs = (denoiser, z_t, logsnr_t, middle, rng, cond, carry, step.init(z_t))
    z, carry, memory = step.update(*inputs)
    return step.update(denoiser, z, middle, logsnr_s, rng, cond, carry, memory)[:2]

  return both


SINGLE_STEPS = {
  'ancestral': ancestral,
  'ancestral-0.1': lambda process: ancestral(process, 0.1),
  'ddim': ddim,
  'heun': heun,
  'heun-churn': lambda process: heun(process, 0.2),
  'dpm_solver': lambda process: in_two(dpm_solver(process)),
  'langevin': lambda process: langevin_corrected(ancestral(process), process),
  'redraw': lambda process: redraw(ddim(process), process, np.float32(0.5), np.array([[True, False]])),
}
every_process = pytest.mark.parametrize('process', PROCESSES.values(), ids=PROCESSES)


def at(process, logsnr):
  """alpha and sigma in float64, shaped `[b 1]` for levels `[b]`."""
  return tuple(np.asarray(f(logsnr), np.float64)[..., None] for f in process)


@memoryless
def stay(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
  """A step that leaves z alone, to test what is done around it."""
  return z_t, carry


def constant(z, logsnr, cond, carry):
  """A denoiser that always returns its condition, a number."""
  return cond + 0 * z, carry


def normals(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Every step


@pytest.mark.parametrize('name', [name for name in SINGLE_STEPS if name != 'ancestral-0.1'])
def test_steps_are_the_same_in_every_process(name):
  """z / alpha at equal log-SNR follows the same law, with the same noise, whatever the process.

  Not so for gamma > 0: VDM's upper bound, the standard deviation of q(z_t|z_s), changes with the scale of z_t.
  """
  t, s = np.array([-5.0, -1.0, 0.5, 4.0]), np.array([-4.0, 0.5, 1.0, 6.0])
  results = []
  for process in PROCESSES.values():
    step = compiled(SINGLE_STEPS[name](process), exact(MIXTURE, process))
    (alpha_t, _), (alpha_s, _) = at(process, t), at(process, s)
    results.append(step(alpha_t * np.exp(-t / 2)[:, None] * normals(4, 2), t, s) / alpha_s)
  np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(results[2], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', SINGLE_STEPS)
def test_each_example_has_its_own_level(name):
  process = PROCESSES['scaled-4']
  step = compiled(SINGLE_STEPS[name](process), exact(MIXTURE, process))
  t, s, z = np.array([-5.0, -1.0, 0.5]), np.array([-4.0, 0.5, 4.0]), normals(3, 2)
  alone = [step(z, t[i], s[i])[i] for i in range(3)]
  np.testing.assert_allclose(step(z, t, s), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['ancestral-0.1', 'heun-churn', 'langevin', 'redraw'])
def test_a_key_per_example_frees_it_from_its_batch(name):
  """The noise goes with the key, and is new for each element."""
  process, order = PROCESSES['preserving'], np.array([2, 0, 1])
  step = compiled(SINGLE_STEPS[name](process), exact(GAUSSIAN, process))
  keys, z = jax.random.split(jax.random.key(2), 3), normals(3, 2)
  whole = step(z, -1.0, 1.0, keys)
  np.testing.assert_allclose(whole[order], step(z[order], -1.0, 1.0, keys[order]), rtol=1e-6)
  assert len(np.unique(step(0 * z, -1.0, 1.0, keys))) == (4 if name == 'redraw' else 6)


@pytest.mark.parametrize('process', [PROCESSES['preserving'], PROCESSES['scaled-4']], ids=['preserving', 'scaled-4'])
@pytest.mark.parametrize('name', ['ancestral', 'ancestral-0.1', 'ddim', 'langevin'])
def test_denoising_is_the_limit_of_a_step_to_no_noise(process, name):
  """So the sampler's last evaluation takes the place of a last step (gamma = 1 alone keeps its noise)."""
  z = at(process, -2.0)[1] * normals(16, 1)
  x = compiled(SINGLE_STEPS[name](process), exact(MIXTURE, process))(z, -2.0, 80.0) / at(process, 80.0)[0]
  np.testing.assert_allclose(x, MIXTURE.estimate(z, *at(process, -2.0)), atol=1e-5)


def test_denoising_is_edms_last_euler_step():
  """EDM's Algorithm 1 from sigma to 0 along d = (y - D) / sigma."""
  y, sigma = np.array([0.7, -2.0, 0.1]), 0.05
  d = (y - GAUSSIAN.estimate(y, 1.0, sigma)) / sigma
  logsnrs = -2 * np.log(np.array([0.06, sigma]))
  ours = sample(exact(GAUSSIAN, PROCESSES['scaled-1']), stay, logsnrs, y[:, None], jax.random.key(0), None)
  np.testing.assert_allclose(ours[:, 0], y + (0 - sigma) * d, rtol=1e-5)


# ancestral


# Levels now and next: both ends, narrow and wide.
T, S = np.array([(-20.0, -17.0), (-3.0, -2.5), (-0.5, 0.5), (2.0, 8.0), (19.0, 20.0)]).T


@every_process
def test_ancestral_mean_and_lower_variance(process):
  """VDM Eq. 3: with x_hat fixed, z_s is q(z_s | z_t, x_hat)'s mean plus its standard deviation times unit noise."""
  step = compiled(ancestral(process), constant)
  (alpha_t, _), (alpha_s, sigma_s) = at(process, T), at(process, S)
  keep = np.exp(T - S)[:, None]
  zero = np.zeros((5, MANY))
  noise = step(zero, T, S, cond=0.0)
  unit = noise / (sigma_s * np.sqrt(1 - keep))
  for moment, wanted in ((1, 0), (2, 1), (3, 0), (4, 3)):
    np.testing.assert_allclose((unit**moment).mean(1), wanted, atol=0.02 * moment)
  np.testing.assert_allclose(np.corrcoef(unit), np.eye(5), atol=0.02)
  moved = step(zero + 1.7 * alpha_t, T, S, cond=0.4) - noise
  scale = alpha_s + sigma_s
  wanted = (keep * 1.7 + (1 - keep) * 0.4) * alpha_s / scale
  np.testing.assert_allclose(moved[:, :9] / scale, np.broadcast_to(wanted, (5, 9)), atol=1e-5)


@every_process
@pytest.mark.parametrize('gamma', [0.1, 0.3, 1.0])
def test_ancestral_variance_lies_between_its_bounds(process, gamma):
  """VDM Eq. 4: log-variance at gamma between q(z_s|z_t,x)'s and q(z_t|z_s)'s, whose ratio is (sigma_t / sigma_s)^2."""
  lower, ours = (compiled(ancestral(process, g), constant)(np.zeros((5, 8)), T, S, cond=0.0) for g in (0.0, gamma))
  ratio = at(process, T)[1] / at(process, S)[1]
  np.testing.assert_allclose(ours / lower, np.broadcast_to(ratio**gamma, (5, 8)), rtol=1e-4)


# ddim and heun


@every_process
def test_ddim_is_its_formula(process):
  """z_s = alpha_s x_hat + sigma_s (z_t - alpha_t x_hat) / sigma_t, and no noise."""
  (alpha_t, sigma_t), (alpha_s, sigma_s) = at(process, -1.5), at(process, 0.7)
  z = normals(16, 1).astype(np.float64)
  x_hat = MIXTURE.estimate(z, alpha_t, sigma_t)
  ours = compiled(ddim(process), exact(MIXTURE, process))(z, -1.5, 0.7)
  np.testing.assert_allclose(ours, alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t, rtol=1e-4, atol=1e-5)


def errors_of_ode(step, process, data, grids):
  """Root mean square errors of y = z / alpha at the end of each grid against the exact solution of the ODE."""
  denoiser, longest = exact(data, process), max(map(len, grids))

  @jax.jit
  def run(grid, z, stop):
    return advance(denoiser, step, grid, begin(denoiser, step, grid, z, None), jax.random.key(0), None, 0, stop).z

  errors = []
  for grid in map(np.asarray, grids):
    (alpha_0, sigma_0), (alpha_1, _) = at(process, grid[0]), at(process, grid[-1])
    z = (sigma_0 * even_normals(64)).astype(np.float32)
    padded = np.pad(grid, (0, longest - len(grid)), mode='edge')  # one program serves all grids
    y = np.asarray(run(padded, z[:, None], len(grid) - 1), np.float64)[:, 0] / alpha_1
    first, last = np.exp(-0.5 * grid[[0, -1]].astype(np.float64))
    errors.append(np.sqrt(np.mean((y - probability_flow(data, z / alpha_0, first, last)) ** 2)))
  return np.array(errors)


ORDERS = {
  'ddim': (ddim, 1, 0.1),
  'heun': (heun, 2, 0.15),
  'dpm_solver': (dpm_solver, 2, 0.2),
  'dpm_solver-bounded': (lambda process: dpm_solver(process, max_ratio=1.0), 2, 0.15),
}
# The ends of the full cosine grid are far from their limit at any number of steps that float32 can tell apart.
GRIDS = {
  'karras': lambda num_points: karras_grid(num_points, sigma_min=0.002, sigma_max=80.0),
  'cosine': lambda num_points: cosine_grid(num_points, logsnr_min=-4.0, logsnr_max=4.0),
}


@pytest.mark.parametrize('process', ['preserving', 'scaled-4'])
@pytest.mark.parametrize('data', [GAUSSIAN, MIXTURE], ids=['gaussian', 'mixture'])
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('name', ORDERS)
def test_order_of_convergence(name, grid, data, process):
  make, order, tolerance = ORDERS[name]
  intervals = np.array([32, 64, 128, 256])
  grids = [GRIDS[grid](n + 1) for n in intervals]
  errors = errors_of_ode(make(PROCESSES[process]), PROCESSES[process], data, grids)
  slope = np.polyfit(np.log(1 / intervals), np.log(errors), 1)[0]
  assert abs(slope - order) < tolerance, (slope, errors)


@pytest.mark.parametrize('sigma_in', [1.0, 4.0, 32.0])
def test_heun_is_snaps_sampler(sigma_in):
  """Snap section 3.2 in float64: y of x / sigma_in + sigma eps, D divided by sigma_in, the result times sigma_in.

  The last Euler step to sigma = 0 gives D / sigma_in, so that what comes out is D, without another factor.
  """
  process, n = input_scaled(sigma_in), 16
  sigmas = np.append((80 ** (1 / 7) + np.arange(n) / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0)
  noise = even_normals(64)[:, None]

  def slope(y, sigma):
    return (y - MIXTURE.estimate(y, 1 / sigma_in, sigma) / sigma_in) / sigma

  y = 80 * noise.astype(np.float64)
  for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
    d = slope(y, now)
    ahead = y + (after - now) * d
    y = y + (after - now) * (d + slope(ahead, after)) / 2 if after else ahead

  grid = karras_grid(n, sigma_min=0.002, sigma_max=80.0, sigma_in=sigma_in)
  run = jax.jit(lambda z: sample(exact(MIXTURE, process), heun(process), grid, z, jax.random.key(0), None))
  np.testing.assert_allclose(run(80 * noise), sigma_in * y, rtol=1e-5, atol=2e-5)


@every_process
@pytest.mark.parametrize('churn, churn_noise', [(0.1, 1.0), (2**0.5 - 1, 1.2)])
def test_churn_is_edms_algorithm_2(process, churn, churn_noise):
  """The step's noise can be read off where the denoiser returns 0: Heun then only scales y by sigma_s / sigma_hat."""
  sigma_t, sigma_s = np.exp(0.5), np.exp(-0.2)
  sigma_hat = sigma_t + churn * sigma_t
  (alpha_t, _), (alpha_s, _) = at(process, -1.0), at(process, 0.4)

  def denoiser(z, logsnr, cond, carry):
    return cond * exact(MIXTURE, process)(z, logsnr, None, carry)[0], carry

  step = compiled(heun(process, churn, churn_noise), denoiser)
  raised = step(np.zeros((MANY, 1)), -1.0, 0.4, cond=0.0) / alpha_s * sigma_hat / sigma_s
  eps = raised / (churn_noise * np.sqrt(sigma_hat**2 - sigma_t**2))
  np.testing.assert_allclose([eps.mean(), eps.std()], [0, 1], atol=0.01)

  x = np.random.default_rng(4).normal(size=(MANY, 1))
  y_hat = x + churn_noise * np.sqrt(sigma_hat**2 - sigma_t**2) * eps
  d = (y_hat - MIXTURE.estimate(y_hat, 1.0, sigma_hat)) / sigma_hat
  ahead = y_hat + (sigma_s - sigma_hat) * d
  d_ahead = (ahead - MIXTURE.estimate(ahead, 1.0, sigma_s)) / sigma_s
  y = y_hat + (sigma_s - sigma_hat) * (d + d_ahead) / 2
  np.testing.assert_allclose(step(alpha_t * x, -1.0, 0.4, cond=1.0) / alpha_s, y, rtol=1e-4, atol=1e-4)


@every_process
def test_churn_keeps_to_its_range(process):
  """Outside of S_tmin to S_tmax a churned step is the deterministic one; at the bounds it is churned."""
  noise = np.exp(0.5)
  plain = compiled(heun(process), exact(MIXTURE, process))
  z = normals(8, 1)
  for low, high, churned in ((0.5, noise * 0.99, False), (noise * 1.01, 9.0, False), (0.5, 9.0, True)):
    step = compiled(heun(process, 0.2, churn_range=(low, high)), exact(MIXTURE, process))
    difference = np.abs(step(z, -1.0, 0.4) - plain(z, -1.0, 0.4)).max()
    assert (difference > 1e-2) == churned and (churned or difference < 1e-6)


@pytest.mark.parametrize('make', [ddim, heun, dpm_solver])
def test_deterministic_steps_draw_nothing(make):
  step = compiled(make(PROCESSES['preserving']), exact(MIXTURE, PROCESSES['preserving']))
  one, other = (step(normals(4, 1), 0.0, 1.0, jax.random.key(k)) for k in (0, 1))
  np.testing.assert_array_equal(one, other)


# dpm_solver


def solver_in_float64(process, estimate, logsnrs, z, max_ratio):
  """DPM-Solver++(2M) as in Algorithm 2 of Lu et al. 2022b, in the half-log-SNR, without the last evaluation."""
  half, previous = np.asarray(logsnrs, np.float64) / 2, None
  for i in range(len(half) - 1):
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at(process, 2 * half[i]), at(process, 2 * half[i + 1])
    x_hat, h = estimate(z, alpha_t, sigma_t), half[i + 1] - half[i]
    d = x_hat
    if previous is not None:
      r = max((half[i] - half[i - 1]) / h, 1 / max_ratio)
      d = (1 + 1 / (2 * r)) * x_hat - 1 / (2 * r) * previous
    z = sigma_s / sigma_t * z - alpha_s * np.expm1(-h) * d
    previous = x_hat
  return z


@every_process
@pytest.mark.parametrize('max_ratio', [0.5, 1.0, 2.0, math.inf])
def test_dpm_solver_is_its_algorithm(process, max_ratio):
  """On a grid whose steps narrow and widen: ratios from 0.1 to 11."""
  grid = cosine_grid(8, logsnr_min=-16.0, logsnr_max=20.0)
  z = (at(process, grid[0])[1] * even_normals(16)[:, None]).astype(np.float32)
  step = dpm_solver(process, max_ratio=max_ratio)
  every = jax.jit(lambda z: states(exact(MIXTURE, process), step, grid, z, jax.random.key(0)))(z)
  for stop in range(1, 9):
    wanted = solver_in_float64(process, MIXTURE.estimate, grid[:stop], z.astype(np.float64), max_ratio)
    np.testing.assert_allclose(every[stop - 1], wanted, rtol=1e-3, atol=1e-4)


def moments(process, logsnr):
  return at(process, logsnr)[0].item(), at(process, logsnr)[1].item()


@every_process
def test_a_first_step_of_dpm_solver_is_a_ddim_step(process):
  """Also where the memory is of no use: not finite, of no width, or of a higher level."""
  denoiser, step = exact(MIXTURE, process), dpm_solver(process)
  z, t, s = jnp.asarray(normals(4, 2)), jnp.full(4, -1.0), jnp.full(4, 1.0)
  rest = (jax.random.key(0), None, None)
  wanted = ddim(process).update(denoiser, z, t, s, *rest, None)[0]
  _, _, memory = step.update(denoiser, z, t, s, *rest, step.init(z))
  useless = [step.init(z), memory, *(memory._replace(logsnr=jnp.full(4, level)) for level in (jnp.nan, jnp.inf, 3.0))]
  useless.append(step.init(z)._replace(x_hat=jnp.full_like(z, jnp.nan)))
  for memory in useless:
    np.testing.assert_array_equal(step.update(denoiser, z, t, s, *rest, memory)[0], wanted)


@every_process
def test_dpm_solver_is_exact_for_a_constant_estimate(process):
  """z / sigma grows by x_hat times the growth of alpha / sigma, whatever the steps."""
  grid = cosine_grid(6)
  z = np.float32(at(process, grid[0])[1]) * normals(4, 2)
  found = jax.jit(lambda z: states(constant, dpm_solver(process), grid, z, jax.random.key(0), 0.7))(z)[-1]
  (alpha_0, sigma_0), (alpha_1, sigma_1) = at(process, grid[0]), at(process, grid[-1])
  wanted = sigma_1 * (z / sigma_0 + 0.7 * (alpha_1 / sigma_1 - alpha_0 / sigma_0))
  np.testing.assert_allclose(found / alpha_1, wanted / alpha_1, rtol=1e-5)


@every_process
def test_dpm_solver_holds_a_linear_estimate_at_its_value_in_the_middle_of_the_step(process):
  """x_hat = a + b logsnr: the integral over a step of width 2h is off by alpha_s b (h - 2 + (h + 2) e^-h), h^3 / 6."""
  a, b, grid = 0.3, 0.2, np.array([-3.0, -1.0, 0.2, 1.4, 2.0], np.float32)  # steps that do not widen

  def linear(z, logsnr, cond, carry):
    return expand_dims_like(a + b * logsnr, z) + 0 * z, carry

  every = np.asarray(
    states(linear, dpm_solver(process), grid, jnp.asarray(normals(3, 1)), jax.random.key(0)), np.float64
  )
  for i in range(1, 4):
    (_, sigma_t), (alpha_s, sigma_s) = at(process, grid[i]), at(process, grid[i + 1])
    h = (np.float64(grid[i + 1]) - grid[i]) / 2
    middle = a + b * (grid[i] + grid[i + 1]) / 2
    step = sigma_s / sigma_t * every[i] - alpha_s * np.expm1(-h) * middle
    np.testing.assert_allclose(every[i + 1], step, rtol=1e-5, atol=1e-6)
    integral = -np.expm1(-h) * (a + b * grid[i]) + 2 * b * (h + np.expm1(-h))
    off = sigma_s / sigma_t * every[i] + alpha_s * integral - every[i + 1]
    np.testing.assert_allclose(off, np.broadcast_to(alpha_s * b * (h - 2 + (h + 2) * np.exp(-h)), off.shape), atol=1e-6)


@pytest.mark.parametrize('count', [4, 8, 32])
def test_ddim_on_cosine_levels_has_its_closed_form(count):
  """For unit normal data the state turns by pi / (2 N) at each of N evaluations: its norm becomes cos(pi / (2 N))^N."""
  data, process, z = Gaussian(0.0, 1.0), PROCESSES['preserving'], even_normals(8)[:, None].astype(np.float32)
  for grid, turns in ((cosine_levels(count), count), (cosine_grid(count), count - 1)):
    x = np.asarray(sample(exact(data, process), ddim(process), grid, z, jax.random.key(0), None))
    np.testing.assert_allclose(x, np.cos(np.pi / 2 / turns) ** turns * z, rtol=0, atol=5e-4)


@pytest.mark.parametrize('data', [GAUSSIAN, MIXTURE], ids=['gaussian', 'mixture'])
def test_dpm_solver_is_accurate_on_the_cosine_grid_that_users_run(data):
  """The last step of a grid with both ends is many times as wide as the one before: there its ratio must be bounded."""
  process, counts = PROCESSES['preserving'], (8, 16, 32)
  bounded = dpm_solver(process, max_ratio=1.0)
  first_order, ours = (
    errors_of_ode(step, process, data, [cosine_levels(n) for n in counts])
    for step in (ddim(process), dpm_solver(process))
  )
  assert (ours < 0.8 * first_order).all() and ours[-1] < 0.3 * first_order[-1]
  both_ends = [cosine_grid(n) for n in counts]
  first_order, ours, unbounded = (
    errors_of_ode(step, process, data, both_ends) for step in (ddim(process), bounded, dpm_solver(process))
  )
  assert (ours < 0.8 * first_order).all() and (unbounded > 2 * first_order).all()


# langevin_corrected


@every_process
@pytest.mark.parametrize('delta', [0.1, 0.4])
def test_langevin_has_the_variance_recursion_of_its_score(process, delta):
  """V -> V (1 - delta sigma^2 / (2 M))^2 + delta sigma^2, with M = alpha^2 std^2 + sigma^2 the marginal variance."""
  levels = np.array([-3.0, 0.0, 4.0])
  alpha, sigma = at(process, levels)
  marginal = alpha**2 * GAUSSIAN.std**2 + sigma**2
  step = compiled(langevin_corrected(stay, process, delta), exact(GAUSSIAN, process))
  middle = np.repeat(alpha * GAUSSIAN.mean, MANY, 1)
  noise, moved = (step(z, -20.0, levels) for z in (middle, middle + sigma))
  gain = 1 - delta * sigma**2 / (2 * marginal)
  np.testing.assert_allclose((moved - noise)[:, :9] / sigma, np.repeat(gain, 9, 1), atol=2e-5)
  unit = (noise - middle) / (np.sqrt(delta) * sigma)
  np.testing.assert_allclose([unit.mean(1), unit.std(1)], [[0, 0, 0], [1, 1, 1]], atol=0.012)
  kept = marginal * gain**2 + delta * sigma**2
  np.testing.assert_allclose(kept, marginal + delta**2 * sigma**4 / (4 * marginal), rtol=1e-10)


def test_langevin_noise_is_not_the_steps():
  """Equal keys would add the standard deviations instead of the variances."""
  process = PROCESSES['scaled-1']
  step = compiled(langevin_corrected(ancestral(process), process, 0.4), constant)
  of_step = -np.expm1(-1.0)
  wanted = of_step * (1 - 0.4 / 2) ** 2 + 0.4
  np.testing.assert_allclose(step(np.zeros((MANY, 1)), -1.0, 0.0, cond=0.0).var(), wanted, rtol=0.02)


def test_memory_of_a_corrected_step_holds_estimates_from_before_the_correction():
  """The solver's next step compares x_hat at the corrected z with x_hat at the z that its last step started from."""
  process, seen = PROCESSES['preserving'], []

  def denoiser(z, logsnr, cond, carry):
    x_hat = exact(MIXTURE, process)(z, logsnr, cond, carry)[0]
    seen.append((z, x_hat))
    return x_hat, carry

  inner, grid, key = dpm_solver(process), [jnp.full(4, level) for level in (-2.0, -1.0, 0.0)], jax.random.key(1)
  step = langevin_corrected(inner, process, 0.3)
  z = jnp.asarray(normals(4, 2))
  z_1, _, memory = step.update(denoiser, z, *grid[:2], key, None, None, step.init(z))
  np.testing.assert_array_equal(memory.x_hat, seen[0][1])
  np.testing.assert_array_equal(memory.logsnr, grid[0])
  step.update(denoiser, z_1, *grid[1:], key, None, None, memory)
  wanted = inner.update(denoiser, z_1, *grid[1:], key, None, None, memory)[0]
  np.testing.assert_array_equal(seen[3][0], wanted)  # where the second correction evaluates
  assert np.abs(seen[2][0] - seen[1][0]).max() > 0.1  # the first correction moved z


def test_small_corrections_leave_a_multistep_method_as_it_is():
  """The correction's own change of x_hat vanishes with delta, and the method's law with it."""
  process, grid = PROCESSES['preserving'], karras_grid(33, sigma_min=0.01, sigma_max=20.0)
  z = (float(process.sigma(grid[0])) * even_normals(64)[:, None]).astype(np.float32)

  def run(step):
    return np.asarray(jax.jit(lambda z: sample(exact(MIXTURE, process), step, grid, z, jax.random.key(0), None))(z))

  plain = run(dpm_solver(process))
  distances = [
    np.abs(run(langevin_corrected(dpm_solver(process), process, d)) - plain).mean() for d in (1e-6, 1e-4, 1e-2)
  ]
  assert distances[0] < 1e-2 and distances[0] < 0.5 * distances[1] < 0.25 * distances[2]


@pytest.mark.parametrize('delta', [0.1, 0.4])
def test_a_corrected_multistep_method_converges(delta):
  """For Gaussian data all is linear, so the exact variance is carried along in float64; it tends to the data's."""
  process, v = PROCESSES['preserving'], GAUSSIAN.std**2

  def variance(num_points):
    """The variance of samples over the data's: of (z, x_hat of the step before), level by level."""
    grid = np.asarray(karras_grid(num_points, sigma_min=0.002, sigma_max=80.0), np.float64)
    levels = [moments(process, level) for level in grid]
    gains = [alpha * v / (alpha**2 * v + sigma**2) for alpha, sigma in levels]
    c = np.diag([levels[0][1] ** 2, 0.0])
    for i, ((_, sigma_t), (alpha_s, sigma_s)) in enumerate(itertools.pairwise(levels)):
      h = (grid[i + 1] - grid[i]) / 2
      half = 0.5 * min(2 * h / (grid[i] - grid[i - 1]), 1.0) if i else 0.0
      take = -alpha_s * np.expm1(-h)
      step = np.array([[sigma_s / sigma_t + take * (1 + half) * gains[i], -take * half], [gains[i], 0.0]])
      correction = np.diag([1 - delta / 2 * (1 - alpha_s * gains[i + 1]), 1.0])
      c = correction @ step @ c @ step.T @ correction + np.diag([delta * sigma_s**2, 0.0])
    return gains[-1] ** 2 * c[0, 0] / v

  step, grid = langevin_corrected(dpm_solver(process), process, delta), karras_grid(33, sigma_min=0.002, sigma_max=80.0)
  z = float(process.sigma(grid[0])) * even_normals(MANY)[:, None]
  x = jax.jit(lambda z: sample(exact(GAUSSIAN, process), step, grid, z, jax.random.key(0), None))(z)
  np.testing.assert_allclose(x.var() / v, variance(33), rtol=0.03)
  errors = [abs(variance(n) - 1) for n in (33, 129, 513, 2049)]
  assert all(after < 0.65 * before for before, after in itertools.pairwise(errors)) and errors[-1] < 0.01


# replacement and redraw


def observed_part(step, denoiser, process, grid, x):
  """Standard deviation of z around alpha x over sigma, and its mean error over sigma, at every level."""
  z = float(process.alpha(grid[0])) * x + float(process.sigma(grid[0])) * even_normals(4096)[:, None]
  every = np.asarray(jax.jit(lambda z: states(denoiser, step, grid, z, jax.random.key(5)))(jnp.asarray(z, jnp.float32)))
  alpha, sigma = (np.asarray(expand_dims_like(f(grid), every)) for f in process)
  noise = (every - alpha * x) / sigma
  return noise.std((1, 2)), noise.mean((1, 2))


@pytest.mark.parametrize('name', ['preserving', 'scaled-4'])
@pytest.mark.parametrize('step', [ancestral, ddim, heun, dpm_solver])
def test_replacement_keeps_the_marginals_of_the_observed_part(step, name):
  """z^a ~ q(z_s^a | x^a) at every level, although only x_hat is overwritten."""
  process, x = PROCESSES[name], 0.7
  grid = karras_grid(33, sigma_min=0.002, sigma_max=80.0) if step is heun else cosine_grid(129)[16:-16]
  denoiser = replacement(exact(GAUSSIAN, process), np.float32(x), np.ones((1, 1), bool))
  std, mean = observed_part(step(process), denoiser, process, grid, x)
  np.testing.assert_allclose(std, 1, atol=0.05 if step is ancestral else 2e-3)
  np.testing.assert_allclose(mean, 0, atol=0.06 if step is ancestral else 2e-3)


@pytest.mark.parametrize('gamma', [0.1, 1.0])
def test_replacement_with_larger_variance_is_too_wide_and_redraw_is_not(gamma):
  process, x, grid = PROCESSES['preserving'], 0.7, cosine_grid(256)
  mask = np.ones((1, 1), bool)
  denoiser = replacement(exact(GAUSSIAN, process), np.float32(x), mask)
  std, _ = observed_part(ancestral(process, gamma), denoiser, process, grid, x)
  variance, levels = 1.0, np.asarray(grid, np.float64)
  sigma_2 = 1 / (1 + np.exp(levels))
  for i, left in enumerate(-np.expm1(levels[:-1] - levels[1:])):
    variance = (1 - left) * variance + left * (sigma_2[i] / sigma_2[i + 1]) ** gamma
  np.testing.assert_allclose(std[-1] ** 2, variance, rtol=0.1)
  assert variance > 2.5
  redrawn = redraw(ancestral(process, gamma), process, np.float32(x), mask)
  std, mean = observed_part(redrawn, exact(GAUSSIAN, process), process, grid, x)
  np.testing.assert_allclose(std[1:], 1, atol=0.05)
  np.testing.assert_allclose(mean[1:], 0, atol=0.07)


def test_redraw_leaves_the_rest_to_its_step():
  """Observed pixels do not read the step's result, and the others do not see the observation."""
  process, observed = PROCESSES['scaled-4'], np.array([[0.7, 99.0]], np.float32)
  redrawn = redraw(ddim(process), process, observed, np.array([[True, False]]))
  step, plain = (compiled(make, exact(GAUSSIAN, process)) for make in (redrawn, ddim(process)))
  z = np.full((8192, 2), 5.0)
  ours = step(z, -1.0, 6.0)
  np.testing.assert_array_equal(ours[:, 1], plain(z, -1.0, 6.0)[:, 1])
  np.testing.assert_array_equal(ours[:, 0], step(-z, -1.0, 6.0)[:, 0])
  alpha, sigma = at(process, 6.0)
  noise = (ours[:, 0] - alpha * 0.7) / sigma
  np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.04)


def test_redraw_keeps_the_memory_of_its_step():
  """The solver's estimates are those of its own evaluations, made with earlier draws of the observed part."""
  process, step = PROCESSES['preserving'], dpm_solver(PROCESSES['preserving'])
  redrawn = redraw(step, process, np.float32(0.5), np.array([[True, False]]))
  denoiser, z, key = exact(MIXTURE, process), jnp.asarray(normals(4, 2)), jax.random.key(1)
  t, s, e = (jnp.full(4, level) for level in (-2.0, -1.0, 0.0))
  z_1, _, memory = redrawn.update(denoiser, z, t, s, key, None, None, redrawn.init(z))
  np.testing.assert_array_equal(memory.x_hat, denoiser(z, t, None, None)[0])
  z_2, _, memory = redrawn.update(denoiser, z_1, s, e, key, None, None, memory)
  np.testing.assert_array_equal(memory.x_hat, denoiser(z_1, s, None, None)[0])
  inner = step.update(denoiser, z, t, s, fold_in(key, StepStream.INNER_STEP), None, None, step.init(z))[2]
  free = step.update(denoiser, z_1, s, e, fold_in(key, StepStream.INNER_STEP), None, None, inner)[0]
  np.testing.assert_array_equal(z_2[:, 1], free[:, 1])


@pytest.mark.parametrize('make', [ancestral, ddim, heun, dpm_solver])
def test_redrawn_parts_have_their_exact_marginals_under_every_step(make):
  process, x, grid = PROCESSES['preserving'], 0.7, karras_grid(17, sigma_min=0.002, sigma_max=80.0)
  step = redraw(make(process), process, np.float32(x), np.ones((1, 1), bool))
  std, mean = observed_part(step, exact(GAUSSIAN, process), process, grid, x)
  np.testing.assert_allclose(std[1:], 1, atol=0.05)
  np.testing.assert_allclose(mean[1:], 0, atol=0.07)


# Errors


@pytest.mark.parametrize(
  'make, value, setting',
  [
    (ancestral, -0.1, 'gamma=-0.1'),
    (ancestral, 1.5, 'gamma=1.5'),
    (heun, -0.1, 'churn=-0.1'),
    (heun, 0.5, 'churn=0.5'),
    (lambda process, ratio: dpm_solver(process, max_ratio=ratio), 0, 'max_ratio=0'),
    (lambda process, ratio: dpm_solver(process, max_ratio=ratio), math.nan, 'max_ratio=nan'),
    (lambda process, delta: langevin_corrected(ddim(process), process, delta), 0, 'delta=0'),
  ],
)
def test_settings_outside_their_range_are_refused(make, value, setting):
  with pytest.raises(ValueError, match=f'^{re.escape(setting)} '):
    make(PROCESSES['preserving'], value)
