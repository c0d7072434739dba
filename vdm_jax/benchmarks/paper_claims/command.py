"""The papers' claims at the scale of two CPU cores: trained seeds, paired differences, 95 % intervals.

    python -m vdm_jax.benchmarks.paper_claims --list
    python -m vdm_jax.benchmarks.paper_claims --claims=guidance_digits --out=runs/claims

A claim's models are trained once per seed and its alternatives compared on the same seeds. The verdict is the
interval's alone: `holds` where all of it lies where the paper puts it, `reversed` where all lies opposite, else `does
not show`. Every run and result is kept in --out, and a second call goes on where the first one stopped; more --seeds
add to those that are done. --out/NAME.json, NAME.md and NAME.png are written when all seeds of a claim are there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vdm_jax.benchmarks import timing
from vdm_jax.benchmarks.paper_claims import (
  appended_images,
  architecture,
  conditioning,
  gradient_variance,
  guidance,
  input_scaling,
  runner,
  samplers,
)
from vdm_jax.benchmarks.paper_claims.claim import Claim
from vdm_jax.errors import InvalidInput

# Models of the package that claims about sampling are about.
MODELS = ('digits', 'digits_fit')


def claims() -> dict[str, Claim]:
  """All claims by name, the cheapest evidence first."""
  of_models = [make(name) for make in (guidance.claim, samplers.claim) for name in MODELS]
  trained = [module.CLAIM for module in (appended_images, conditioning, input_scaling, architecture)]
  return {claim.name: claim for claim in (*gradient_variance.CLAIMS, *of_models, *trained)}


def main(argv: Sequence[str] | None = None) -> None:
  known = claims()
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, help='folder for the trained models and the results')
  parser.add_argument('--claims', default=','.join(known), help='names, separated by commas; all by default')
  parser.add_argument('--seeds', type=int, default=5, help='two or more')
  parser.add_argument('--list', action='store_true', help='say what there is and what it costs, and end')
  args = parser.parse_args(argv)
  if args.list:
    for claim in known.values():
      print(f'{claim.name} ({claim.source}; {claim.cost} on two cores): {claim.says}.\n  {claim.setting}')
    return
  chosen = args.claims.split(',')
  if unknown := [name for name in chosen if name not in known]:
    parser.error(f'--claims={unknown[0]} is unknown: choose of {", ".join(known)}.')
  if args.out is None:
    parser.error('--out is missing: name a folder for the trained models and the results.')
  if args.seeds < 2:
    parser.error(f'--seeds={args.seeds}: an interval needs two or more.')
  for name in chosen:
    try:
      found = runner.rows(known[name], args.out, range(args.seeds))
    except (InvalidInput, ValueError) as error:
      sys.exit(f'{name}: {error}')
    report = runner.report(known[name], found, timing.command('paper_claims', argv))
    runner.write(known[name], report, args.out)
    print(f'{name}: {known[name].says} ({known[name].source})\n\n{runner.table(report)}')
