"""Moments of gradients: unbiased over all outcomes, and correct for a network with a Gaussian gradient."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax import models
from vdm_jax.benchmarks.paper_claims import gradient_variance
from vdm_jax.benchmarks.paper_claims.claim import config_of
from vdm_jax.benchmarks.paper_claims.gradient_variance import Moments, gradient_scores, gradients


def test_moments_are_unbiased_over_all_outcomes():
  points = np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 1.5]])  # equally likely
  mean = points.mean(0)
  variance = np.square(points - mean).sum() / 3
  drawn = [Moments(outcome) for outcome in itertools.product(points, repeat=3)]
  assert np.mean([one.variance for one in drawn]) == pytest.approx(variance)
  assert np.mean([one.squared_mean for one in drawn]) == pytest.approx(mean @ mean)
  assert np.mean([one.mean for one in drawn], axis=0) == pytest.approx(mean)


def test_alignment_falls_with_variance_and_with_bias():
  rng = np.random.default_rng(0)
  video = np.array([3.0, 0.0, 0.0, 0.0])

  def drawn(expectation, std):
    return Moments(expectation + std * rng.standard_normal((40_000, 4)))

  reference = drawn(video, 0.5)
  for expectation, std in ((video, 0.1), (video, 1.5), (np.array([3.0, 3.0, 0.0, 0.0]), 0.5)):
    squared, variance = expectation @ expectation, 4 * std**2
    found = gradient_scores(drawn(expectation, std), reference)
    expected = (expectation @ video) ** 2 / ((squared + variance) * (video @ video))
    assert found['alignment'] == pytest.approx(expected, rel=0.02)
    assert found['log2_noise_to_signal'] == pytest.approx(math.log2(variance / squared), abs=0.05)


@pytest.mark.parametrize('images', [0, 8])
def test_a_linear_network_has_the_variance_of_its_noise(images):
  """If F is a learned picture and the target the noise, the gradient at pixel p is 2 (F_p - mean of eps_p) / pixels."""
  config = config_of('digits')
  config.data.update(num_images=images, batch_size=gradient_variance.VIDEOS[images], text='none')
  config.model.parameterization = 'eps'
  model = models.build(config.model)
  picture = np.linspace(-0.2, 0.2, 256, dtype=np.float32).reshape(16, 16, 1)

  def network(params, dropout_rng):
    return lambda x, logsnr, cond, carry: (jnp.broadcast_to(params, x.shape), carry)

  linear = SimpleNamespace(
    network=network,
    process=model.process,
    parameterization=model.parameterization,
    sample_logsnr=model.sample_logsnr,
    config=model.config,
    upsampling=1,
    encode=None,
  )
  found = Moments(gradients(linear, picture, config, seed=0, count=20))
  frames = config.data.batch_size * (8 + images)
  assert frames == 96
  assert found.variance == pytest.approx(4 / (256 * frames), rel=0.08)
  assert found.squared_mean == pytest.approx(4 * np.square(picture).sum() / 256**2, rel=0.08)
