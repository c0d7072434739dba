"""The papers' claims at the scale of two CPU cores: trained seeds, paired differences, 95 % intervals.

    python -m vdm_jax.benchmarks.paper_claims --out=runs/claims

One claim so far, that of VDM's section 3.1 and its Table 6: conditioning by reconstruction guidance is better than by
replacing the given frames. Models that know nothing of conditions, one per seed, continue held-out clips of bouncing
digits from four frames to four times their own length, by each method from the same noise. A clip's true future is
known, so that every video has an error; the digit it should keep is known too.

Everything is kept in --out and a second call goes on where the first one stopped. Results go to --out/claims.json,
claims.md and claims.png.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import vdm_jax
from vdm_jax import checkpoints, data, evaluation, jobs, plots
from vdm_jax.benchmarks import timing
from vdm_jax.data.digits import DIRECTIONS
from vdm_jax.generation import Plan, extension, make_long_generator

CONFIG = Path(__file__).parents[2] / 'configs' / 'digits_long.py'
LANGEVIN = {'langevin_delta': 0.1}
BASELINE = 'replacement'
# Name -> what it changes in the section `sampling`.
METHODS = {
  'replacement': {'conditioning': 'replacement'},
  'replacement, Langevin': {'conditioning': 'replacement', **LANGEVIN},
  'redraw': {'conditioning': 'redraw'},
  'reconstruction, w=1': {'conditioning': 'reconstruction', 'reconstruction_weight': 1.0},
  'reconstruction, w=10': {'conditioning': 'reconstruction', 'reconstruction_weight': 10.0},
  'reconstruction, w=10, Langevin': {'conditioning': 'reconstruction', 'reconstruction_weight': 10.0, **LANGEVIN},
}
# Pairs whose difference is reported: each method against the baseline, and what the corrector adds.
PAIRS = tuple((name, BASELINE) for name in METHODS if name != BASELINE) + (
  ('reconstruction, w=10, Langevin', 'reconstruction, w=10'),
)
# Score -> its column in the table.
SCORES = {
  'prediction_error': 'error, first block',
  'extension_error': 'error, later blocks',
  'identity': 'digit kept',
  'seam_score': 'seam score',
}


def trained(config: ConfigDict, workdir: Path) -> None:
  """Trains the configuration in `workdir`, or the rest of it, unless that was done before."""
  if checkpoints.steps(workdir)[-1:] != [config.training.num_steps]:
    status = jobs.train(config, str(workdir))
    if status:
      sys.exit(status)


def heldout_clips(config: ConfigDict, count: int, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
  """Videos float32 [n t h w c] of digits that were never trained on, and which digit each shows: int [n]."""
  clips = data.examples(config.data, 'test', seed=config.seed, count=count, num_frames=num_frames)
  videos = data.to_float(np.stack([clip.video for clip in clips]))
  return videos, np.array([clip.label for clip in clips]) // len(DIRECTIONS)


def plan_of(block: int, num_frames: int, given: int) -> Plan:
  """Windows that see as much as they make."""
  return extension(num_frames, block, overlap=block // 2, given=given)


def measure(
  workdir: Path, method: Mapping[str, Any], videos: np.ndarray, digits: np.ndarray, *, given: int, num_steps: int
) -> dict[str, Any]:
  """Continues `videos` from their first `given` frames to their whole length, and scores what was made.

  Errors are mean squared differences from the true future, by frame and over the first and the later blocks.
  """
  model, params = vdm_jax.load(workdir)
  record = checkpoints.read_config(workdir)
  config = dict(record['sampling']) | dict(method, num_steps=num_steps)
  block = model.video_shape[0]
  plan = plan_of(block, videos.shape[1], given)
  started = time.perf_counter()
  made = make_long_generator(model, config, batch_size=len(videos))(
    params, plan, given=videos[:, :given], seed=record['seed']
  )
  seconds = time.perf_counter() - started
  errors = np.square(made - videos).mean(axis=(0, 2, 3, 4))
  return score(made, digits, plan.block_starts, given=given) | {
    'prediction_error': float(errors[given:block].mean()),
    'extension_error': float(errors[block:].mean()),
    'error_of_frame': errors.tolist(),
    'seconds': seconds,
  }


def score(videos: np.ndarray, digits: np.ndarray, starts: Sequence[int], *, given: int) -> dict[str, float]:
  """The share of frames after the given ones that show the clip's digit, and the mean seam score."""
  read = evaluation.read_clips(videos)
  seams = [evaluation.drift(video, starts)['seam_score'] for video in data.to_uint8(videos)]
  return {
    'identity': float((read.frame_digits[:, given:] == digits[:, None]).mean()),
    'seam_score': float(np.mean([seam for seam in seams if seam is not None])),
  }


def remembered(path: Path, asked: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
  """What `compute` returned the last time that the same was asked of this file, else what it returns now."""
  asked = json.loads(json.dumps(asked))
  if path.exists() and (held := json.loads(path.read_text()))['asked'] == asked:
    return held['result']
  result = compute()
  path.write_text(json.dumps({'asked': asked, 'result': result}))
  return result


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
  """The mean of first - second over seeds, and half the width of its 95 % interval by Student's t."""
  from scipy.stats import t as student

  differences = np.subtract(first, second)
  spread = differences.std(ddof=1) / np.sqrt(len(differences))
  return {'mean': float(differences.mean()), 'half_width': float(student.ppf(0.975, len(differences) - 1) * spread)}


def summary(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
  """Means over seeds of each method's scores, and the paired differences of PAIRS; `results` has a list per method."""
  values = {name: {key: [one[key] for one in seeds] for key in SCORES} for name, seeds in results.items()}
  means = {name: {key: float(np.mean(column)) for key, column in scores.items()} for name, scores in values.items()}
  differences = [
    {'of': name, 'to': other, **{key: paired(values[name][key], values[other][key]) for key in SCORES}}
    for name, other in PAIRS
  ]
  return {'means': means, 'differences': differences}


def table(report: Mapping[str, Any]) -> str:
  """Markdown: a row per method, its mean scores, and in brackets their difference to the baseline."""
  differences = {row['of']: row for row in report['differences'] if row['to'] == BASELINE}
  lines = ['| ' + ' | '.join(['method', *SCORES.values()]) + ' |', '|---' * (len(SCORES) + 1) + '|']
  for name, means in report['means'].items():
    cells = [name]
    for key in SCORES:
      cell = f'{means[key]:.3f}'
      if name in differences:
        cell += ' ({mean:+.3f} ± {half_width:.3f})'.format(**differences[name][key])
      cells.append(cell)
    lines.append('| ' + ' | '.join(cells) + ' |')
  real = report['true_future']
  lines.append(f'| the true future | 0 | 0 | {real["identity"]:.3f} | {real["seam_score"]:.3f} |')
  return '\n'.join(lines) + '\n'


def claim_of_seed(args: argparse.Namespace, seed: int) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
  """The results of each method with the model of one seed, and the scores of the clips' true futures."""
  config = runpy.run_path(args.config)['get_config']()
  config.seed = seed
  workdir = args.out / f'seed_{seed}'
  trained(config, workdir)
  videos, digits = heldout_clips(config, args.videos, args.num_frames)
  results = {}
  for name, method in METHODS.items():
    asked = {
      'videos': args.videos, 'num_frames': args.num_frames, 'given': args.given, 'num_steps': args.num_steps,
      'method': method, 'checkpoint': checkpoints.steps(workdir)[-1],
    }  # fmt: skip
    results[name] = remembered(
      workdir / f'continued, {name}.json',
      asked,
      lambda method=method: measure(workdir, method, videos, digits, given=args.given, num_steps=args.num_steps),
    )
    print(f'seed {seed}, {name}: {results[name]}', file=sys.stderr)
  starts = plan_of(config.data.num_frames, args.num_frames, args.given).block_starts
  return results, score(videos, digits, starts, given=args.given)


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', required=True, type=Path, help='folder for the trained models and the results')
  parser.add_argument('--config', default=str(CONFIG), help='the model: unconditional, of one digit')
  parser.add_argument('--seeds', type=int, default=5, help='models to train, two or more')
  parser.add_argument('--videos', type=int, default=24, help='clips each of them continues')
  parser.add_argument('--num_frames', type=int, default=32)
  parser.add_argument('--given', type=int, default=4, help='frames of them that are given')
  parser.add_argument('--num_steps', type=int, default=32)
  args = parser.parse_args(argv)
  if args.seeds < 2:
    parser.error(f'--seeds={args.seeds}: an interval needs two or more.')
  settings = {key: getattr(args, key) for key in ('seeds', 'videos', 'num_frames', 'given', 'num_steps')}
  seeds = [claim_of_seed(args, seed) for seed in range(args.seeds)]
  results = {name: [methods[name] for methods, _ in seeds] for name in METHODS}
  real = [future for _, future in seeds]
  report = {
    'command': timing.command('paper_claims', argv),
    'hardware': f'{jax.devices()[0].device_kind}, {jax.device_count()} devices',
    'settings': settings | {'config': Path(args.config).name},
    'true_future': {key: float(np.mean([one[key] for one in real])) for key in real[0]},
    **summary(results),
    'seeds': results,
  }
  (args.out / 'claims.json').write_text(json.dumps(report, indent=1) + '\n')
  (args.out / 'claims.md').write_text(table(report))
  curves = {name: [one['error_of_frame'] for one in seeds] for name, seeds in results.items()}
  plots.draw_curves(args.out / 'claims.png', curves, x='frame', y='squared error against the true future')
  print(table(report))


if __name__ == '__main__':
  main()
