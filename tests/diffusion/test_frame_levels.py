"""Noise levels of single frames: which are shared, their distribution, and what a loss with them is minimized by."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.closed_forms import even_normals

from vdm_jax import diffusion, sampling
from vdm_jax.diffusion import CLEAN_LOGSNR, cosine_sampler, frame_levels

SIZE, VIDEO, IMAGES = 256, 5, 3
RNG = jax.random.key(4)
PROCESS = diffusion.variance_preserving()


def drawn(pattern, size=SIZE, rng=RNG):
  return np.asarray(frame_levels(pattern, cosine_sampler(), rng, size, VIDEO, IMAGES))


def test_the_video_has_the_levels_that_it_would_share():
  shared = np.asarray(cosine_sampler()(RNG, SIZE))
  np.testing.assert_array_equal(drawn('shared'), shared)
  np.testing.assert_array_equal(drawn('images')[:, :VIDEO], np.broadcast_to(shared[:, None], (SIZE, VIDEO)))
  np.testing.assert_array_equal(drawn('independent')[:, 0], shared)
  given = drawn('given')
  np.testing.assert_array_equal(np.where(given == CLEAN_LOGSNR, shared[:, None], given)[:, 0], shared)
  np.testing.assert_array_equal(given[:, VIDEO:], np.broadcast_to(shared[:, None], (SIZE, IMAGES)))


@pytest.mark.parametrize(('pattern', 'own'), [('images', slice(VIDEO, None)), ('independent', slice(None))])
def test_own_levels_are_even_over_the_batch_and_independent_within_an_example(pattern, own):
  """Their quantiles are those of the schedule to 1 / b, and ranks of two frames are uncorrelated, to 4 / sqrt(b)."""
  levels = drawn(pattern)[:, own]
  time = np.sort(np.arctan(np.exp(-0.5 * levels)) * 2 / np.pi, axis=0)
  even = np.broadcast_to((np.arange(SIZE)[:, None] + 0.5) / SIZE, time.shape)
  np.testing.assert_allclose(time, even, atol=1.1 / SIZE)
  ranks = levels.argsort(0).argsort(0)
  correlations = np.corrcoef(ranks.T) - np.eye(ranks.shape[1])
  assert np.abs(correlations).max() < 4 / SIZE**0.5


def test_images_may_have_a_distribution_of_their_own():
  """Snap's levels at sigma_in 4 and 1: the log-SNR of the images is higher by 2 ln 4, to four standard errors."""
  video, images = (diffusion.lognormal_sampler(sigma_in=sigma_in) for sigma_in in (4.0, 1.0))
  levels = np.asarray(frame_levels('images', video, RNG, SIZE, VIDEO, IMAGES, sample_image_logsnr=images))
  gap = levels[:, VIDEO:].mean() - levels[:, 0].mean()
  np.testing.assert_allclose(gap, 2 * np.log(4), atol=4 * 2.4 * (4 / 3 / SIZE) ** 0.5)


def test_given_frames_are_none_in_half_of_the_examples_and_never_all():
  """Of 5 frames each is given with probability s ~ U(0, 1): k of 5 has probability 1/6, and 5 of 5 becomes 4."""
  count = (drawn('given', 12_000)[:, :VIDEO] == CLEAN_LOGSNR).sum(1)
  found = np.bincount(count, minlength=6) / len(count)
  np.testing.assert_allclose(found, [1 / 2 + 1 / 12, 1 / 12, 1 / 12, 1 / 12, 1 / 6, 0], atol=0.012)


@pytest.mark.parametrize(
  ('pattern', 'video', 'images', 'message'),
  [('images', 4, 0, 'data.num_images'), ('given', 1, 2, 'two frames'), ('own', 4, 1, "'own'.*independent")],
)
def test_patterns_without_effect_are_refused(pattern, video, images, message):
  with pytest.raises(ValueError, match=message):
    frame_levels(pattern, cosine_sampler(), RNG, 2, video, images)


# The law of frames with levels of their own. Data x ~ N(0, S); z_i = alpha_i x_i + sigma_i eps_i.

COVARIANCE = 0.25 * 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
UNEVEN = np.array([CLEAN_LOGSNR, 2.0, -1.0, -3.0], np.float32)


def posterior_mean(covariance, alpha, sigma):
  """The matrix of E[x | z] = S A (A S A + Sigma^2)^-1 z, for levels of every frame."""
  signal = covariance * alpha
  return np.linalg.solve(alpha[:, None] * covariance * alpha + np.diag(sigma**2), signal.T).T


def joint(z, logsnr, cond, carry):
  """The exact denoiser of `COVARIANCE` for levels [b t]."""
  alpha, sigma = PROCESS.alpha(logsnr), PROCESS.sigma(logsnr)
  noisy = alpha[:, :, None] * COVARIANCE * alpha[:, None] + jax.vmap(jnp.diag)(sigma**2)
  return jnp.einsum('ij,bj,bj->bi', COVARIANCE, alpha, jnp.linalg.solve(noisy, z[..., None])[..., 0]), carry


def test_training_with_a_level_per_frame_finds_the_posterior_mean_of_that_noise():
  """A linear network trained by gradient descent on the loss reaches the gain of the closed form."""
  alpha, sigma = (np.asarray(f(UNEVEN), np.float64) for f in PROCESS)
  root = np.linalg.cholesky(COVARIANCE)
  levels = jnp.broadcast_to(UNEVEN, (512, 4))

  def loss(gain, key):
    x = jax.random.normal(key, (512, 4)) @ root.T
    network = lambda z, logsnr, cond, carry: (z @ gain.T, carry)  # noqa: E731
    keys = {'process': PROCESS, 'parameterization': diffusion.predict_x, 'logsnr': levels}
    return diffusion.denoising_loss(network, x.astype(jnp.float32), None, jax.random.fold_in(key, 1), **keys)[0]

  def step(gain, i):
    rate = 2.0 / (1 + 0.02 * i)
    return gain - rate * jax.grad(loss)(gain, jax.random.fold_in(RNG, i)), None

  gain, _ = jax.jit(lambda: jax.lax.scan(step, jnp.zeros((4, 4)), jnp.arange(1500)))()
  np.testing.assert_allclose(gain, posterior_mean(COVARIANCE, alpha, sigma), atol=0.02)


@pytest.mark.parametrize('step', [sampling.ddim, sampling.ancestral, sampling.heun, sampling.dpm_solver])
@pytest.mark.parametrize('given', [[0], [0, 2], [1, 3]])
def test_given_frames_sample_the_exact_conditional_law(step, given):
  """Every sample equals that of the closed-form conditional's own denoiser, from the same noise."""
  seen, rest = np.isin(np.arange(4), given), np.setdiff1d(np.arange(4), given)
  observed = np.where(seen, np.array([0.4, -0.3, 0.5, 0.1]), 0).astype(np.float32)[None]
  pull = np.linalg.solve(COVARIANCE[np.ix_(given, given)], COVARIANCE[np.ix_(given, rest)]).T
  mean = np.asarray(pull @ observed[0, given], np.float32)
  left = np.asarray(COVARIANCE[np.ix_(rest, rest)] - pull @ COVARIANCE[np.ix_(given, rest)], np.float32)

  def conditional(z, logsnr, cond, carry):
    alpha, sigma = PROCESS.alpha(logsnr)[0], PROCESS.sigma(logsnr)[0]
    gain = alpha * jnp.linalg.solve(alpha**2 * left + sigma**2 * jnp.eye(len(rest)), left)
    free = z[:, rest]
    return jnp.zeros_like(z).at[:, rest].set(mean + (free - alpha * mean) @ gain.T), carry

  z = even_normals(16).reshape(4, 4)
  grid = diffusion.cosine_levels(12, logsnr_min=-12.0, logsnr_max=12.0)
  held = sampling.given_frames(joint, PROCESS, observed, seen)
  run = jax.jit(lambda denoiser: sampling.sample(denoiser, step(PROCESS), grid, z, RNG, None), static_argnums=0)
  found, expected = np.asarray(run(held)), np.asarray(run(conditional))
  np.testing.assert_allclose(found[:, rest], expected[:, rest], atol=2e-3)
  np.testing.assert_array_equal(found[:, given], np.broadcast_to(observed[:, given], (4, len(given))))
