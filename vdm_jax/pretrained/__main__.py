"""Publishes a trained run with the package: its weights in half precision, and its card.

    python -m vdm_jax.pretrained --workdir=runs/digits --name=digits --limits="Shows single grey digits only."
    python -m vdm_jax.main --mode=evaluate --pretrained=digits --out=out/digits
    python -m vdm_jax.pretrained --name=digits --scores=out/digits/digits.json --limits="Shows ...; recall 0.17."

The first command writes both files. The third adds to the card the scores that the second measured with the shipped
weights, and replaces the sentence on the model's limits. Only maintainers who publish models need this.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import vdm_jax
from vdm_jax import checkpoints, first_stages, pretrained, weights
from vdm_jax.errors import ExitStatus
from vdm_jax.inputs.paths import path_argument
from vdm_jax.runs import Run
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.runtime.hashing import sha256

DTYPE = 'float16'
DATA = 'UCI optical recognition of handwritten digits, test set (CC BY 4.0)'


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command and return its exit status."""
  args = _parser().parse_args(argv)
  if not (args.workdir or args.scores or args.limits):
    _parser().error('give at least one of --workdir, --scores and --limits')
  try:
    if args.workdir:
      publish(Run(args.workdir), args.name, limits=args.limits, first_stage=args.first_stage)
    if args.scores:
      add_scores(args.name, args.scores)
    if args.limits and not args.workdir:
      _write(args.name, pretrained.card(args.name) | {'limits': args.limits})
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return ExitStatus.INVALID_INPUT
  print(pretrained.FOLDER / f'{args.name}.json')
  return 0


def publish(run: Run, name: str, *, limits: str, first_stage: str = '') -> None:
  """Write a run's weights and card into the package.

  Args:
    run: the training run.
    name: name of the shipped model.
    limits: a sentence on what the model cannot do.
    first_stage: for a second stage, its first stage as shipped, such as `pretrained:digits_fit`.

  Raises:
    ValueError: `limits` is empty, or a second stage has no `first_stage`.
  """
  if not limits.strip():
    raise ValueError(f'--limits is missing: describe in a sentence what {name} cannot do, for its card.')
  config = json.loads(json.dumps(run.config))
  if config['training']['first_stage'] and not first_stage:
    raise ValueError(f'{run.name} is a second stage: name its shipped first stage, --first_stage=pretrained:NAME.')
  config['training']['first_stage'] = first_stage
  if first_stage:
    config['training']['first_stage_identity'] = first_stages.identify(Run(first_stage), '.') | {'path': ''}
  _, params = run.load()
  tensors = {key: np.asarray(value) for key, value in checkpoints.named(params).items()}
  file = pretrained.FOLDER / f'{name}{pretrained.SUFFIX}'
  weights.write(file, tensors, config, run.step, DTYPE, run.origin)
  environment = json.loads((run.path / 'env.json').read_text(encoding='utf-8'))
  _write(
    name,
    {
      'name': name,
      'command': f'python -m vdm_jax.main --config=configs/{name}.py --workdir=runs/{name} --seed={config["seed"]}',
      'seed': config['seed'],
      'step': run.step,
      'version': vdm_jax.__version__,
      'commit': environment['git_commit'],
      'jax': environment['versions']['jax'],
      'device': environment['devices'],
      'network': config['model']['network'],
      'parameters': sum(value.size for value in tensors.values()),
      'weights': f'exponential moving average, {DTYPE}',
      'video': [config['model'][key] for key in ('num_frames', 'height', 'width', 'channels')],
      'data': DATA,
      'license': 'Apache-2.0',
      'limits': limits,
      'sha256': sha256(file),
    },
  )


def add_scores(name: str, path: str) -> None:
  """Add the record of an evaluation to a model's card. Raises ValueError if it is of another model."""
  with open(path, encoding='utf-8') as file:
    record = json.load(file)
  if record.get('run') != pretrained.PREFIX + name:
    raise ValueError(f'{path} was measured on {record.get("run")!r}, not on {pretrained.PREFIX + name}.')
  card = pretrained.card(name)
  if record.get('stages') and record['stages'][-1]['hash'] != card['sha256']:
    raise ValueError(f'{path} was measured with other weights than {name} has now: measure it again.')
  card.setdefault('scores', {})[record['protocol']] = record
  _write(name, card)


def _write(name: str, card: dict[str, Any]) -> None:
  write_text(pretrained.FOLDER / f'{name}.json', json.dumps(card, indent=1) + '\n')


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m vdm_jax.pretrained', description=__doc__.splitlines()[0])
  parser.add_argument('--name', required=True, help='name of the model, such as digits')
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--workdir', type=path_argument, default='', help='folder of the run to publish')
  what.add_argument(
    '--scores',
    type=path_argument,
    default='',
    help='record of an evaluation of the shipped weights, to add to the card',
  )
  parser.add_argument('--limits', default='', help='a sentence for the card on what the model cannot do')
  parser.add_argument(
    '--first_stage', type=path_argument, default='', help='first stage of a second stage, such as pretrained:digits_fit'
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
