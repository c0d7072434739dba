"""A user study between two methods: a page to vote on, and the results (Snap section 4.4, Tables 6 and 10).

    python -m vdm_jax.tools.user_study make OURS THEIRS --out=study
    python -m vdm_jax.tools.user_study score study answers/*.json

OURS and THEIRS are folders of videos (mp4, webm or gif) of the same prompts. The prompt of each video is in a text file
of the same name (clip.mp4 and clip.txt), in `metadata.jsonl`, or in the `videos.jsonl` that `--mode=sample` writes.

`make` writes the folder `study/page`; send it to the voters. The page opens from disk, and its files do not reveal
which method made them. Five people, numbered 1 to 5, answer four questions about each pair, and send back the file that
the page saves. `study/key.json` records which video is whose; do not share it. `score` prints a table, with
`--published=gen-2` and the like Snap Video's own votes over that baseline below it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vdm_jax.errors import ExitStatus
from vdm_jax.inputs.paths import path_argument
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.tools.user_study import ballots, published, study


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command and return its exit status."""
  args = _parser().parse_args(argv)
  try:
    return args.run(args)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return ExitStatus.INVALID_INPUT


def _make(args: argparse.Namespace) -> int:
  folders = [args.ours, args.theirs]
  names = args.names or [Path(folder).resolve().name for folder in folders]
  count = study.make(folders, args.out, names=names, votes=args.votes, seed=args.seed)
  print(
    f'{count} pairs for {args.votes} voters: send each of them {Path(args.out) / "page"} and a number from 1 to '
    f'{args.votes}; do not share {Path(args.out) / "key.json"}.'
  )
  return 0


def _score(args: argparse.Namespace) -> int:
  record, missing = study.score(args.study, args.answers)
  if missing:
    print(f'warning: {missing} votes are missing.', file=sys.stderr)
  print(ballots.table(record['questions'], record['names']))
  if args.published:
    print(published.row(args.published))
  if args.out:
    write_text(Path(args.out), json.dumps(record, indent=1) + '\n')
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m vdm_jax.tools.user_study', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(required=True)
  make = commands.add_parser('make', help='write the page to vote on')
  make.add_argument('ours', type=path_argument, help='folder of videos of one method')
  make.add_argument('theirs', type=path_argument, help='folder of videos of the other method')
  make.add_argument('--out', type=path_argument, required=True, help='new folder for the study')
  make.add_argument('--names', nargs=2, help='names of the methods; those of the folders by default')
  make.add_argument('--votes', type=int, default=ballots.VOTES, help='votes per pair, one per voter')
  make.add_argument('--seed', type=int, default=0, help='seed of the order of pairs and sides')
  make.set_defaults(run=_make)
  score = commands.add_parser('score', help='print win rates with their intervals')
  score.add_argument('study', type=path_argument, help='folder that make wrote')
  score.add_argument('answers', type=path_argument, nargs='+', help='files that the page saved')
  score.add_argument(
    '--published', choices=sorted(published.PUBLISHED), help='baseline of Snap Tables 6 and 10 to print a row of'
  )
  score.add_argument('--out', type=path_argument, help='JSON file for the results')
  score.set_defaults(run=_score)
  return parser


if __name__ == '__main__':
  sys.exit(main())
