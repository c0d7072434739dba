"""Every pair of process and parameterization in float64: exact recovery, unit inputs, and the weights of the papers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion import edm, input_scaled, predict_eps, predict_v, predict_x, snap, variance_preserving

LOGSNRS = np.linspace(-20, 20, 81)

PROCESSES = {
  'preserving': variance_preserving(),
  'scaled-1': input_scaled(1.0),
  'scaled-4': input_scaled(4.0),
  'scaled-32': input_scaled(32.0),
}
# The parameterization and the standard deviation of the data it is made for.
PARAMETERIZATIONS = {
  'eps': (predict_eps, 1.0),
  'v': (predict_v, 1.0),
  'x': (predict_x, 1.0),
  'edm': (edm(0.5), 0.5),
  'edm-1': (edm(1.0), 1.0),
  'snap': (snap(1.0), 1.0),
  'snap-half': (snap(0.5), 0.5),
}
every_process = pytest.mark.parametrize('name', PROCESSES)
every_pair = pytest.mark.parametrize(
  'name, parameterization, sigma_data',
  [(p, *made) for p in PROCESSES for made in PARAMETERIZATIONS.values()],
  ids=[f'{p}-{q}' for p in PROCESSES for q in PARAMETERIZATIONS],
)


def marginal(name):
  """alpha and sigma at LOGSNRS, float64."""
  if name == 'preserving':
    return 1 / np.sqrt(1 + np.exp(-LOGSNRS)), 1 / np.sqrt(1 + np.exp(LOGSNRS))
  sigma_in = float(name.removeprefix('scaled-'))
  return np.full_like(LOGSNRS, 1 / sigma_in), np.exp(-LOGSNRS / 2) / sigma_in


def evaluate(parameterization, name):
  """alpha, sigma and the coefficients as float64 arrays."""
  alpha, sigma = marginal(name)
  with jax.enable_x64(True):
    c = parameterization(jnp.asarray(alpha), jnp.asarray(sigma))
    assert all(field.dtype == jnp.float64 for field in c)
    return alpha, sigma, type(c)(*(np.asarray(field) for field in c))


@every_pair
def test_exact_output_gives_back_x(name, parameterization, sigma_data):
  alpha, sigma, c = evaluate(parameterization, name)
  x, eps = np.random.default_rng(0).normal(size=(2, len(LOGSNRS)))
  z = alpha * x + sigma * eps
  np.testing.assert_allclose(c.skip * z + c.out * (c.target_x * x + c.target_eps * eps), x, rtol=1e-10, atol=1e-10)


@every_pair
def test_exact_output_gives_back_x_in_float32(name, parameterization, sigma_data):
  process = PROCESSES[name]
  logsnr = jnp.linspace(-6, 6, 49)
  alpha, sigma = process.alpha(logsnr), process.sigma(logsnr)
  c = parameterization(alpha, sigma)
  x, eps = np.random.default_rng(1).uniform(0.2, 1, size=(2, 49)).astype(np.float32)
  x_hat = c.skip * (alpha * x + sigma * eps) + c.out * (c.target_x * x + c.target_eps * eps)
  assert x_hat.dtype == jnp.float32
  np.testing.assert_allclose(x_hat, x, rtol=1e-4)


@every_pair
def test_the_network_sees_unit_variance(name, parameterization, sigma_data):
  alpha, sigma, c = evaluate(parameterization, name)
  np.testing.assert_allclose(c.input**2 * ((alpha * sigma_data) ** 2 + sigma**2), 1, rtol=1e-12)


@every_process
@pytest.mark.parametrize('make', [edm, snap])
@pytest.mark.parametrize('sigma_data', [0.5, 1.0])
def test_edm_and_snap_targets_have_unit_variance(name, make, sigma_data):
  _, _, c = evaluate(make(sigma_data), name)
  np.testing.assert_allclose((c.target_x * sigma_data) ** 2 + c.target_eps**2, 1, rtol=1e-12)


def weight_on_x(name, parameterization):
  """The factor between |x_hat - x|^2 and the loss, from a small error of the output."""
  alpha, sigma, c = evaluate(parameterization, name)
  x, eps, error = np.random.default_rng(2).normal(size=(3, len(LOGSNRS)))
  z = alpha * x + sigma * eps
  target = c.target_x * x + c.target_eps * eps
  # The error of x_hat in closed form: subtracting x at both ends of the range would leave no digits.
  np.testing.assert_allclose(c.skip * z + c.out * (target + error) - x, c.out * error, rtol=1e-6, atol=1e-9)
  return alpha, sigma, c.weight * error**2 / (c.out * error) ** 2


@every_process
def test_losses_are_weighted_errors_of_x(name):
  """SNR for eps, 1 for x; the square of (alpha^2 + sigma^2) / sigma for v, which is 1 + SNR where power is kept."""
  snr = np.exp(LOGSNRS)
  np.testing.assert_allclose(weight_on_x(name, predict_eps)[2], snr, rtol=1e-10)
  np.testing.assert_allclose(weight_on_x(name, predict_x)[2], 1, rtol=1e-10)
  alpha, sigma, v = weight_on_x(name, predict_v)
  np.testing.assert_allclose(v, ((alpha**2 + sigma**2) / sigma) ** 2, rtol=1e-10)
  if name == 'preserving':
    np.testing.assert_allclose(v, 1 + snr, rtol=1e-10)


@every_process
@pytest.mark.parametrize('sigma_data', [0.5, 1.0])
def test_edm_and_snap_weight_x_by_both_standard_deviations(name, sigma_data):
  """lambda_w = 1 / sigma_data^2 + 1 / sigma^2: EDM's sigma is the noise on x, Snap's that on x / sigma_in."""
  alpha, sigma, ours = weight_on_x(name, edm(sigma_data))
  np.testing.assert_allclose(ours, 1 / sigma_data**2 + (alpha / sigma) ** 2, rtol=1e-10)
  _, sigma, ours = weight_on_x(name, snap(sigma_data))
  np.testing.assert_allclose(ours, 1 / sigma_data**2 + 1 / sigma**2, rtol=1e-10)


@pytest.mark.parametrize('sigma_data', [0.5, 1.0])
def test_snap_without_scaling_is_edm_with_f_negated(sigma_data):
  _, _, ours = evaluate(snap(sigma_data), 'scaled-1')
  _, _, edms = evaluate(edm(sigma_data), 'scaled-1')
  signs = {'skip': 1, 'out': -1, 'input': 1, 'target_x': -1, 'target_eps': -1, 'weight': 1}
  for field, sign in signs.items():
    np.testing.assert_allclose(getattr(ours, field), sign * getattr(edms, field), rtol=1e-12)


def test_snap_is_not_edm_at_shifted_noise():
  """With sigma_in = 4 the two weigh errors differently, so neither may stand in for the other."""
  weights = [weight_on_x('scaled-4', make(1.0))[2] for make in (snap, edm)]
  assert np.max(weights[0] / weights[1]) > 10


def test_snap_is_its_papers_equations():
  """Eqs. 24, 26, 27, 35 and 36 of Snap for sigma_in = 4, in its letters."""
  sigma_in, sd = 4.0, 0.7
  _, sigma, c = evaluate(snap(sd), 'scaled-4')
  both = sigma**2 + sd**2
  c_norm = 1 / (sd * np.sqrt(both))
  np.testing.assert_allclose(c.target_x, c_norm * -sigma, rtol=1e-12)
  np.testing.assert_allclose(c.target_eps, c_norm * sd**2, rtol=1e-12)
  np.testing.assert_allclose(c.input, 1 / np.sqrt(sigma**2 + sd**2 / sigma_in**2), rtol=1e-12)
  np.testing.assert_allclose(c.skip, sigma_in * sd**2 / (sigma_in * sigma**2 + sd**2), rtol=1e-12)
  np.testing.assert_allclose(c.out, -sigma_in * sigma * sd * np.sqrt(both) / (sigma_in * sigma**2 + sd**2), rtol=1e-12)
  np.testing.assert_allclose(c.weight, (both / (sigma**2 + sd**2 / sigma_in)) ** 2, rtol=1e-12)
  np.testing.assert_allclose(c.weight, (1 / sd**2 + 1 / sigma**2) * c.out**2, rtol=1e-10)


def test_snap_weight_rises_to_sigma_in_squared_where_noise_is_low():
  for sigma_in in (4.0, 32.0):
    c = snap(1.0)(jnp.full(2, 1 / sigma_in), jnp.array([1e-4, 1e4]))
    np.testing.assert_allclose(c.weight, [sigma_in**2, 1], rtol=1e-4)


@pytest.mark.parametrize('sigma', [0.002, 0.5, 1.0, 80.0])
def test_edm_is_table_1_of_its_paper(sigma):
  c = edm(0.5)(jnp.float32(1.0), jnp.float32(sigma))
  np.testing.assert_allclose(c.skip, 0.25 / (sigma**2 + 0.25), rtol=1e-6)
  np.testing.assert_allclose(c.out, sigma * 0.5 / np.sqrt(0.25 + sigma**2), rtol=1e-6)
  np.testing.assert_allclose(c.input, 1 / np.sqrt(0.25 + sigma**2), rtol=1e-6)
  np.testing.assert_allclose(c.weight, (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * c.out**2, rtol=1e-5)


@every_process
def test_edm_of_any_process_is_edm_of_its_rescaled_state(name):
  """Given z / alpha at noise sigma / alpha, it estimates x and feeds the network as it would for the EDM process."""
  alpha, _, ours = evaluate(edm(0.5), name)
  _, _, edms = evaluate(edm(0.5), 'scaled-1')
  z = np.random.default_rng(3).normal(size=len(LOGSNRS))
  np.testing.assert_allclose(ours.skip * z, edms.skip * (z / alpha), rtol=1e-10)
  np.testing.assert_allclose(ours.input * z, edms.input * (z / alpha), rtol=1e-10)
  for field in ('out', 'target_x', 'target_eps', 'weight'):
    np.testing.assert_allclose(getattr(ours, field), getattr(edms, field), rtol=1e-10)


def test_snap_of_unit_data_trains_a_v_prediction():
  """c_nrm v for sigma_data = 1 and sigma_in = 1 is the v of the preserving process at the same log-SNR."""
  _, _, ours = evaluate(snap(1.0), 'scaled-1')
  _, _, v = evaluate(predict_v, 'preserving')
  np.testing.assert_allclose(ours.target_x, v.target_x, rtol=1e-10)
  np.testing.assert_allclose(ours.target_eps, v.target_eps, rtol=1e-10)


def test_v_is_the_papers_where_power_is_kept():
  """v = alpha eps - sigma x and x_hat = alpha z - sigma v (VDM section 2)."""
  alpha, sigma, c = evaluate(predict_v, 'preserving')
  for ours, papers in zip(c, (alpha, -sigma, 1, -sigma, alpha, 1), strict=True):
    np.testing.assert_allclose(ours, np.broadcast_to(papers, alpha.shape), rtol=1e-12)


@pytest.mark.parametrize('parameterization', [made for made, _ in PARAMETERIZATIONS.values()], ids=PARAMETERIZATIONS)
def test_coefficients_have_the_shape_of_alpha(parameterization):
  one = parameterization(jnp.float32(0.6), jnp.float32(0.8))
  many = parameterization(jnp.full(3, 0.6), jnp.full(3, 0.8))
  for single, row in zip(one, many, strict=True):
    assert single.shape == () and row.shape == (3,) and row.dtype == jnp.float32
    np.testing.assert_allclose(row, single, rtol=1e-6)


@pytest.mark.parametrize('make', [edm, snap])
@pytest.mark.parametrize('sigma_data', [0, -0.5, float('nan')])
def test_sigma_data_must_be_positive(make, sigma_data):
  with pytest.raises(ValueError, match=f'^sigma_data={sigma_data} '):
    make(sigma_data)
