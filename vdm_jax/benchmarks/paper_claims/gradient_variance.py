"""The variance of minibatch gradients with appended images at equal memory: VDM section 4.3.1."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

import vdm_jax
from vdm_jax import configuration, data, partitioning
from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Row, Run, config_of
from vdm_jax.models import Model
from vdm_jax.training import make_gradient
from vdm_jax.types import Params

BATCHES = 40  # minibatches whose gradients are compared
UNSEEN = 1_000  # added to a run's seed, for streams of clips and noise that it was not trained on
VIDEOS = {0: 12, 4: 8, 8: 6}  # appended images -> videos per minibatch, which has 96 frames
LEVEL = -2.0  # log-SNR, the median of training
SCORES = {
  'log2_variance': 'log2 variance',
  'log2_noise_to_signal': 'log2 (variance / squared mean)',
  'alignment': 'alignment with the video gradient',
}


class Moments:
  """Unbiased estimates of the moments of a random vector from samples, which are added one by one."""

  def __init__(self, vectors: Iterable[np.ndarray]) -> None:
    self.count, self._sum, self._squares = 0, np.zeros(()), 0.0
    for vector in vectors:
      vector = np.asarray(vector, np.float64)
      self.count, self._sum, self._squares = self.count + 1, self._sum + vector, self._squares + vector @ vector

  @property
  def mean(self) -> np.ndarray:
    """The sample mean."""
    return self._sum / self.count

  @property
  def variance(self) -> float:
    """The trace of the covariance, unbiased."""
    return float(self._squares - self.count * (self.mean @ self.mean)) / (self.count - 1)

  @property
  def squared_mean(self) -> float:
    """The squared norm of the expectation, unbiased."""
    return float(self.mean @ self.mean) - self.variance / self.count


def gradient_scores(found: Moments, reference: Moments) -> dict[str, float]:
  """Return the scores of a gradient estimator.

  `alignment` is <E g, E r>^2 / (E|g|^2 |E r|^2), the mean squared cosine between a minibatch's gradient g and the
  gradient r of the video objective. Variance and bias both lower it.

  Args:
    found: moments of the estimator's minibatch gradients.
    reference: moments of independent minibatch gradients of the video objective alone.
  """
  second_moment = found.squared_mean + found.variance
  signal = max(found.squared_mean, np.finfo(np.float64).tiny)
  return {
    'variance': found.variance,
    'squared_mean': found.squared_mean,
    'log2_variance': math.log2(found.variance),
    'log2_noise_to_signal': math.log2(found.variance / signal),
    'alignment': float(found.mean @ reference.mean) ** 2 / (second_moment * reference.squared_mean),
  }


def gradients(model: Model, params: Params, config: ConfigDict, seed: int, count: int) -> Iterator[np.ndarray]:
  """Yield `count` independent minibatch gradients of the training loss as vectors."""
  mesh = partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  gradient = jax.jit(make_gradient(model, config.training, mesh))
  key = jax.random.key(seed)
  with jax.set_mesh(mesh):
    stream = data.build(config.data, model.encode, seed=seed)
    for number in range(count):
      batch = partitioning.put_batch(next(stream), mesh)
      yield np.asarray(ravel_pytree(gradient(params, batch, jax.random.fold_in(key, number))[2])[0])


def measure(workdir: str, seed: int, settings: Mapping[str, Any]) -> Row:
  """Return the scores of the gradient with `settings['images']` appended images at the run's EMA parameters.

  With `settings['logsnr']` all examples have this noise level; by default each video draws its own, which its images
  share unless `settings['frame_logsnr']` is 'images'.
  """
  logsnr = settings.get('logsnr')
  pattern = settings.get('frame_logsnr', 'shared') if settings['images'] else 'shared'
  found = _moments(workdir, settings['images'], UNSEEN + 10 * seed + 1, logsnr, pattern)
  return gradient_scores(found, _reference(workdir, seed, logsnr))


@functools.lru_cache(maxsize=1)
def _reference(workdir: str, seed: int, logsnr: float | None) -> Moments:
  """Return the moments of the video objective on independent clips and noise, shared by all arms of a seed."""
  return _moments(workdir, 0, UNSEEN + 10 * seed + 2, logsnr)


def _moments(workdir: str, images: int, stream: int, logsnr: float | None, pattern: str = 'shared') -> Moments:
  run = vdm_jax.Run(workdir)
  model, params = run.load()
  model = model._replace(config=model.config | {'frame_logsnr': pattern})
  if logsnr is not None:
    model = model._replace(sample_logsnr=lambda rng, count: jnp.full(count, logsnr))
  config = configuration.from_dict(run.config)
  config.data.update(num_images=images, batch_size=VIDEOS[images])
  return Moments(gradients(model, params, config, stream, BATCHES))


def partly_trained() -> ConfigDict:
  """Return the README's configuration with 400 steps, when digits are not recognizable yet."""
  config = config_of('digits')
  config.training.update(num_steps=400, checkpoint_every=400, preview_every=400, heldout_every=0, schedule='constant')
  config.sampling.update(num_steps=2)  # makes the unused preview cheap
  return config


def arm(images: int) -> str:
  return f'{images} images'


def claim(name: str, levels: str, settings: Mapping[str, Any]) -> Claim:
  """Return the claim for a choice of noise levels, which `levels` describes."""
  run = Run('partly_trained', partly_trained)
  return Claim(
    name=name,
    source='VDM section 4.3.1',
    statement='appended images reduce the variance of minibatch gradients, at the expense of some bias',
    setting=f'400 steps of configs/digits.py, then 40 minibatches of 96 frames, {levels}; each seed is a separate '
    'training',
    cost='10 minutes, half of it for the runs',
    arms={arm(images): Arm(run, settings={'images': images} | settings) for images in VIDEOS},
    baseline=arm(0),
    scores=SCORES,
    comparisons=tuple(
      Comparison(arm(images), arm(0), score, expected)
      for images in (4, 8)
      for score, expected in (('log2_variance', 'lower'), ('log2_noise_to_signal', 'lower'), ('alignment', 'higher'))
    ),
    measure=measure,
    draw=quality.drawing({arm(k): ('96 frames', k) for k in VIDEOS}, SCORES, x='appended images per video'),
  )


CLAIMS = (
  claim('gradient_variance', 'a noise level per video, which its images share', {}),
  claim('gradient_variance_own_levels', 'a noise level per video and per image', {'frame_logsnr': 'images'}),
  claim('gradient_variance_one_level', f'all at the log-SNR {LEVEL:g}', {'logsnr': LEVEL}),
)
