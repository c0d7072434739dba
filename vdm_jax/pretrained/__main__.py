"""Puts a trained run into the package: its weights in half precision, and its card.

    python -m vdm_jax.pretrained --workdir=runs/digits --name=digits --limits="Shows single grey digits only."
    python -m vdm_jax.main --mode=evaluate --pretrained=digits --out=out/digits
    python -m vdm_jax.pretrained --name=digits --scores=out/digits/digits.json --limits="Shows ...; recall 0.17."

The first command writes both files, the third adds to the card what the second measured of the weights as they are
shipped, and says anew what the model cannot do. For those who publish models; nothing else needs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vdm_jax
from vdm_jax import checkpoints, pretrained, weights
from vdm_jax.errors import ExitStatus
from vdm_jax.runtime.atomic_files import write_text

DTYPE = 'float16'
DATA = 'UCI optical recognition of handwritten digits, as scikit-learn ships them (CC BY 4.0)'


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  if not (args.workdir or args.scores or args.limits):
    _parser().error('one of --workdir, --scores and --limits is needed')
  try:
    if args.workdir:
      publish(args.workdir, args.name, limits=args.limits, first_stage=args.first_stage)
    if args.scores:
      add_scores(args.name, args.scores)
    if args.limits and not args.workdir:
      _write(args.name, pretrained.card(args.name) | {'limits': args.limits})
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return ExitStatus.INVALID_INPUT
  print(pretrained.FOLDER / f'{args.name}.json')
  return 0


def publish(workdir: str, name: str, *, limits: str, first_stage: str = '') -> None:
  """Writes a run's weights and card; `first_stage` is a second stage's first, such as `pretrained:digits_fit`.

  Raises ValueError without `limits`, the sentence on what the model cannot do, and for a second stage without a first.
  """
  if not limits.strip():
    raise ValueError(f'--limits is missing: say in a sentence what {name} cannot do; its card holds it.')
  config = checkpoints.read_config(workdir)
  if config['training']['first_stage'] and not first_stage:
    raise ValueError(f'{workdir} is a second stage: name the first as it is shipped, --first_stage=pretrained:NAME.')
  config['training']['first_stage'] = first_stage
  _, params = checkpoints.load(workdir)
  tensors = {key: np.asarray(value) for key, value in checkpoints.named(params).items()}
  file, step = pretrained.FOLDER / f'{name}{pretrained.SUFFIX}', checkpoints.latest_step(workdir)
  weights.write(file, tensors, config, step, DTYPE)
  environment = json.loads((Path(workdir) / 'env.json').read_text(encoding='utf-8'))
  _write(
    name,
    {
      'name': name,
      'command': f'python -m vdm_jax.main --config=configs/{name}.py --workdir=runs/{name} --seed={config["seed"]}',
      'seed': config['seed'],
      'step': step,
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
      'sha256': hashlib.sha256(file.read_bytes()).hexdigest(),
    },
  )


def add_scores(name: str, path: str) -> None:
  """Puts the record of an evaluation into a model's card. Raises ValueError for one of another model."""
  record = json.loads(Path(path).read_text(encoding='utf-8'))
  if record.get('run') != pretrained.PREFIX + name:
    raise ValueError(f'{path} was measured on {record.get("run")!r}, not on {pretrained.PREFIX + name}.')
  card = pretrained.card(name)
  card.setdefault('scores', {})[record['protocol']] = record
  _write(name, card)


def _write(name: str, card: dict[str, Any]) -> None:
  write_text(pretrained.FOLDER / f'{name}.json', json.dumps(card, indent=1) + '\n')


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m vdm_jax.pretrained', description=__doc__.splitlines()[0])
  parser.add_argument('--name', required=True, help='what the model is called, such as digits')
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--workdir', default='', help='folder of the run')
  what.add_argument('--scores', default='', help='record of an evaluation of the shipped weights, to add to the card')
  parser.add_argument('--limits', default='', help='a sentence on what the model cannot do, for the card')
  parser.add_argument('--first_stage', default='', help='of a second stage: its first, such as pretrained:digits_fit')
  return parser


if __name__ == '__main__':
  sys.exit(main())
