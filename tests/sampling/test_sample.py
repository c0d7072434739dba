"""The whole sampler: every step reaches the data, evaluations are counted, and compiled loops equal plain ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closed_forms import (
  GAUSSIAN,
  MIXTURE,
  PROCESSES,
  Gaussian,
  JointGaussian,
  Mixture,
  even_normals,
  exact,
  optimized,
)

from vdm_jax.diffusion import cosine_grid, expand_dims_like, karras_grid
from vdm_jax.rng import fold_in
from vdm_jax.sampling import (
  State,
  Step,
  advance,
  ancestral,
  begin,
  classifier_free,
  clip,
  ddim,
  dpm_solver,
  finish,
  heun,
  langevin_corrected,
  memoryless,
  reconstruction,
  redraw,
  replacement,
  sample,
)
from vdm_jax.types import Conditioning

RNG = jax.random.key(0)
Z = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)

LAW_STEPS = {
  'ancestral': ancestral,
  'ancestral-0.1': lambda process: ancestral(process, 0.1),
  'ancestral-0.3': lambda process: ancestral(process, 0.3),
  'ancestral-1': lambda process: ancestral(process, 1.0),
  'ddim': ddim,
  'heun': heun,
  'heun-churn': lambda process: heun(process, 0.1),
  'dpm_solver': dpm_solver,
  'langevin': lambda process: langevin_corrected(ancestral(process), process),
  'langevin-ddim': lambda process: langevin_corrected(ddim(process), process),
  'langevin-dpm_solver': lambda process: langevin_corrected(dpm_solver(process), process),
}


def long_grid(step, process):
  if 'heun' in step:
    return karras_grid(64, sigma_min=0.002, sigma_max=80.0)
  return cosine_grid(256) if process == 'preserving' else cosine_grid(256, logsnr_min=-9.0, logsnr_max=12.0)


# Two columns of pixels: a Gaussian, written as a mixture of equal parts, and the mixture.
COLUMNS = Mixture(*(np.stack(pair, 1) for pair in zip(([0.3, 0.7], [0.3] * 2, [0.5] * 2), MIXTURE, strict=True)))


@pytest.mark.parametrize('process_name', ['preserving', 'scaled-4'])
@pytest.mark.parametrize('name', LAW_STEPS)
def test_every_step_reaches_the_data(name, process_name):
  """Mean and standard deviation of a Gaussian within 2 %, of a mixture its modes' weights and its quantiles too."""
  process, grid, noise = PROCESSES[process_name], long_grid(name, process_name), even_normals(32768)
  z = float(process.sigma(grid[0])) * np.stack([noise, noise[::-1]], 1)
  run = optimized(lambda z, rng: sample(exact(COLUMNS, process), LAW_STEPS[name](process), grid, z, rng, None))
  single, mixed = np.asarray(run(z, RNG), np.float64).T
  assert abs(single.mean() - 0.3) < 0.02 * 0.5
  assert abs(single.std() / 0.5 - 1) < 0.02
  assert abs(mixed.mean() - 0.17) < 0.02 * MIXTURE.std
  assert abs(mixed.std() / MIXTURE.std - 1) < 0.02
  assert abs((mixed < -0.1).mean() - 0.3) < 0.012
  levels = (0.05, 0.25, 0.5, 0.75, 0.95)
  np.testing.assert_allclose(np.quantile(mixed, levels), MIXTURE.quantiles(levels), atol=0.02)


def counter(z, logsnr, cond, carry):
  """Counts its evaluations in the carry, per example, and returns the count."""
  carry = {'count': jnp.zeros((z.shape[0], 1), jnp.bfloat16)} if carry is None else carry
  count = carry['count'] + 1
  return expand_dims_like(count[:, 0].astype(jnp.float32), z) + 0 * z, {'count': count}


@pytest.mark.parametrize(
  'name, evaluations',
  [('ancestral-0.3', 9), ('ddim', 9), ('heun', 17), ('heun-churn', 17), ('dpm_solver', 9), ('langevin', 17)],
)
def test_number_of_evaluations_and_the_carry_between_them(name, evaluations):
  """N for N points, 2N - 1 with Heun, N - 1 more with Langevin; each reads the carry of the one before, from zeros."""
  x = sample(counter, LAW_STEPS[name](PROCESSES['preserving']), jnp.linspace(-5, 5, 9), jnp.zeros((2, 3)), RNG, None)
  np.testing.assert_array_equal(x, evaluations)


def test_steps_around_steps_count_all_evaluations():
  process = PROCESSES['preserving']
  step = redraw(langevin_corrected(heun(process), process), process, np.float32(0), np.array([[True, False, False]]))
  x = sample(counter, step, jnp.linspace(-5, 5, 9), jnp.zeros((2, 3)), RNG, None)
  np.testing.assert_array_equal(x, 25)


def test_the_first_carry_is_zeros_of_the_networks_shape():
  """None is passed only to find shapes: a denoiser that reads None as ones still starts from zeros."""

  def denoiser(z, logsnr, cond, carry):
    carry = jnp.ones(z.shape) if carry is None else carry
    return carry + 0 * z, carry

  x = sample(denoiser, ddim(PROCESSES['preserving']), jnp.linspace(-5, 5, 4), jnp.zeros((2, 3)), RNG, None)
  np.testing.assert_array_equal(x, 0)


def test_guided_evaluations_thread_the_conditional_carry():
  def denoiser(z, logsnr, cond, carry):
    x_hat, carry = counter(z, logsnr, cond, carry)
    return x_hat, {'count': carry['count'] + 100 * cond.drop[:, :1]}

  guided = clip(classifier_free(denoiser, lambda cond: cond._replace(drop=jnp.ones((2, 1), bool)), 3.0))
  cond = Conditioning(label=jnp.ones((2, 1), jnp.int32))
  unclipped = classifier_free(denoiser, lambda cond: cond._replace(drop=jnp.ones((2, 1), bool)), 3.0)
  grid, z = jnp.linspace(-5, 5, 5), jnp.zeros((2, 3))
  np.testing.assert_array_equal(sample(unclipped, heun(PROCESSES['preserving']), grid, z, RNG, cond), 9)
  np.testing.assert_array_equal(sample(guided, heun(PROCESSES['preserving']), grid, z, RNG, cond), 1)


@pytest.mark.parametrize('name', ['ancestral-0.3', 'ddim', 'dpm_solver', 'langevin', 'heun-churn'])
def test_result_is_a_function_of_the_key(name):
  process, grid = PROCESSES['scaled-1'], jnp.linspace(-6, 6, 9)
  z = np.float32(20) * even_normals(64)[:, None]
  run = jax.jit(lambda z, rng: sample(exact(MIXTURE, process), LAW_STEPS[name](process), grid, z, rng, None))
  np.testing.assert_array_equal(run(z, RNG), run(z, jax.random.key(0)))
  assert np.array_equal(run(z, RNG), run(z, jax.random.key(1))) == (name in ('ddim', 'dpm_solver'))


def test_each_step_draws_its_own_noise():
  """Steps that add unit noise to z and a denoiser that returns z: the sum of N - 1 independent draws."""

  @memoryless
  def add_noise(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
    return z_t + jax.random.normal(rng, z_t.shape), carry

  x = sample(
    lambda z, logsnr, cond, carry: (z, carry), add_noise, jnp.linspace(-5, 5, 17), jnp.zeros((8192, 1)), RNG, None
  )
  np.testing.assert_allclose(x.var(), 16, rtol=0.06)


def test_a_key_per_example_frees_a_video_from_its_batch():
  process, grid = PROCESSES['preserving'], jnp.linspace(-6, 6, 9)
  keys = jax.random.split(RNG, 4)
  z = even_normals(8).reshape(4, 2)
  step = langevin_corrected(ancestral(process, 0.3), process)
  run = jax.jit(lambda z, keys: sample(exact(MIXTURE, process), step, grid, z, keys, None))
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(run(z, keys)[order], run(z[order], keys[order]), rtol=1e-5, atol=1e-6)


def test_steps_run_from_noise_to_data_and_see_every_level_once():
  """Levels are `[b]`; each step goes from its point of the grid to the next, the last evaluation is at the last."""
  grid = jnp.array([-5.0, -1.0, 0.5, 7.0])

  @memoryless
  def step(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
    assert logsnr_t.shape == logsnr_s.shape == (2,)
    return 10 * z_t + expand_dims_like(logsnr_s - 2 * logsnr_t, z_t) + cond, carry

  x = sample(
    lambda z, logsnr, cond, carry: (z + expand_dims_like(logsnr, z), carry), step, grid, jnp.ones((2, 3)), RNG, 4.0
  )
  z = 1.0
  for t, s in zip(grid[:-1], grid[1:], strict=True):
    z = 10 * z + s - 2 * t + 4
  np.testing.assert_allclose(x, np.full((2, 3), z + 7), rtol=1e-6)


FRAMES = JointGaussian(np.array([0.2, -0.1]), np.array([[0.30, 0.24], [0.24, 0.35]]))


@pytest.mark.parametrize('name', ['ddim', 'heun', 'dpm_solver', 'langevin', 'langevin-dpm_solver'])
def test_reconstruction_in_the_compiled_scan_is_a_plain_loop(name):
  """All guidance at once: the gradient inside the scan, the clip after it, the replacement last."""
  process, grid = PROCESSES['preserving'], jnp.linspace(-5, 6, 7)
  step = LAW_STEPS[name](process)
  mask = np.array([[True, False]])

  def build(observed):
    guided = reconstruction(exact(FRAMES, process), process, lambda x: x[:, :1], observed[:, :1], 2.0)
    return replacement(clip(guided), observed, mask)

  observed = np.random.default_rng(2).uniform(-1, 1, size=(4, 2)).astype(np.float32)
  compiled = jax.jit(lambda z, observed: sample(build(observed), step, grid, z, RNG, None))(Z, observed)

  denoiser, z, memory = jax.jit(build(observed)), jnp.asarray(Z), step.init(Z)
  for i in range(6):
    t, s = jnp.full(4, grid[i]), jnp.full(4, grid[i + 1])
    z, _, memory = step.update(denoiser, z, t, s, fold_in(RNG, i), None, None, memory)
  plain = denoiser(z, jnp.full(4, grid[6]), None, None)[0]
  np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(compiled[:, 0], observed[:, 0])
  assert np.ptp(compiled[:, 1]) > 0.1


def test_exact_reconstruction_samples_the_conditional():
  """With the weight of the exact residual variance, the free frame has the conditional's mean and spread."""
  process, grid = PROCESSES['preserving'], karras_grid(65, sigma_min=0.002, sigma_max=80.0)
  alpha, sigma = (np.asarray(f(grid), np.float64) for f in process)
  c, residual = FRAMES.covariance, []
  for a, s in zip(alpha, sigma, strict=True):
    residual.append((c - a * c @ np.linalg.solve(a**2 * c + s**2 * np.eye(2), a * c))[0, 0])
  weights = jnp.asarray(sigma**2 / (alpha**2 * np.array(residual)), jnp.float32)

  def weight(logsnr):
    return jnp.interp(logsnr, grid, weights)

  denoiser = reconstruction(exact(FRAMES, process), process, lambda x: x[:, :1], np.full((1024, 1), 0.7), weight)
  noise = even_normals(1024)
  z = float(sigma[0]) * np.stack([noise, np.random.default_rng(3).permutation(noise)], 1)
  x = jax.jit(lambda z: sample(denoiser, heun(process), grid, z, RNG, None))(z)
  wanted = FRAMES.observed(0, 0.7)
  np.testing.assert_allclose(x[:, 0], 0.7, atol=1e-3)
  np.testing.assert_allclose(x[:, 1].mean(), wanted.mean[1], atol=0.01)
  np.testing.assert_allclose(x[:, 1].std(), wanted.covariance[1, 1] ** 0.5, rtol=0.02)


def test_redrawn_frames_draw_the_others_with_them():
  """VDM's replacement method: an exact denoiser still pulls the free frame towards what was observed."""
  process, grid = PROCESSES['preserving'], cosine_grid(128, logsnr_min=-12.0, logsnr_max=12.0)
  mask, observed = np.array([[True, False]]), np.array([[1.2, 0.0]], np.float32)
  denoiser = replacement(exact(FRAMES, process), observed, mask)
  step = redraw(ancestral(process, 0.1), process, observed, mask)
  z = np.random.default_rng(4).normal(size=(2048, 2)).astype(np.float32)
  x = jax.jit(lambda z: sample(denoiser, step, grid, z, RNG, None))(z)
  np.testing.assert_array_equal(x[:, 0], np.float32(1.2))
  free, conditional = FRAMES.mean[1], FRAMES.observed(0, 1.2).mean[1]
  assert free + 0.05 < x[:, 1].mean() < conditional + 0.05


@pytest.mark.parametrize('name', ['ancestral-0.1', 'dpm_solver'])
def test_new_weights_and_observations_do_not_compile_again(name):
  process, grid, traces = PROCESSES['preserving'], cosine_grid(8), []
  data = Gaussian(0.4, 0.5), Gaussian(-0.1, 0.5)

  @jax.jit
  def run(scale, weight, observed, z, rng, cond):
    traces.append(scale)

    def denoiser(z, logsnr, cond, carry):
      kept, dropped = (exact(d, process)(z, logsnr, cond, carry)[0] for d in data)
      return scale * jnp.where(expand_dims_like(cond.drop[:, 0], z), dropped, kept), carry

    guided = classifier_free(denoiser, lambda cond: cond._replace(drop=jnp.ones((2, 1), bool)), weight)
    guided = reconstruction(guided, process, lambda x: x[:, :1], observed, weight)
    return sample(guided, LAW_STEPS[name](process), grid, z, rng, cond)

  cond = Conditioning(label=jnp.ones((2, 1), jnp.int32))
  z = np.random.default_rng(5).normal(size=(2, 3)).astype(np.float32)
  results = [
    run(np.float32(scale), np.float32(weight), np.full((2, 1), observed, np.float32), z, jax.random.key(key), cond)
    for scale, weight, observed, key in [(1, 0, 0, 0), (0.5, 0, 0, 0), (1, 2, 0, 0), (1, 2, 1, 0), (1, 2, 1, 1)]
  ]
  assert len(traces) == 1
  assert len({r.tobytes() for r in map(np.asarray, results)}) == (5 if name == 'ancestral-0.1' else 4)


@pytest.mark.parametrize('logsnrs', [np.array([5.0, 0.0, -5.0]), [-5.0, 0.0, 0.0], jnp.array([-5.0, 5.0, 2.0])])
def test_grids_that_do_not_increase_are_refused(logsnrs):
  with pytest.raises(ValueError, match='^logsnrs must increase'):
    sample(exact(GAUSSIAN, PROCESSES['preserving']), ddim(PROCESSES['preserving']), logsnrs, Z, RNG, None)


# Memory


@memoryless
def stay(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
  return z_t, carry


def counting(init):
  """A step that counts the steps before it, per example, and adds the count to z."""

  def update(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry, memory):
    memory = jax.tree.map(lambda count: count + 1, memory)
    return z_t + expand_dims_like(jax.tree.leaves(memory)[0], z_t), carry, memory

  return Step(init, update)


def identity(z, logsnr, cond, carry):
  return z, carry


def test_memory_is_carried_from_step_to_step_through_steps_around_steps():
  process, observed, mask = PROCESSES['preserving'], np.float32(0), np.zeros((1, 3), bool)
  step = counting(lambda z: {'count': jnp.zeros(z.shape[:1])})
  around = redraw(langevin_corrected(redraw(step, process, observed, mask), process, 1e-12), process, observed, mask)
  for each in (step, around):
    x = sample(identity, each, jnp.linspace(-5, 5, 9), jnp.zeros((2, 3)), RNG, None)
    np.testing.assert_allclose(x, 36, rtol=1e-4)  # 1 + 2 + ... + 8
  assert jax.tree.structure(around.init(Z)) == jax.tree.structure(step.init(Z))


def test_memory_may_be_made_of_z_and_of_python_numbers():
  """A number becomes an array without a weak type, so that `advance` compiles once."""
  step, grid = counting(lambda z: (0.0, z)), jnp.linspace(-5, 5, 9)
  state = jax.jit(lambda z: begin(identity, step, grid, z, None))(Z)
  np.testing.assert_array_equal(state.memory[1], Z)
  part = jax.jit(lambda state, start, stop: advance(identity, step, grid, state, RNG, None, start, stop))
  whole = part(state, 0, 8)
  np.testing.assert_array_equal(part(part(state, 0, 3), 3, 8).z, whole.z)
  np.testing.assert_allclose(whole.z, Z + 36, rtol=1e-6)
  assert part._cache_size() == 1


@pytest.mark.parametrize('name', ['ddim', 'dpm_solver', 'langevin-dpm_solver'])
def test_a_sample_may_be_cut_anywhere(name):
  """The state holds all that the next part needs, the solver's previous estimate included."""
  process, grid = PROCESSES['scaled-4'], cosine_grid(9, logsnr_min=-6.0, logsnr_max=6.0)
  denoiser, step = exact(MIXTURE, process), LAW_STEPS[name](process)
  start = jax.jit(lambda z: begin(denoiser, step, grid, z, None))(Z)
  part = jax.jit(lambda state, start, stop: advance(denoiser, step, grid, state, RNG, None, start, stop))
  whole = part(start, 0, 8)
  for cut in range(9):
    found = part(jax.device_get(part(start, 0, cut)), cut, 8)
    jax.tree.map(np.testing.assert_array_equal, found, whole)
  x = sample(denoiser, step, grid, Z, RNG, None)
  np.testing.assert_allclose(finish(denoiser, grid, whole, None), x, rtol=1e-5, atol=1e-6)


def test_a_state_is_a_plain_tuple():
  state = begin(identity, stay, jnp.linspace(-5, 5, 9), Z, None)
  assert isinstance(state, State) and state.memory is None
  np.testing.assert_array_equal(state[0], Z)


def test_memory_that_changes_its_shape_is_an_error_that_shows_both():
  def update(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry, memory):
    return z_t, carry, memory[:1]

  step = Step(lambda z: jnp.zeros(z.shape[:1]), update)
  with pytest.raises(TypeError, match=r'memory.*float32\[4\].*float32\[1\]'):
    sample(identity, step, jnp.linspace(-5, 5, 9), Z, RNG, None)


def test_grids_may_be_traced_and_of_one_point():
  process, grid = PROCESSES['preserving'], jnp.linspace(-5, 5, 4)
  run = jax.jit(lambda logsnrs: sample(exact(GAUSSIAN, process), ddim(process), logsnrs, Z, RNG, None))
  np.testing.assert_allclose(run(grid), sample(exact(GAUSSIAN, process), ddim(process), grid, Z, RNG, None), rtol=1e-5)
  np.testing.assert_allclose(run(grid[:1]), exact(GAUSSIAN, process)(Z, jnp.full(4, -5.0), None, None)[0], rtol=1e-5)


def test_old_style_keys_are_keys():
  """`jax.random.PRNGKey`'s uint32 pair is one key, not two."""
  process = PROCESSES['preserving']
  step = langevin_corrected(ancestral(process), process)
  run = jax.jit(lambda rng: sample(exact(GAUSSIAN, process), step, jnp.linspace(-5, 5, 4), Z, rng, None))
  np.testing.assert_array_equal(run(jax.random.PRNGKey(0)), run(RNG))


def test_state_is_float32_for_other_inputs():
  """Also from a float64 grid and an integer-valued z."""
  grid, z = np.linspace(-5, 5, 4), np.zeros((2, 3), np.float16)
  x = sample(exact(GAUSSIAN, PROCESSES['preserving']), ddim(PROCESSES['preserving']), grid, z, RNG, None)
  assert x.dtype == jnp.float32
