"""Data whose ideal denoiser `E[x | z]` is known in closed form, and tools that test samplers with it.

The estimates are plain arithmetic in z, alpha and sigma, so that they serve numpy in float64 as well as jax.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from packaging.version import Version

from vdm_jax import sampling
from vdm_jax.diffusion import GaussianProcess, expand_dims_like, input_scaled, variance_preserving
from vdm_jax.types import Array, Denoiser, Step

PROCESSES = {'preserving': variance_preserving(), 'scaled-1': input_scaled(1.0), 'scaled-4': input_scaled(4.0)}

# The tests' environment compiles without optimization, which suits programs that run once; these options undo it.
_OPTIMIZED = {'xla_backend_optimization_level': 3}
if Version(importlib.metadata.version('jaxlib')) < Version('0.11'):
  _OPTIMIZED['xla_cpu_use_fusion_emitters'] = True


def optimized(function: Callable) -> Callable:
  """Return `jax.jit(function)`, optimized: for programs that run for longer than they take to compile."""
  return jax.jit(function, compiler_options=_OPTIMIZED)


class Gaussian(NamedTuple):
  """Independent pixels `x ~ N(mean, std^2)`."""

  mean: float
  std: float

  def estimate(self, z, alpha, sigma):
    gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
    return self.mean + gain * (z - alpha * self.mean)

  @property
  def mixture(self) -> Mixture:
    return Mixture(np.ones(1), np.array([self.mean]), np.array([self.std]))


class Mixture(NamedTuple):
  """Independent pixels from mixtures of Gaussians; parameters are `[k]`, or `[k c]` along the last axis."""

  weights: np.ndarray
  means: np.ndarray
  stds: np.ndarray

  @property
  def std(self):
    mean = (self.weights * self.means).sum(0)
    return np.sqrt((self.weights * (self.stds**2 + self.means**2)).sum(0) - mean**2)

  def estimate(self, z, alpha, sigma):
    xp = jnp if isinstance(z, jax.Array) else np
    log_p, estimates = [], []
    for weight, mean, std in zip(*self, strict=True):
      variance = (alpha * std) ** 2 + sigma**2
      log_p.append(np.log(weight) - (z - alpha * mean) ** 2 / (2 * variance) - xp.log(variance) / 2)
      estimates.append(Gaussian(mean, std).estimate(z, alpha, sigma))
    most = functools.reduce(xp.maximum, log_p)
    p = [xp.exp(a - most) for a in log_p]
    return sum(a * b for a, b in zip(p, estimates, strict=True)) / sum(p)

  @property
  def mixture(self) -> Mixture:
    return self

  def cdf(self, value: float) -> float:
    """The distribution function of a single mixture."""
    return sum(w * NormalDist(m, s).cdf(value) for w, m, s in zip(*self, strict=True))

  def quantiles(self, levels):
    """Quantiles of a single mixture, by bisection on its distribution function."""
    found = []
    for level in levels:
      low, high = -5.0, 5.0
      for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if self.cdf(middle) < level else (low, middle)
      found.append(middle)
    return np.array(found)

  def noised(self, noise: float) -> Mixture:
    """The law of x + noise eps."""
    return self._replace(stds=np.sqrt(self.stds**2 + noise**2))


class JointGaussian(NamedTuple):
  """`x ~ N(mean, covariance)` along the last axis: correlated frames or pixels."""

  mean: np.ndarray
  covariance: np.ndarray

  def estimate(self, z, alpha, sigma):
    """alpha and sigma are `[b 1]`: the gain is diagonal in the covariance's eigenvectors."""
    values, vectors = np.linalg.eigh(self.covariance)
    gain = alpha * values / (alpha**2 * values + sigma**2)
    return self.mean + ((z - alpha * self.mean) @ vectors * gain) @ vectors.T

  def observed(self, index: int, value: float) -> JointGaussian:
    """The law of x given that `x[index]` is `value`."""
    column = self.covariance[:, index]
    shift = (value - self.mean[index]) / column[index]
    return JointGaussian(self.mean + column * shift, self.covariance - np.outer(column, column) / column[index])


def exact(data, process: GaussianProcess) -> Denoiser:
  """The ideal denoiser of `data`, which ignores condition and carry."""

  def denoiser(z, logsnr, cond, carry):
    return data.estimate(
      z, expand_dims_like(process.alpha(logsnr), z), expand_dims_like(process.sigma(logsnr), z)
    ), carry

  return denoiser


def probability_flow(data, y: Sequence[float], noise_t: float, noise_s: float) -> np.ndarray:
  """The exact solution of the probability-flow ODE of one pixel in y = z / alpha, between two levels sigma / alpha.

  The ODE keeps the quantiles of the marginal distributions.
  """
  first, last = data.mixture.noised(noise_t), data.mixture.noised(noise_s)
  return last.quantiles([first.cdf(value) for value in y])


@functools.cache
def even_normals(n: int) -> np.ndarray:
  """n equally probable values of a standard normal, float32: a sample without sampling error, in random order."""
  values = scipy.special.ndtri((np.arange(n) + 0.5) / n).astype(np.float32)
  return np.random.default_rng(0).permutation(values / values.std())


# A Gaussian and a mixture of two modes.
GAUSSIAN = Gaussian(0.3, 0.5)
MIXTURE = Mixture(np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.1, 0.2]))


def states(denoiser: Denoiser, step: Step, logsnrs: Array, z: Array, rng: Array, cond=None) -> jax.Array:
  """z at every level of the grid `[N b ...]`: the sampler's loop, without its last evaluation."""

  def body(state, i):
    state = sampling.advance(denoiser, step, logsnrs, state, rng, cond, i, i + 1)
    return state, state.z

  begun = sampling.begin(denoiser, step, logsnrs, z, cond)
  return jnp.concatenate([z[None], jax.lax.scan(body, begun, jnp.arange(len(logsnrs) - 1))[1]])


def compiled(step: Step, denoiser: Denoiser) -> Callable:
  """A first step, compiled: a function of z `[b ...]`, levels `[]` or `[b]`, key and condition; returns float64."""

  @jax.jit
  def run(z, logsnr_t, logsnr_s, rng, cond):
    t, s = (jnp.broadcast_to(level, z.shape[:1]) for level in (logsnr_t, logsnr_s))
    return step.update(denoiser, z, t, s, rng, cond, None, step.init(z))[0]

  def call(z, logsnr_t, logsnr_s, rng=None, cond=None):
    z, t, s = (jnp.asarray(a, jnp.float32) for a in (z, logsnr_t, logsnr_s))
    return np.asarray(run(z, t, s, jax.random.key(0) if rng is None else rng, cond), np.float64)

  return call
