"""Steps of the reverse process, from `z_t` at `logsnr_t` to the cleaner `z_s` at `logsnr_s`, for any Gaussian process.

A `Step` is a pair of pure functions, `init(z) -> memory` and
`update(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry, memory) -> (z_s, carry, memory)`. One-step methods have no
memory and are written as a function of the other arguments, decorated with `memoryless`. `rng` is one key, or a key per
example `[b]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from vdm_jax.diffusion import GaussianProcess, diffuse, expand_dims_like, posterior, predict_eps_from_x
from vdm_jax.rng import unit_noise
from vdm_jax.types import Array, Carry, Denoiser, Memory, Step


def memoryless(function: Callable[..., tuple[Array, Carry]]) -> Step:
  """Return a step without memory from `(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry) -> (z_s, carry)`.

  For use as a decorator.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> @sampling.memoryless
  ... def jump(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry):
  ...   x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
  ...   return x_hat, carry
  >>> constant = lambda z, logsnr, cond, carry: (jnp.full_like(z, 0.5), carry)
  >>> sampling.sample(constant, jump, diffusion.cosine_grid(4), jnp.zeros((1, 2)), jax.random.key(0), None)
  Array([[0.5, 0.5]], dtype=float32)
  """

  def update(
    denoiser: Denoiser,
    z_t: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    rng: Array,
    cond: Any,
    carry: Carry,
    memory: Memory,
  ) -> tuple[Array, Carry, Memory]:
    return *function(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry), memory

  return Step(lambda z: None, update)


def ancestral(process: GaussianProcess, gamma: float = 0.0) -> Step:
  """Return VDM's ancestral step: a draw from the reverse process (VDM Eqs. 3 and 4).

  z_s has the mean of q(z_s | z_t, x_hat) and the variance `std_min^(2 (1 - gamma)) std_max^(2 gamma)`, whose bounds are
  the standard deviations of q(z_s | z_t, x) and q(z_t | z_s).

  Args:
    process: the diffusion process.
    gamma: in [0, 1], interpolates the log-variance; VDM uses 0 to 0.3. Only gamma = 0 is the same for every process,
      since the ratio of the bounds, (sigma_t / sigma_s)^2, depends on the scale of z.

  Raises:
    ValueError: `gamma` is outside [0, 1].

  >>> from vdm_jax import diffusion, sampling
  >>> step = sampling.ancestral(diffusion.variance_preserving(), gamma=0.1)
  """
  if not 0 <= gamma <= 1:
    raise ValueError(f'gamma={gamma} must be in [0, 1]: it interpolates between two variances. VDM uses 0 to 0.3.')

  @memoryless
  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
    reverse = posterior(process, z_t, x_hat, logsnr_t, logsnr_s)
    std = reverse.std_min ** (1 - gamma) * reverse.std_max**gamma
    return reverse.mean + expand_dims_like(std, z_t) * unit_noise(rng, z_t.shape), carry

  return step


def ddim(process: GaussianProcess) -> Step:
  """Return the deterministic DDIM step `z_s = alpha_s x_hat + sigma_s eps_hat` (Song et al. 2021, eta = 0).

  First order: it solves the probability-flow ODE exactly while x_hat is constant.

  >>> from vdm_jax import diffusion, sampling
  >>> step = sampling.ddim(diffusion.variance_preserving())
  """

  @memoryless
  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
    return _move(process, z_t, x_hat, logsnr_t, logsnr_s), carry

  return step


def heun(
  process: GaussianProcess,
  churn: float = 0.0,
  churn_noise: float = 1.0,
  churn_range: tuple[float, float] = (0.0, math.inf),
) -> Step:
  """Return EDM's second-order step (Karras et al. 2022, Algorithms 1 and 2), which evaluates the denoiser twice.

  It is written in y = z / alpha and the noise level sigma / alpha. For `input_scaled` it is Snap's sampler (section
  3.2), where x_hat is divided by sigma_in: y is sigma_in times the state there.

  Args:
    process: the diffusion process.
    churn: relative amount by which the noise level is first raised with fresh noise, EDM's S_churn / num_steps; in
      [0, sqrt(2) - 1].
    churn_noise: standard deviation of that noise, EDM's S_noise.
    churn_range: the noise levels sigma / alpha at which it is added, both included: EDM's S_tmin and S_tmax.

  Raises:
    ValueError: `churn` is outside [0, sqrt(2) - 1].

  >>> from vdm_jax import diffusion, sampling
  >>> step = sampling.heun(diffusion.input_scaled(4.0), churn=0.1, churn_range=(0.05, 50.0))
  """
  if not 0 <= churn <= 2**0.5 - 1:
    raise ValueError(f'churn={churn} must be in [0, 0.4142]: EDM caps S_churn / num_steps at sqrt(2) - 1.')

  @memoryless
  def step(
    denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]:
    y, noise_s = z_t / expand_dims_like(process.alpha(logsnr_t), z_t), jnp.exp(-0.5 * logsnr_s)
    if churn:
      noise = jnp.exp(-0.5 * logsnr_t)
      share = jnp.where((noise >= churn_range[0]) & (noise <= churn_range[1]), churn, 0.0)
      raised = noise * churn_noise * jnp.sqrt(share * (2 + share))
      y = y + expand_dims_like(raised, y) * unit_noise(rng, y.shape)
      logsnr_t = logsnr_t - 2 * jnp.log1p(share)
    noise_t = jnp.exp(-0.5 * logsnr_t)

    def slope(y: Array, logsnr: Array, noise: Array, carry: Carry) -> tuple[Array, Carry]:
      x_hat, carry = denoiser(expand_dims_like(process.alpha(logsnr), y) * y, logsnr, cond, carry)
      return (y - x_hat) / expand_dims_like(noise, y), carry

    length = expand_dims_like(noise_s - noise_t, y)
    first, carry = slope(y, logsnr_t, noise_t, carry)
    second, carry = slope(y + length * first, logsnr_s, noise_s, carry)
    y = y + length * (first + second) / 2
    return expand_dims_like(process.alpha(logsnr_s), y) * y, carry

  return step


class Estimate(NamedTuple):
  """Memory of `dpm_solver`: the previous estimate of x and its level."""

  x_hat: Array  # [b ...]
  logsnr: Array  # [b], -inf before the first step


def dpm_solver(process: GaussianProcess, *, max_ratio: float = math.inf) -> Step:
  """Return the step of DPM-Solver++(2M), second order at one evaluation per step (Lu et al. 2022b, Algorithm 2).

  With z / sigma and the half-log-SNR `log(alpha / sigma) = logsnr / 2`, the probability-flow ODE of any Gaussian
  process is d(z / sigma) = x_hat d(alpha / sigma). The step integrates it with x_hat held at its value in the middle of
  the step, extrapolated linearly in logsnr from this evaluation and the previous one:

      D = x_hat + (r / 2) (x_hat - x_hat_previous)        r = (logsnr_s - logsnr_t) / (logsnr_t - logsnr_previous)
      z_s = (sigma_s / sigma_t) z_t + alpha_s (1 - exp((logsnr_t - logsnr_s) / 2)) D

  which is a DDIM step towards D. A constant x_hat makes it exact. Without a previous evaluation at a lower log-SNR, as
  in the first step, D = x_hat and the step is `ddim`.

  Args:
    process: the diffusion process.
    max_ratio: upper bound on r; the published method has none. Equal steps have r = 1, and those of `cosine_levels` at
      most log 2 / log 1.5 = 1.71, with which the step is accurate. The last step of `cosine_grid` is many times as wide
      as the one before and is extrapolated far beyond both evaluations: bound it by 1 there. Bounded or not, the order
      is 2 on grids whose ratios tend to 1.

  Raises:
    ValueError: `max_ratio` is not positive.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> process, grid = diffusion.input_scaled(1.0), diffusion.karras_grid(12, sigma_min=0.01, sigma_max=10.0)
  >>> def denoiser(z, logsnr, cond, carry):  # E[x | z] of unit normal data
  ...   return z / (1 + jnp.exp(-logsnr[:, None])), carry
  >>> z = 10 * jnp.ones((1, 1))  # exact: sqrt(1 + 0.01^2) / sqrt(1 + 10^2) z = 0.995
  >>> [round(float(sampling.sample(denoiser, make(process), grid, z, jax.random.key(0), None)[0, 0]), 3)
  ...  for make in (sampling.ddim, sampling.dpm_solver)]
  [0.866, 1.036]
  """
  if not max_ratio > 0:
    raise ValueError(f'max_ratio={max_ratio} must be positive: math.inf is the published method, ddim first order.')

  def init(z: Array) -> Estimate:
    return Estimate(jnp.zeros(z.shape, jnp.float32), jnp.full(z.shape[:1], -jnp.inf, jnp.float32))

  def update(
    denoiser: Denoiser,
    z_t: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    rng: Array,
    cond: Any,
    carry: Carry,
    memory: Estimate,
  ) -> tuple[Array, Carry, Estimate]:
    x_hat, carry = denoiser(z_t, logsnr_t, cond, carry)
    known = jnp.isfinite(memory.logsnr) & (memory.logsnr < logsnr_t)
    ratio = (logsnr_s - logsnr_t) / jnp.where(known, logsnr_t - memory.logsnr, 1.0)
    half = expand_dims_like(0.5 * jnp.minimum(ratio, max_ratio), z_t)
    middle = jnp.where(expand_dims_like(known, z_t), x_hat + half * (x_hat - memory.x_hat), x_hat)
    return _move(process, z_t, middle, logsnr_t, logsnr_s), carry, Estimate(x_hat, logsnr_t)

  return Step(init, update)


def _move(process: GaussianProcess, z_t: Array, x_hat: Array, logsnr_t: Array, logsnr_s: Array) -> Array:
  """Return z_s on the line from z_t to x_hat: `alpha_s x_hat + sigma_s eps_hat`."""
  return diffuse(process, x_hat, predict_eps_from_x(process, z_t, x_hat, logsnr_t), logsnr_s)
