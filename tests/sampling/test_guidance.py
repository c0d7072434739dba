"""Guidance against closed forms: affine spaces, exact conditionals of joint Gaussians, and numpy's percentile."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closed_forms import MIXTURE, PROCESSES, Gaussian, JointGaussian, exact

from vdm_jax.diffusion import edm, expand_dims_like, precondition, predict_eps, predict_v, predict_x, snap
from vdm_jax.sampling import (
  classifier_free,
  clip,
  ddim,
  dpm_solver,
  dynamic_threshold,
  heun,
  oscillating,
  reconstruction,
  replacement,
  sample,
)
from vdm_jax.types import Conditioning

LOGSNR = np.array([-6.0, -1.0, 0.5, 4.0], np.float32)
Z = np.random.default_rng(0).normal(size=(4, 2, 3, 3, 1)).astype(np.float32)
every_process = pytest.mark.parametrize('process', PROCESSES.values(), ids=PROCESSES)


def null(cond):
  return cond._replace(drop=jnp.ones_like(cond.label, bool))


def labelled(*labels):
  return Conditioning(label=jnp.array(labels)[:, None])


def by_label(process, conditional, unconditional):
  """The exact denoiser of one Gaussian, or of the other where the condition is dropped."""

  def denoiser(z, logsnr, cond, carry):
    c, u = (exact(data, process)(z, logsnr, cond, carry)[0] for data in (conditional, unconditional))
    return jnp.where(expand_dims_like(cond.drop[:, 0], z), u, c), carry

  return denoiser


def estimate(denoiser, z, logsnr=LOGSNR, cond=None):
  """x_hat of a compiled denoiser."""
  return jax.jit(denoiser)(z, logsnr, cond, None)[0]


def constant(x_hat):
  return lambda z, logsnr, cond, carry: (jnp.asarray(x_hat), carry)


# classifier_free


@pytest.mark.parametrize('zero', [0, 0.0])
def test_no_weight_is_the_denoiser_itself(zero):
  denoiser = constant(Z)
  assert classifier_free(denoiser, null, zero) is denoiser


@pytest.mark.parametrize('weight', [jnp.float32(0), 2.0, lambda logsnr: 0 * logsnr])
def test_both_branches_are_one_copy_of_the_denoiser(weight):
  """Traced once, with a batch dimension over the branches; a weight that is only zero by value still evaluates both."""
  drops = []

  def denoiser(z, logsnr, cond, carry):
    drops.append(cond.drop.shape)
    return z, carry

  classifier_free(denoiser, null, weight)(Z, LOGSNR, labelled(1, 2, 3, 4), None)
  assert drops == [(4, 1)]


PARAMETERIZATIONS = {'eps': predict_eps, 'v': predict_v, 'x': predict_x, 'edm': edm(0.5), 'snap': snap(1.0)}


@every_process
@pytest.mark.parametrize('parameterization', PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS)
def test_guidance_of_x_hat_is_guidance_of_the_output(process, parameterization):
  """eps, v, x and F are affine in x_hat at fixed z, and the weights sum to one (VDM Eq. 6 guides eps)."""
  w = 3.0

  def network(x, logsnr, cond, carry):
    shift = jnp.where(
      expand_dims_like(cond.drop[:, 0], x), 0.0, expand_dims_like(cond.label[:, 0], x).astype(jnp.float32)
    )
    return jnp.tanh(x + shift) + 0.1 * shift, carry

  def guided_network(x, logsnr, cond, carry):
    kept, dropped = (network(x, logsnr, cond._replace(drop=jnp.full((4, 1), d)), carry)[0] for d in (False, True))
    return (1 + w) * kept - w * dropped, carry

  cond = labelled(1, 2, 3, 4)
  z = Z * np.asarray(expand_dims_like(jnp.sqrt(process.alpha(LOGSNR) ** 2 + process.sigma(LOGSNR) ** 2), Z))
  of_x_hat = estimate(classifier_free(precondition(network, process, parameterization), null, w), z, cond=cond)
  of_output = estimate(precondition(guided_network, process, parameterization), z, cond=cond)
  scale = 1 + np.abs(of_output).max((1, 2, 3, 4), keepdims=True)
  np.testing.assert_allclose(of_x_hat / scale, of_output / scale, atol=1e-5)


@every_process
def test_guided_gaussian_is_a_gaussian_beyond_the_condition(process):
  """With equal variances the guided denoiser is that of mean c + w (c - u)."""
  c, u, std, w = 0.4, -0.1, 0.5, 2.0
  denoiser = by_label(process, Gaussian(c, std), Gaussian(u, std))
  x_hat = estimate(classifier_free(denoiser, null, w), Z, cond=labelled(1, 1, 1, 1))
  wanted = estimate(exact(Gaussian(c + w * (c - u), std), process), Z)
  np.testing.assert_allclose(x_hat, wanted, rtol=1e-4, atol=1e-4)


def test_weight_may_depend_on_the_noise_level():
  """Each example reads the weight of its own log-SNR."""
  kept, dropped = np.float32(0.3), np.float32(0.1)

  def denoiser(z, logsnr, cond, carry):
    return jnp.where(expand_dims_like(cond.drop[:, 0], z), dropped, kept) + 0 * z, carry

  x_hat = classifier_free(denoiser, null, lambda logsnr: logsnr + 7)(Z, LOGSNR, labelled(1, 2, 3, 4), None)[0]
  w = LOGSNR + 7
  np.testing.assert_allclose(x_hat[:, 0, 0, 0, 0], (1 + w) * kept - w * dropped, rtol=1e-5)


def test_both_branches_read_the_carry_of_the_conditional_one():
  """The next carry is the conditional branch's, and what it is does not depend on the weight."""

  def denoiser(z, logsnr, cond, carry):
    branch = jnp.where(cond.drop[:, 0], 10.0, 1.0)
    return expand_dims_like(carry['latents'][:, 0], z) + 0 * z, {'latents': carry['latents'] + branch[:, None]}

  guided = classifier_free(denoiser, null, 5.0)
  first, carry = guided(Z, LOGSNR, labelled(1, 2, 3, 4), {'latents': jnp.zeros((4, 2))})
  np.testing.assert_array_equal(carry['latents'], 1)
  np.testing.assert_array_equal(first, 0)
  second, carry = guided(Z, LOGSNR, labelled(1, 2, 3, 4), carry)
  np.testing.assert_array_equal(carry['latents'], 2)
  np.testing.assert_allclose(second, 1, rtol=1e-6)


def test_each_branch_has_its_own_condition():
  """`drop`, which only null fills, is False on the conditional side, and what neither side has stays None."""
  seen = []

  def denoiser(z, logsnr, cond, carry):
    seen.append(cond)
    kept = expand_dims_like(1.0 - cond.drop[:, 0], z)
    return kept * expand_dims_like(cond.label[:, 0], z) + expand_dims_like(cond.frame_interval, z) + 0 * z, carry

  def drop_and_set_interval(cond):
    return null(cond)._replace(frame_interval=jnp.full(4, 0.5))

  cond = labelled(1, 2, 3, 4)._replace(frame_interval=jnp.full(4, 0.25))
  x_hat = classifier_free(denoiser, drop_and_set_interval, 1.0)(Z, LOGSNR, cond, None)[0]
  np.testing.assert_allclose(x_hat[:, 0, 0, 0, 0], 2 * (np.arange(1, 5) + 0.25) - 0.5)
  assert seen[0].text is None and seen[0].drop.dtype == bool and seen[0].drop.shape == (4, 1)


@pytest.mark.parametrize('step', [ddim, heun, dpm_solver])
def test_guided_sampling_reaches_the_guided_gaussian(step):
  process, c, u, std, w = PROCESSES['preserving'], 0.4, -0.1, 0.3, 2.0
  denoiser = classifier_free(by_label(process, Gaussian(c, std), Gaussian(u, std)), null, w)
  grid = jnp.linspace(-9, 12, 129)
  z = process.sigma(grid[0]) * jnp.array([[-1.0], [0.0], [1.0]])
  x = jax.jit(lambda z: sample(denoiser, step(process), grid, z, jax.random.key(0), labelled(1, 1, 1)))(z)
  np.testing.assert_allclose(x[:, 0], c + w * (c - u) + std * np.array([-1, 0, 1]), atol=0.02)


# oscillating


def test_oscillation_along_a_grid():
  grid = jnp.linspace(-9, 12, 8)
  weight = oscillating(grid, high=15.0, low=1.0, start=3)
  np.testing.assert_array_equal(weight(grid), [15, 15, 15, 1, 15, 1, 15, 1])
  np.testing.assert_array_equal(weight(grid + 0.4), weight(grid))  # the nearest level's
  np.testing.assert_array_equal(oscillating(grid, high=15.0, low=1.0, start=0)(grid), [1, 15] * 4)
  assert weight(grid[3]) == 1 and weight(grid).dtype == jnp.float32


@pytest.mark.parametrize('step', [ddim, heun, dpm_solver])
def test_oscillation_belongs_to_the_noise_level(step):
  """Read in order of evaluation, a step's second evaluation takes the next level's weight."""
  process, grid, read = PROCESSES['preserving'], jnp.linspace(-4, 4, 5), []
  weight = oscillating(grid, high=5.0, low=1.0, start=1)

  def recording(logsnr):
    read.append(float(weight(logsnr)[0]))
    return weight(logsnr)

  denoiser = classifier_free(lambda z, logsnr, cond, carry: (0.5 * z, carry), null, recording)
  run, z, cond = step(process), jnp.ones((2, 1)), labelled(1, 1)
  memory = run.init(z)
  for t, s in zip(grid[:-1], grid[1:], strict=True):
    memory = run.update(denoiser, z, jnp.full(2, t), jnp.full(2, s), jax.random.key(0), cond, None, memory)[2]
  of_level = [5, 1, 5, 1, 5]
  wanted = [w for pair in itertools.pairwise(of_level) for w in pair] if step is heun else of_level[:4]
  assert read == wanted


# reconstruction


FRAMES = JointGaussian(np.array([0.2, -0.1, 0.4]), np.array([[0.30, 0.24, 0.1], [0.24, 0.35, 0.15], [0.1, 0.15, 0.25]]))


def residual_variance(alpha, sigma, index=0):
  """Var(x[index] | z) of FRAMES, by the rule for conditioning one joint Gaussian on a part of it."""
  c = FRAMES.covariance
  posterior = c - alpha * c @ np.linalg.solve(alpha**2 * c + sigma**2 * np.eye(3), alpha * c)
  return posterior[index, index]


@every_process
@pytest.mark.parametrize('logsnr', [-3.0, 0.0, 2.5])
def test_reconstruction_is_exact_on_a_joint_gaussian(process, logsnr):
  """It is E[x | z, x^a] for w = sigma^2 / (alpha^2 r^2), r^2 the variance of x^a given z; VDM's Eq. 7 assumes w = 1."""
  alpha, sigma = (float(f(logsnr)) for f in process)
  weight = sigma**2 / (alpha**2 * residual_variance(alpha, sigma))
  observed = np.full((5, 1), 0.7, np.float32)
  guided = reconstruction(exact(FRAMES, process), process, lambda x: x[:, :1], observed, weight)
  z = (alpha * FRAMES.mean + sigma * np.random.default_rng(1).normal(size=(5, 3))).astype(np.float32)
  x_hat = estimate(guided, z, np.full(5, logsnr, np.float32))
  np.testing.assert_allclose(x_hat, FRAMES.observed(0, 0.7).estimate(z, alpha, sigma), rtol=1e-4, atol=1e-4)


class Mixing(NamedTuple):
  """Correlated pixels with a non-linear denoiser: a mixture seen through an orthogonal change of pixels."""

  def estimate(self, z, alpha, sigma):
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(4, 4)))[0].astype(z.dtype)
    return MIXTURE.estimate(z @ turn, alpha, sigma) @ turn.T


def halved(x):
  """Mean over neighbouring pairs: a downsampling."""
  return (x[..., ::2] + x[..., 1::2]) / 2


@every_process
def test_reconstruction_is_its_formula(process):
  """The gradient by finite differences in float64, through a downsampling, with a norm that is a sum (VDM Eq. 8)."""
  w, data = 1.7, Mixing()
  z = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
  observed = np.random.default_rng(3).normal(size=(4, 2)).astype(np.float32)
  alpha, sigma = (np.asarray(f(LOGSNR), np.float64)[:, None] for f in process)
  z *= (sigma + alpha).astype(np.float32)
  weight = w if process is PROCESSES['preserving'] else lambda logsnr: w + 0 * logsnr
  x_hat = estimate(reconstruction(exact(data, process), process, halved, observed, weight), z)

  def misfit(z):
    return ((observed - halved(data.estimate(z, alpha, sigma))) ** 2).sum(1)

  wide, h = z.astype(np.float64), 1e-6 * sigma
  gradient = np.stack([(misfit(wide + h * e) - misfit(wide - h * e)) / (2 * h[:, 0]) for e in np.eye(4)], 1)
  np.testing.assert_allclose(x_hat, data.estimate(wide, alpha, sigma) - w * alpha / 2 * gradient, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize('name', ['scaled-1', 'scaled-4'])
def test_reconstruction_weight_means_the_same_in_every_process(name):
  """alpha grad_z does not change when z is rescaled, at equal log-SNR."""
  observed = np.full((4, 2), 0.5, np.float32)
  z = np.random.default_rng(4).normal(size=(4, 4)).astype(np.float32)
  results = []
  for process in (PROCESSES['preserving'], PROCESSES[name]):
    state = z * expand_dims_like(process.alpha(LOGSNR) / PROCESSES['preserving'].alpha(LOGSNR), z)
    guided = reconstruction(exact(Mixing(), process), process, halved, observed, 2.0)
    results.append(estimate(guided, state))
  np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


def test_reconstruction_leaves_examples_apart():
  process = PROCESSES['preserving']
  observed = np.random.default_rng(5).normal(size=(4, 2)).astype(np.float32)
  z = np.random.default_rng(6).normal(size=(4, 4)).astype(np.float32)

  def guided(rows):
    denoiser = reconstruction(exact(Mixing(), process), process, halved, observed[rows], 1.0)
    return estimate(denoiser, z[rows], LOGSNR[rows])

  alone = [guided(slice(i, i + 1)) for i in range(4)]
  np.testing.assert_allclose(guided(slice(0, 4)), np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_reconstruction_hands_on_the_carry_and_no_weight_changes_nothing():
  def denoiser(z, logsnr, cond, carry):
    return 0.5 * z + carry[:, None], carry + 1

  guided = reconstruction(denoiser, PROCESSES['preserving'], lambda x: x, 0 * Z[:, 0, 0, :, 0], 0.0)
  z = Z[:, 0, 0, :, 0]
  x_hat, carry = guided(z, LOGSNR, None, jnp.arange(4.0))
  np.testing.assert_array_equal(x_hat, denoiser(z, LOGSNR, None, jnp.arange(4.0))[0])
  np.testing.assert_array_equal(carry, [1, 2, 3, 4])


def test_reconstruction_differentiates_the_guided_prediction():
  """Around classifier-free guidance, the gradient is that of the guided x_hat, not of one branch's."""
  process = PROCESSES['preserving']
  denoiser = by_label(process, Gaussian(0.4, 0.5), Gaussian(-0.1, 0.2))
  z, cond, w, observed = Z[:, 0, 0, :, 0], labelled(1, 1, 1, 1), 2.0, np.float32(0.3)
  alpha, sigma = (np.asarray(f(LOGSNR))[:, None] for f in process)
  gains = [alpha * s**2 / (alpha**2 * s**2 + sigma**2) for s in (0.5, 0.2)]
  guided = classifier_free(denoiser, null, w)
  x_hat = estimate(guided, z, cond=cond)
  ours = estimate(reconstruction(guided, process, lambda x: x, observed, 1.0), z, cond=cond)
  slope = (1 + w) * gains[0] - w * gains[1]
  np.testing.assert_allclose(ours, x_hat + alpha * slope * (observed - x_hat), rtol=1e-4, atol=1e-4)


def test_reconstruction_takes_one_observation_for_all_examples():
  z, one, process = Z[:, 0, 0, :, 0], np.float32([[0.3, -0.2, 0.1]]), PROCESSES['preserving']
  denoiser = exact(Gaussian(0.4, 0.5), process)
  ours, theirs = (
    estimate(reconstruction(denoiser, process, lambda x: x, y, 1.0), z) for y in (one, np.repeat(one, len(z), axis=0))
  )
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('shape', [(4, 4), (3, 4, 2), (1, 3), (3, 2)])
def test_reconstruction_refuses_an_observation_that_would_be_repeated(shape):
  guided = reconstruction(constant(np.zeros((4, 4))), PROCESSES['preserving'], halved, np.zeros(shape), 1.0)
  with pytest.raises(ValueError, match='^observed .*measure'):
    guided(np.zeros((4, 4), np.float32), LOGSNR, None, None)


# replacement, clip, dynamic_threshold


def test_replacement_overwrites_the_observed_part_only():
  mask = np.zeros((1, 2, 1, 1, 1), bool)
  mask[:, 0] = True
  x_hat, carry = replacement(constant(Z), np.float32(0.25), mask)(Z + 1, LOGSNR, None, 'carry')
  np.testing.assert_array_equal(x_hat[:, 0], 0.25)
  np.testing.assert_array_equal(x_hat[:, 1], Z[:, 1])
  assert carry == 'carry'


def test_clip_keeps_to_the_data_range():
  x_hat, carry = clip(constant(3 * Z))(Z, LOGSNR, None, 'carry')
  np.testing.assert_array_equal(x_hat, np.minimum(np.maximum(3 * Z, -1), 1))
  assert carry == 'carry'


@pytest.mark.parametrize('percentile', [0.5, 50.0, 95.0, 99.5, 100.0])
def test_dynamic_threshold_is_imagens(percentile):
  """Per example: s is the percentile of |x_hat|, at least 1; x_hat is clipped to [-s, s] and divided by s."""
  x = Z * np.array([0.1, 1.0, 3.0, 10.0], np.float32).reshape(4, 1, 1, 1, 1)
  x_hat, carry = dynamic_threshold(constant(x), percentile)(Z, LOGSNR, None, 'carry')
  s = np.maximum(np.percentile(np.abs(x), percentile, axis=(1, 2, 3, 4), keepdims=True), 1)
  np.testing.assert_allclose(x_hat, np.clip(x, -s, s) / s, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(x_hat[0], x[0])  # within the range already
  assert np.max(np.abs(x_hat)) <= 1
  assert carry == 'carry'


@pytest.mark.parametrize('percentile', [0, -1.0, 100.5])
def test_dynamic_threshold_refuses_an_invalid_percentile(percentile):
  with pytest.raises(ValueError, match=f'^percentile={percentile} '):
    dynamic_threshold(constant(Z), percentile)
