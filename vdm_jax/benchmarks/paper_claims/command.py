"""Tests the papers' claims at the scale of two CPU cores: models of several seeds, paired differences, 95 % intervals.

    python -m vdm_jax.benchmarks.paper_claims --list
    python -m vdm_jax.benchmarks.paper_claims --claims=guidance_digits --out=runs/claims

A claim's models are trained once per seed, and its alternatives are compared on the same seeds. The verdict depends
only on the interval of the paired difference: `holds` if all of it is on the side that the paper claims, `reversed` if
all of it is on the other side, else `not shown`. All runs and results are kept in --out; repeating the command
resumes, and more --seeds extend a finished claim. --out/NAME.json, NAME.md and NAME.png are written when a claim has
all its seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vdm_jax.benchmarks import timing
from vdm_jax.benchmarks.paper_claims import (
  appended_images,
  architecture,
  conditioning,
  gradient_variance,
  guidance,
  input_scaling,
  prediction,
  runner,
  samplers,
)
from vdm_jax.benchmarks.paper_claims.claim import Claim
from vdm_jax.errors import InvalidInput
from vdm_jax.inputs.paths import file_argument

# Shipped models for claims about sampling.
MODELS = ('digits', 'digits_fit')


def claims() -> dict[str, Claim]:
  """Return all claims by name, the cheapest first."""
  of_shipped = [make(name) for make in (guidance.claim, samplers.claim) for name in MODELS]
  modules = (appended_images, conditioning, prediction, input_scaling, architecture)
  others = (conditioning.AGAINST_TRAINED, input_scaling.IMAGES, input_scaling.SNAP)
  trained = [*(module.CLAIM for module in modules), *others]
  return {claim.name: claim for claim in (*gradient_variance.CLAIMS, *of_shipped, *trained)}


def main(argv: Sequence[str] | None = None) -> None:
  known = claims()
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=file_argument, help='folder for trained models and results')
  parser.add_argument('--claims', default=','.join(known), help='comma-separated names; all by default')
  parser.add_argument('--seeds', type=int, default=5, help='number of seeds, at least 2')
  parser.add_argument('--list', action='store_true', help='print all claims with their costs, and exit')
  args = parser.parse_args(argv)
  if args.list:
    for claim in known.values():
      print(f'{claim.name} ({claim.source}; on two cores: {claim.cost}): {claim.statement}.\n  {claim.setting}')
    return
  chosen = args.claims.split(',')
  if unknown := [name for name in chosen if name not in known]:
    parser.error(f'--claims={unknown[0]} is unknown: choose from {", ".join(known)}.')
  if args.out is None:
    parser.error('--out is missing: name a folder for trained models and results.')
  if args.seeds < 2:
    parser.error(f'--seeds={args.seeds} is too few: an interval needs at least 2.')
  for name in chosen:
    try:
      found = runner.rows(known[name], args.out, range(args.seeds))
    except (InvalidInput, ValueError) as error:
      sys.exit(f'{name}: {error}')
    report = runner.report(known[name], found, timing.command('paper_claims', argv))
    runner.write(known[name], report, args.out)
    print(f'{name}: {known[name].statement} ({known[name].source})\n\n{runner.table(report)}')
