"""Distance of each method of conditional sampling from the exact conditional, which Gaussian videos have.

    python -m vdm_jax.benchmarks.conditional_gaussians --out=conditional.json --table

VDM's section 3.1 proposes reconstruction guidance for an unconditional model, and states that it is better than
replacing the given frames, and better still with Langevin correction. `gaussian_laws` computes the exact law of the
samples of each method.

Two references stand beside the methods. `exact denoiser` samples with E[x | z, y], so that its error is that of the
finite number of steps; `nothing` is the law of the model, which ignores the observation.

At gamma = 0 the two processes differ by a rescaling of z alone, which changes none of the laws: the two that are
measured differ by their grids, cosine and EDM's.

Prints JSON, or Markdown with --table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vdm_jax.benchmarks.gaussian_laws import PROCESSES, Law, Problem, problems, sampled, score
from vdm_jax.inputs.paths import file_argument

DELTA = 0.1  # VDM's Langevin step
STEPS = (64, 256, 1024)  # points of the grid
# Name -> its settings of `sampling`; 'exact' exists in this benchmark alone.
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
# The claims of VDM section 3.1, for its formula with w=1: the first (method, Langevin step) is better than the second.
CLAIMS = {
  'guidance': (('reconstruction, w=1', 0.0), ('replacement', 0.0)),
  'guidance, both with Langevin': (('reconstruction, w=1', DELTA), ('replacement', DELTA)),
  'guidance over redraw': (('reconstruction, w=1', 0.0), ('redraw', 0.0)),
  'Langevin': (('reconstruction, w=1', DELTA), ('reconstruction, w=1', 0.0)),
}
# Score -> its column in the table.
SCORES = {'mean_error': 'mean', 'covariance_error': 'covariance', 'frechet': 'Fréchet'}


def methods_for(problem: Problem, gamma: float) -> dict[str, dict[str, Any]]:
  """Return the methods that apply: replacement and redrawing need given elements, and replacement gamma = 0."""
  left_out = {'replacement'} if gamma else set()
  if not problem.seen.any():
    left_out = {'replacement', 'redraw'}
  return {name: settings for name, settings in METHODS.items() if settings['conditioning'] not in left_out}


def measure(steps: Sequence[int], step: str = 'ancestral', gamma: float = 0.0) -> list[dict[str, Any]]:
  """Return scores of every method, with and without Langevin correction, by problem, process and number of points."""
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
  """Return whether each of CLAIMS holds, by each score, wherever both of its methods were measured."""
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
  """Return the key of a case; entries that a case of NOTHING lacks are None."""
  return tuple(case.get(key) for key in ('problem', 'process', 'num_steps', 'method', 'langevin_delta'))


def table(report: Mapping[str, Any]) -> str:
  """Return Markdown: for each process all scores at the middle number of steps, and the Fréchet distance at all.

  A cell has two figures: without Langevin correction, and with it.
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
    columns += [(f'Fréchet, {num_steps} steps', num_steps, 'frechet') for num_steps in steps if num_steps != middle]
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
  parser.add_argument('--out', type=file_argument, help='file to write the JSON to')
  parser.add_argument('--steps', default=','.join(map(str, STEPS)), help='numbers of grid points, separated by commas')
  parser.add_argument('--step', default='ancestral', choices=('ancestral', 'ddim'))
  parser.add_argument('--gamma', type=float, default=0.0, help='gamma of ancestral steps, in [0, 1]')
  parser.add_argument('--table', action='store_true', help='print Markdown instead of JSON')
  args = parser.parse_args(argv)
  if not 0 <= args.gamma <= 1 or (args.gamma and args.step != 'ancestral'):
    parser.error(f'--gamma={args.gamma} is not valid with --step={args.step}: 0 to 1 for ancestral, 0 for ddim.')
  steps = args.steps.split(',')
  if not all(count.isdecimal() and int(count) > 1 for count in steps):
    parser.error(f'--steps={args.steps} is not valid: give integers of at least 2, separated by commas.')
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
