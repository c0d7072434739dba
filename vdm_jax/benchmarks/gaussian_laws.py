"""Exact laws of conditional samplers on Gaussian videos, from the papers' formulas in float64.

For jointly Gaussian data the exact denoiser is linear in z, and so is the gradient of reconstruction guidance. The
samples for an observation y are then Gaussian, with a mean linear in y and a covariance independent of y. Both are
propagated through all steps as matrices, without random numbers and without the library's samplers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vdm_jax import diffusion

STD = 0.5  # of every element of the data
SIGMA_IN = 4.0


class Problem(NamedTuple):
  """Data N(0, covariance) of n elements, of which y = measure x, m numbers, is observed."""

  video_shape: tuple[int, int, int, int]  # n elements as a video [t h w c]
  covariance: np.ndarray  # [n n]
  measure: np.ndarray  # [m n]
  seen: np.ndarray  # bool [n]: elements that y contains unchanged; their laws are not compared


class Process(NamedTuple):
  """`z = alpha x + sigma eps`, functions of log-SNR."""

  alpha: Callable[[float], float]
  sigma: Callable[[float], float]


class Law(NamedTuple):
  """A Gaussian of n elements given y, with mean `response y`."""

  response: np.ndarray  # [n m]
  covariance: np.ndarray  # [n n]

  def moved(self, by_z: np.ndarray, by_y: np.ndarray, std: np.ndarray | float = 0.0) -> Law:
    """Return the law of `by_z z + by_y y + std eps` for z of this law; `std` is per element."""
    spread = np.diag(np.broadcast_to(np.square(std), len(by_z)))
    return Law(by_z @ self.response + by_y, by_z @ self.covariance @ by_z.T + spread)


def problems() -> dict[str, Problem]:
  """Return prediction and interpolation of single-pixel frames, and a picture observed at half its resolution."""
  identity = np.eye(8)
  early, even = np.arange(8) < 4, np.arange(8) % 2 == 0
  picture = np.kron(smooth(4, 1.5), smooth(4, 1.5))
  halved = np.kron(np.eye(2), np.full((1, 2), 0.5))
  return {
    'prediction': Problem((8, 1, 1, 1), STD**2 * autoregressive(8, 0.95), identity[early], early),
    'interpolation': Problem((8, 1, 1, 1), STD**2 * with_white(smooth(8, 2.0)), identity[even], even),
    'super-resolution': Problem(
      (1, 4, 4, 1), STD**2 * with_white(picture), np.kron(halved, halved), np.zeros(16, bool)
    ),
  }


def autoregressive(count: int, correlation: float) -> np.ndarray:
  """Return the correlations of a stationary AR(1) process."""
  return correlation ** np.abs(np.subtract.outer(np.arange(count), np.arange(count)))


def smooth(count: int, length: float) -> np.ndarray:
  """Return correlations that decrease with the distance d as exp(-d^2 / (2 length^2))."""
  return np.exp(-0.5 * np.square(np.subtract.outer(np.arange(count), np.arange(count)) / length))


def with_white(correlation: np.ndarray, share: float = 0.05) -> np.ndarray:
  """Return the correlations with a share of the variance made white, which no other element predicts."""
  return (1 - share) * correlation + share * np.eye(len(correlation))


def variance_preserving() -> Process:
  """Return VDM's process in float64."""
  return Process(lambda logsnr: (1 + np.exp(-logsnr)) ** -0.5, lambda logsnr: (1 + np.exp(logsnr)) ** -0.5)


def input_scaled(sigma_in: float) -> Process:
  """Return Snap's process in float64."""
  return Process(lambda logsnr: 1 / sigma_in, lambda logsnr: np.exp(-0.5 * logsnr) / sigma_in)


# Name -> the process, and its grid as a function of the number of points.
PROCESSES = {
  'variance_preserving': (variance_preserving(), diffusion.cosine_levels),
  'input_scaled': (
    input_scaled(SIGMA_IN),
    lambda num_points: diffusion.karras_grid(num_points, sigma_min=0.002, sigma_max=80.0, sigma_in=SIGMA_IN),
  ),
}


def exact_conditional(problem: Problem) -> Law:
  """Return the law of x given y, by the Schur complement."""
  crossed = problem.measure @ problem.covariance
  response = np.linalg.solve(crossed @ problem.measure.T, crossed).T
  return Law(response, problem.covariance - response @ crossed)


def denoiser(
  problem: Problem, settings: Mapping[str, Any], alpha: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
  """Return the matrices of x_hat = by_z z + by_y y at a level, under `conditioning`.

  E[x | z] = G z with G = alpha S (alpha^2 S + sigma^2)^-1, and reconstruction guidance (VDM Eqs. 7 and 8) adds
  -(w alpha / 2) grad_z |y - H G z|^2 = w alpha G' H' (y - H G z).
  """
  gain = posterior_gain(problem.covariance, alpha, sigma)
  if settings['conditioning'] == 'exact':
    known = exact_conditional(problem)
    gain = posterior_gain(known.covariance, alpha, sigma)
    return gain, known.response - alpha * gain @ known.response
  by_z, by_y = gain, np.zeros_like(problem.measure.T)
  if settings['conditioning'] == 'reconstruction':
    measured = problem.measure @ gain
    by_y = settings['reconstruction_weight'] * alpha * measured.T
    by_z = gain - by_y @ measured
  if settings['conditioning'] != 'redraw':
    by_z, by_y = given(problem, by_z, by_y)
  return by_z, by_y


def posterior_gain(covariance: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
  """Return the matrix of E[x | z] for x of mean zero; `covariance` may be singular."""
  return alpha * np.linalg.solve(alpha**2 * covariance + sigma**2 * np.eye(len(covariance)), covariance)


def given(problem: Problem, by_z: np.ndarray, by_y: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
  """Return the matrices with observed elements replaced by `scale y`."""
  seen = problem.seen[:, None]
  return np.where(seen, 0.0, by_z), np.where(seen, scale * problem.measure.T, by_y)


def sampled(problem: Problem, process: Process, logsnrs: Sequence[float], settings: Mapping[str, Any]) -> Law:
  """Return the law of samples given y, on a grid of N log-SNRs: N - 1 steps and a last evaluation.

  `settings` holds `conditioning`, and `reconstruction_weight`, `step` ('ancestral' or 'ddim'), `gamma` and
  `langevin_delta` where they differ from 1, ancestral, 0 and 0.
  """
  settings = {'reconstruction_weight': 1.0, 'step': 'ancestral', 'gamma': 0.0, 'langevin_delta': 0.0} | dict(settings)
  alphas, sigmas = ([float(f(logsnr)) for logsnr in logsnrs] for f in process)
  levels = [denoiser(problem, settings, *level) for level in zip(alphas, sigmas, strict=True)]
  size, delta = len(problem.covariance), settings['langevin_delta']
  redrawn = settings['conditioning'] == 'redraw' or settings['gamma'] > 0
  identity, nothing = np.eye(size), np.zeros_like(problem.measure.T)

  def hold(z: Law, level: int) -> Law:
    """Draw observed elements of z afresh from q(z | x)."""
    std = np.where(problem.seen, sigmas[level], 0.0)
    return z.moved(*given(problem, identity, nothing, alphas[level]), std) if redrawn else z

  _, by_y = given(problem, identity, nothing, alphas[0])
  z = Law(by_y, sigmas[0] ** 2 * identity)
  for t, s in zip(range(len(alphas) - 1), range(1, len(alphas)), strict=True):
    keep, take, std = reverse_step(alphas, sigmas, logsnrs, t, settings)
    by_z, by_y = levels[t]
    z = hold(z.moved(keep * identity + take * by_z, take * by_y, std), s)
    if delta:
      # z <- z - (delta / 2) (z - alpha x_hat) + sqrt(delta) sigma eps (VDM Eq. 5)
      by_z, by_y = levels[s]
      take = 0.5 * delta * alphas[s]
      corrected = z.moved((1 - 0.5 * delta) * identity + take * by_z, take * by_y, delta**0.5 * sigmas[s])
      z = hold(corrected, s)
  x = z.moved(*levels[-1])
  return x.moved(*given(problem, identity, nothing))


def reverse_step(
  alphas: Sequence[float], sigmas: Sequence[float], logsnrs: Sequence[float], t: int, settings: Mapping[str, Any]
) -> tuple[float, float, float]:
  """Return the numbers of z_s = keep z_t + take x_hat + std eps, from level t to the next (VDM Eqs. 3 and 4)."""
  alpha_t, sigma_t, alpha_s, sigma_s = alphas[t], sigmas[t], alphas[t + 1], sigmas[t + 1]
  if settings['step'] == 'ddim':
    keep = sigma_s / sigma_t
    return keep, alpha_s - keep * alpha_t, 0.0
  gap = float(logsnrs[t]) - float(logsnrs[t + 1])
  fresh = -np.expm1(gap)  # sigma_{t|s}^2 / sigma_t^2
  std = np.sqrt(fresh) * sigma_s ** (1 - settings['gamma']) * sigma_t ** settings['gamma']
  return np.exp(gap) * alpha_s / alpha_t, fresh * alpha_s, std


def score(problem: Problem, found: Law) -> dict[str, float]:
  """Return the distances of a law from the exact conditional, over unobserved elements, averaged over y.

  mean_error        root mean square error of the mean, relative to the root mean square of the exact mean
  covariance_error  Frobenius norm of the covariance's error, relative to that of the exact covariance
  frechet           2-Wasserstein distance, root mean square over y, relative to the exact standard deviation (the root
                    of the covariance's trace): all mass on the exact mean would score 1
  """
  at = ~problem.seen
  exact = exact_conditional(problem)
  observed = problem.measure @ problem.covariance @ problem.measure.T

  def mean_square(response: np.ndarray) -> float:
    return float(np.trace(response @ observed @ response.T))

  off = mean_square((found.response - exact.response)[at])
  covariance, wanted = found.covariance[np.ix_(at, at)], exact.covariance[np.ix_(at, at)]
  distance = off + bures(covariance, wanted)
  return {
    'mean_error': float(np.sqrt(off / mean_square(exact.response[at]))),
    'covariance_error': float(np.linalg.norm(covariance - wanted) / np.linalg.norm(wanted)),
    'frechet': float(np.sqrt(distance / np.trace(wanted))),
  }


def bures(first: np.ndarray, second: np.ndarray) -> float:
  """Return the squared 2-Wasserstein distance of two Gaussians of equal mean with these covariances."""
  root = square_root(second)
  crossed = np.linalg.eigvalsh(root @ first @ root).clip(0)
  return max(0.0, float(np.trace(first) + np.trace(second) - 2 * np.sqrt(crossed).sum()))


def square_root(covariance: np.ndarray) -> np.ndarray:
  """Return the symmetric square root."""
  values, vectors = np.linalg.eigh(covariance)
  return vectors * np.sqrt(values.clip(0)) @ vectors.T
