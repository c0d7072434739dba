"""How far each method of conditional sampling is from the exact conditional, where that is known: Gaussian videos.

    python -m vdm_jax.benchmarks.conditional_gaussians --out=conditional.json --table

VDM's section 3.1 proposes reconstruction guidance for a model that knows nothing of conditions, and says that it is
better than replacing the given frames, more so with Langevin correction. For jointly Gaussian data the exact denoiser
is linear in z, and so is the gradient of reconstruction guidance. What a sampler makes of an observation y is then
Gaussian, of a mean that is linear in y and a covariance that does not depend on it. Both are carried through all steps
here as float64 matrices, from the papers' formulas and without the library's samplers: nothing is drawn.

Two references stand beside the methods. `exact denoiser` samples with E[x | z, y], so that it is off by the finite
number of steps alone; `nothing` is the model's own law, which disregards the observation.

At gamma = 0 a process differs from another by a rescaling of z alone, which changes none of the laws: the two that are
measured differ by their grids, the cosine's and EDM's.

Prints JSON, or Markdown with --table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdm_jax import diffusion

STD = 0.5  # of every element of the data
SIGMA_IN = 4.0
DELTA = 0.1  # VDM's Langevin step
STEPS = (64, 256, 1024)  # points of the grid
# Name -> what it sets in the section `sampling`; 'exact' is of this benchmark alone.
METHODS = {
  'exact denoiser': {'conditioning': 'exact'},
  'replacement': {'conditioning': 'replacement'},
  'redraw': {'conditioning': 'redraw'},
  'reconstruction, w=1': {'conditioning': 'reconstruction', 'reconstruction_weight': 1.0},
  'reconstruction, w=2': {'conditioning': 'reconstruction', 'reconstruction_weight': 2.0},
  'reconstruction, w=5': {'conditioning': 'reconstruction', 'reconstruction_weight': 5.0},
  'reconstruction, w=20': {'conditioning': 'reconstruction', 'reconstruction_weight': 20.0},
}
NOTHING = 'nothing'
# What VDM says in section 3.1, of its formula as it stands (w=1): the first (method, Langevin step) beats the second.
CLAIMS = {
  'guidance': (('reconstruction, w=1', 0.0), ('replacement', 0.0)),
  'guidance, both with Langevin': (('reconstruction, w=1', DELTA), ('replacement', DELTA)),
  'guidance over redraw': (('reconstruction, w=1', 0.0), ('redraw', 0.0)),
  'Langevin': (('reconstruction, w=1', DELTA), ('reconstruction, w=1', 0.0)),
}
# Score -> its column in the table.
SCORES = {'mean_error': 'mean', 'covariance_error': 'covariance', 'frechet': 'Frechet'}


class Problem(NamedTuple):
  """Data N(0, covariance) of n elements, of which y = measure x is observed, m numbers."""

  video_shape: tuple[int, int, int, int]  # n elements as a video [t h w c]
  covariance: np.ndarray  # [n n]
  measure: np.ndarray  # [m n]
  seen: np.ndarray  # bool [n]: the elements that y gives as they are; their laws are not compared


class Process(NamedTuple):
  """`z = alpha x + sigma eps`, functions of log-SNR."""

  alpha: Callable[[float], float]
  sigma: Callable[[float], float]


class Law(NamedTuple):
  """A Gaussian of n elements given y: the mean is `response y`."""

  response: np.ndarray  # [n m]
  covariance: np.ndarray  # [n n]

  def moved(self, by_z: np.ndarray, by_y: np.ndarray, std: np.ndarray | float = 0.0) -> Law:
    """The law of `by_z z + by_y y + std eps` for z of this law; `std` is that of each element."""
    spread = np.diag(np.broadcast_to(np.square(std), len(by_z)))
    return Law(by_z @ self.response + by_y, by_z @ self.covariance @ by_z.T + spread)


def problems() -> dict[str, Problem]:
  """Prediction and interpolation of frames of a single pixel, and a picture seen at half its resolution."""
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
  """Correlations of a stationary AR(1) process."""
  return correlation ** np.abs(np.subtract.outer(np.arange(count), np.arange(count)))


def smooth(count: int, length: float) -> np.ndarray:
  """Correlations that fall off with the distance d as exp(-d^2 / (2 length^2))."""
  return np.exp(-0.5 * np.square(np.subtract.outer(np.arange(count), np.arange(count)) / length))


def with_white(correlation: np.ndarray, share: float = 0.05) -> np.ndarray:
  """The same with a share of the variance turned white, which no observation of other elements tells of."""
  return (1 - share) * correlation + share * np.eye(len(correlation))


def variance_preserving() -> Process:
  return Process(lambda logsnr: (1 + np.exp(-logsnr)) ** -0.5, lambda logsnr: (1 + np.exp(logsnr)) ** -0.5)


def input_scaled(sigma_in: float) -> Process:
  return Process(lambda logsnr: 1 / sigma_in, lambda logsnr: np.exp(-0.5 * logsnr) / sigma_in)


# Name -> the process, and its grid of a number of points.
PROCESSES = {
  'variance_preserving': (variance_preserving(), diffusion.cosine_grid),
  'input_scaled': (
    input_scaled(SIGMA_IN),
    lambda num_points: diffusion.karras_grid(num_points, sigma_min=0.002, sigma_max=80.0, sigma_in=SIGMA_IN),
  ),
}


def exact_conditional(problem: Problem) -> Law:
  """The law of x given y, by the Schur complement."""
  crossed = problem.measure @ problem.covariance
  response = np.linalg.solve(crossed @ problem.measure.T, crossed).T
  return Law(response, problem.covariance - response @ crossed)


def denoiser(
  problem: Problem, settings: Mapping[str, Any], alpha: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
  """The matrices of x_hat = by_z z + by_y y at a level, under `conditioning`.

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
  """The matrix of E[x | z] for x of mean zero; `covariance` may be singular."""
  return alpha * np.linalg.solve(alpha**2 * covariance + sigma**2 * np.eye(len(covariance)), covariance)


def given(problem: Problem, by_z: np.ndarray, by_y: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
  """The same matrices, but for given elements `scale y` whatever z is."""
  seen = problem.seen[:, None]
  return np.where(seen, 0.0, by_z), np.where(seen, scale * problem.measure.T, by_y)


def sampled(problem: Problem, process: Process, logsnrs: Sequence[float], settings: Mapping[str, Any]) -> Law:
  """The law of what a sampler makes of y on a grid of N log-SNRs, by N - 1 steps and a last evaluation.

  `settings` holds the conditioning, and `reconstruction_weight`, `step` ('ancestral' or 'ddim'), `gamma` and
  `langevin_delta` where they differ from 1, ancestral, 0 and 0.
  """
  settings = {'reconstruction_weight': 1.0, 'step': 'ancestral', 'gamma': 0.0, 'langevin_delta': 0.0} | dict(settings)
  alphas, sigmas = ([float(f(logsnr)) for logsnr in logsnrs] for f in process)
  levels = [denoiser(problem, settings, *level) for level in zip(alphas, sigmas, strict=True)]
  size, delta = len(problem.covariance), settings['langevin_delta']
  redrawn = settings['conditioning'] == 'redraw' or settings['gamma'] > 0
  identity, nothing = np.eye(size), np.zeros_like(problem.measure.T)

  def hold(z: Law, level: int) -> Law:
    """Given elements of z drawn afresh from q(z | x)."""
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
  """The numbers of z_s = keep z_t + take x_hat + std eps, from level t of a grid to the next (VDM Eqs. 3 and 4)."""
  alpha_t, sigma_t, alpha_s, sigma_s = alphas[t], sigmas[t], alphas[t + 1], sigmas[t + 1]
  if settings['step'] == 'ddim':
    keep = sigma_s / sigma_t
    return keep, alpha_s - keep * alpha_t, 0.0
  gap = float(logsnrs[t]) - float(logsnrs[t + 1])
  fresh = -np.expm1(gap)  # sigma_{t|s}^2 / sigma_t^2
  std = np.sqrt(fresh) * sigma_s ** (1 - settings['gamma']) * sigma_t ** settings['gamma']
  return np.exp(gap) * alpha_s / alpha_t, fresh * alpha_s, std


def score(problem: Problem, made: Law) -> dict[str, float]:
  """How far a law is from the exact conditional over the elements that are not given, on average over y.

  mean_error        root mean square of the mean's error, as a share of that of the exact mean
  covariance_error  Frobenius norm of the covariance's error, as a share of that of the exact covariance
  frechet           2-Wasserstein distance, root mean square over y, as a share of the exact standard deviation
                    (the root of the covariance's trace): all of the mass on the exact mean would score 1
  """
  at = ~problem.seen
  exact = exact_conditional(problem)
  observed = problem.measure @ problem.covariance @ problem.measure.T

  def mean_square(response: np.ndarray) -> float:
    return float(np.trace(response @ observed @ response.T))

  off = mean_square((made.response - exact.response)[at])
  made_covariance, wanted = made.covariance[np.ix_(at, at)], exact.covariance[np.ix_(at, at)]
  distance = off + bures(made_covariance, wanted)
  return {
    'mean_error': float(np.sqrt(off / mean_square(exact.response[at]))),
    'covariance_error': float(np.linalg.norm(made_covariance - wanted) / np.linalg.norm(wanted)),
    'frechet': float(np.sqrt(distance / np.trace(wanted))),
  }


def bures(first: np.ndarray, second: np.ndarray) -> float:
  """The squared 2-Wasserstein distance of Gaussians with one mean and these covariances."""
  root = square_root(second)
  crossed = np.linalg.eigvalsh(root @ first @ root).clip(0)
  return max(0.0, float(np.trace(first) + np.trace(second) - 2 * np.sqrt(crossed).sum()))


def square_root(covariance: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(covariance)
  return vectors * np.sqrt(values.clip(0)) @ vectors.T


def methods_for(problem: Problem, gamma: float) -> dict[str, dict[str, Any]]:
  """The methods that apply: nothing is replaced or redrawn where nothing is given, nor replaced where gamma > 0."""
  left_out = {'replacement'} if gamma else set()
  if not problem.seen.any():
    left_out = {'replacement', 'redraw'}
  return {name: settings for name, settings in METHODS.items() if settings['conditioning'] not in left_out}


def measure(steps: Sequence[int], step: str = 'ancestral', gamma: float = 0.0) -> list[dict[str, Any]]:
  """Scores of every method, with and without Langevin correction, by problem, process and number of grid points."""
  cases = []
  for name, problem in problems().items():
    unconditional = Law(np.zeros_like(problem.measure.T), problem.covariance)
    cases.append({'problem': name, 'method': NOTHING} | score(problem, unconditional))
    for process_name, (process, grid) in PROCESSES.items():
      for num_steps in steps:
        logsnrs = np.asarray(grid(num_steps), np.float64)
        for method, settings in methods_for(problem, gamma).items():
          for delta in (0.0, DELTA):
            settings = settings | {'step': step, 'gamma': gamma, 'langevin_delta': delta}
            where = {'problem': name, 'process': process_name, 'num_steps': num_steps}
            where |= {'method': method, 'langevin_delta': delta}
            cases.append(where | score(problem, sampled(problem, process, logsnrs, settings)))
  return cases


def claims(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """For each of CLAIMS, and where both of its methods were measured: whether it holds, by each score."""
  found = {place(case): case for case in cases}
  held = []
  for at in dict.fromkeys(where[:3] for where in found if where[1]):
    for claim, (better, worse) in CLAIMS.items():
      if {(*at, *better), (*at, *worse)} <= set(found):
        first, second = found[(*at, *better)], found[(*at, *worse)]
        where = dict(zip(('problem', 'process', 'num_steps'), at, strict=True))
        held.append(where | {'claim': claim} | {key: first[key] < second[key] for key in SCORES})
  return held


def place(case: Mapping[str, Any]) -> tuple[Any, ...]:
  """What tells a case from the others; what a case of NOTHING does not have is None."""
  return tuple(case.get(key) for key in ('problem', 'process', 'num_steps', 'method', 'langevin_delta'))


def table(report: Mapping[str, Any]) -> str:
  """Markdown: of each process all scores at the middle number of steps, then the Frechet distance at all of them.

  Two figures to a cell: without Langevin correction, and with it.
  """
  steps = sorted(report['steps'])
  found = {place(case): case for case in report['cases']}
  rows = list(dict.fromkeys((case['problem'], case['method']) for case in report['cases']))

  def cell(problem: str, process: str, num_steps: int, method: str, key: str) -> str:
    if method == NOTHING:
      return f'{found[problem, None, None, NOTHING, None][key]:.3f}'
    pair = [found[problem, process, num_steps, method, delta][key] for delta in (0.0, DELTA)]
    return ' / '.join(f'{value:.3f}' for value in pair)

  parts = []
  for process in PROCESSES:
    middle = steps[len(steps) // 2]
    columns = [(f'{title}, {middle} steps', middle, key) for key, title in SCORES.items()]
    columns += [(f'Frechet, {num_steps} steps', num_steps, 'frechet') for num_steps in steps if num_steps != middle]
    lines = [f'{process}, without / with Langevin correction', '']
    lines += ['| ' + ' | '.join(['problem', 'method', *(title for title, *_ in columns)]) + ' |']
    lines += ['|---' * (len(columns) + 2) + '|']
    for problem, method in rows:
      cells = [cell(problem, process, num_steps, method, key) for _, num_steps, key in columns]
      lines.append('| ' + ' | '.join([problem, method, *cells]) + ' |')
    parts.append('\n'.join(lines) + '\n')
  return '\n'.join(parts)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, help='file for the JSON')
  parser.add_argument('--steps', default=','.join(map(str, STEPS)), help='points of the grid, separated by commas')
  parser.add_argument('--step', default='ancestral', choices=('ancestral', 'ddim'))
  parser.add_argument('--gamma', type=float, default=0.0, help='of ancestral steps, from 0 to 1')
  parser.add_argument('--table', action='store_true', help='print Markdown in place of JSON')
  args = parser.parse_args(argv)
  if not 0 <= args.gamma <= 1 or (args.gamma and args.step != 'ancestral'):
    parser.error(f'--gamma={args.gamma} with --step={args.step}: choose from 0 to 1 for ancestral, and 0 for ddim.')
  steps = args.steps.split(',')
  if not all(count.isdecimal() and int(count) > 1 for count in steps):
    parser.error(f'--steps={args.steps}: give whole numbers from 2 up, separated by commas.')
  settings = {'steps': [int(count) for count in steps], 'step': args.step, 'gamma': args.gamma}
  cases = measure(**settings)
  report = settings | {'cases': cases, 'claims': claims(cases)}
  text = json.dumps(report, indent=2) + '\n'
  if args.out:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
  print(table(report) if args.table else text, end='')


if __name__ == '__main__':
  main()
