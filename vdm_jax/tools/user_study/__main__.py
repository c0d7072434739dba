"""A user study between two methods: a page to vote on, and what the votes say (Snap section 4.4, Tables 6 and 10).

    python -m vdm_jax.tools.user_study make OURS THEIRS --out=study
    python -m vdm_jax.tools.user_study score study answers/*.json

OURS and THEIRS are folders of videos (mp4, webm or gif) of the same prompts, each with its prompt in a text file beside
it (clip.mp4 and clip.txt), in `metadata.jsonl`, or in the `videos.jsonl` that `--mode=sample` writes.

`make` writes `study/page`, which is to be sent to the voters: it opens from a disk, and its files do not tell which
method they are of. Five people, numbered from 1 to 5, answer four questions about each pair and send back the file that
the page saves. `study/key.json` says which video is whose, and stays with you. `score` prints a table.
"""

from __future__ import annotations

import argparse
import collections
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data.sources import metadata
from vdm_jax.errors import ExitStatus
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.tools.user_study import ballot_page, ballots
from vdm_jax.tools.user_study.ballots import QUESTIONS, VOTES, Vote

KINDS = ('.mp4', '.webm', '.gif')  # what browsers play; of one video in several kinds the first is taken
LISTS = ('videos.jsonl', metadata.FILE)
MAX_ANSWERS = 1 << 24  # bytes of a file of answers
FORMAT = 'vdm_jax.user_study.1'


class Shown(NamedTuple):
  """One video of a method."""

  prompt: str
  path: Path


def make(folders: Sequence[str], out: str, *, names: Sequence[str], votes: int = VOTES, seed: int = 0) -> int:
  """Writes the page and the key of a study of two methods to the new folder `out`; returns the number of pairs.

  Raises ValueError or FileNotFoundError, before anything is written, for folders without videos or with other prompts
  than each other's.
  """
  target = Path(out)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ValueError(f'--out={out} exists and is not an empty folder: choose another one.')
  if len(set(names)) != ballots.METHODS or not all(names):
    raise ValueError(f'--names={" ".join(names)} must be two different names: give one for each method.')
  pairs = pair(*(read_videos(folder) for folder in folders), folders)
  orders, left = ballots.order(len(pairs), votes, seed)
  rng = np.random.default_rng((seed, 0xF11E))
  first = rng.integers(ballots.METHODS, size=len(pairs))  # which method's file is called a
  files = []
  (target / 'page' / 'videos').mkdir(parents=True)
  for number, (shown, method) in enumerate(zip(pairs, first, strict=True)):
    sources = {letter: shown[m].path for letter, m in zip('ab', (method, 1 - method), strict=True)}
    files.append({letter: f'videos/{number:04d}{letter}{path.suffix.lower()}' for letter, path in sources.items()})
    for letter, path in sources.items():
      shutil.copyfile(path, target / 'page' / files[-1][letter])
  study = f'{rng.integers(1 << 62):016x}'
  content = {
    'format': FORMAT,
    'study': study,
    'questions': QUESTIONS,
    'pairs': [{'prompt': shown[0].prompt, **names} for shown, names in zip(pairs, files, strict=True)],
    # Which file is on the left: the page knows letters alone, not methods.
    'ballots': [[[int(p), 'ab'[int(left[voter, p] != first[p])]] for p in order] for voter, order in enumerate(orders)],
  }
  write_text(target / 'page' / 'index.html', ballot_page.page(content))
  key = {
    'format': FORMAT,
    'study': study,
    'names': list(names),
    'seed': seed,
    'votes': votes,
    'a': first.tolist(),
    'videos': [[str(one.path) for one in shown] for shown in pairs],
  }
  write_text(target / 'key.json', json.dumps(key, indent=1) + '\n')
  return len(pairs)


def score(study: str, files: Sequence[str]) -> tuple[dict[str, Any], int]:
  """The record of a study, and how many votes are still to come.

  Raises ValueError for files that are no answers, are of another study, or of the same voter about the same pair.
  """
  key = read_key(study)
  votes = [vote for file in files for vote in read_answers(file, key)]
  given = collections.Counter((vote.voter, vote.pair, vote.question) for vote in votes)
  if twice := [voter for (voter, _, _), times in given.items() if times > 1]:
    raise ValueError(
      f'voter {twice[0] + 1} answered the same question about the same pair in two of the files: leave one of '
      'them out, or give that voter another number.'
    )
  num_pairs = len(key['a'])
  figures = ballots.results(votes, num_pairs, seed=key['seed'])
  record = {'study': key['study'], 'names': key['names'], 'pairs': num_pairs, 'questions': figures}
  return record, ballots.votes_missing(votes, num_pairs, key['votes'])


def read_videos(folder: str) -> list[Shown]:
  """The videos of a folder and their prompts, in the order of their names."""
  root = Path(folder)
  if not root.is_dir():
    raise FileNotFoundError(f'{folder} is not a folder: name the folder of one method, with a video per prompt.')
  root = root.resolve()
  described = [root / name for name in LISTS if (root / name).is_file()][:1]
  if described:
    listed = metadata.read_metadata(root, described)
    found = [Shown(entry.text, root / name) for name, entry in sorted(listed.items())]
  else:
    stems = {path.stem: path for kind in reversed(KINDS) for path in root.glob(f'*{kind}')}
    found = [Shown(_beside(path), path) for _, path in sorted(stems.items())]
  if not found:
    raise ValueError(f'{folder} has no videos ({", ".join(KINDS)}): name the folder of one method.')
  for prompt, path in found:
    if not path.is_file():
      raise FileNotFoundError(f'{described[0]} lists {path.name}, which is not there: put the video back.')
    if path.suffix.lower() not in KINDS:
      raise ValueError(f'{path} is no video that browsers play: convert it to one of {", ".join(KINDS)}.')
    if not path.stat().st_size:
      raise ValueError(f'{path} is empty: make the video again.')
    if not prompt:
      raise ValueError(f'{path} has no prompt: write it to {path.with_suffix(".txt").name} beside it.')
    metadata.check_inside(path, root)
  return found


def pair(ours: Sequence[Shown], theirs: Sequence[Shown], folders: Sequence[str]) -> list[tuple[Shown, Shown]]:
  """The n-th video of a prompt of one method with the n-th of the other. Raises ValueError where there is none."""
  waiting = collections.defaultdict(collections.deque)
  for shown in theirs:
    waiting[shown.prompt].append(shown)
  pairs = []
  for shown in ours:
    if not waiting[shown.prompt]:
      raise ValueError(_unmatched(folders[0], shown, folders[1]))
    pairs.append((shown, waiting[shown.prompt].popleft()))
  if left := [shown for some in waiting.values() for shown in some]:
    raise ValueError(_unmatched(folders[1], left[0], folders[0]))
  return pairs


def read_key(study: str) -> dict[str, Any]:
  """The key of a study that `make` wrote."""
  path = Path(study) / 'key.json'
  key = _read(path, 'is not the key of a study: name the folder that `make` wrote')
  names, first, votes = key.get('names'), key.get('a'), key.get('votes')
  if not (
    isinstance(names, list)
    and len(names) == ballots.METHODS
    and isinstance(first, list)
    and set(first) <= {0, 1}
    and first
    and isinstance(votes, int)
    and isinstance(key.get('seed'), int)
  ):
    raise ValueError(f'{path} is not as `make` wrote it: put the original back.')
  return key


def read_answers(file: str, key: Mapping[str, Any]) -> list[Vote]:
  """The votes in a file that the page of the study saved."""
  content = _read(Path(file), 'holds no answers: give the files that the page of the study saved')
  if content.get('study') != key['study']:
    raise ValueError(f'{file} is of another study than the key: give the answers to this one.')
  voter, answers = content.get('voter'), content.get('answers')
  whole = isinstance(voter, int) and not isinstance(voter, bool) and isinstance(answers, list)
  if not whole or not 1 <= voter <= key['votes']:
    raise ValueError(f'{file} names no voter from 1 to {key["votes"]}: let the page save it again.')
  votes = []
  for answer in answers:
    number, question, chosen = answer if isinstance(answer, list) and len(answer) == 3 else (None, None, None)
    known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(key['a'])
    if not known or question not in list(QUESTIONS) or chosen not in ('a', 'b'):
      raise ValueError(f'{file} has an answer that is none, {str(answer)[:80]}: let the page save it again.')
    votes.append(Vote(voter - 1, number, question, key['a'][number] ^ (chosen == 'b')))
  return votes


def main(argv: Sequence[str] | None = None) -> int:
  args = _parser().parse_args(argv)
  try:
    return args.run(args)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return ExitStatus.INVALID_INPUT


def _make(args: argparse.Namespace) -> int:
  folders = [args.ours, args.theirs]
  names = args.names or [Path(folder).resolve().name for folder in folders]
  count = make(folders, args.out, names=names, votes=args.votes, seed=args.seed)
  print(
    f'{count} pairs for {args.votes} voters: send them {Path(args.out) / "page"} and a number each, from 1 to '
    f'{args.votes}; keep {Path(args.out) / "key.json"} to yourself.'
  )
  return 0


def _score(args: argparse.Namespace) -> int:
  record, missing = score(args.study, args.answers)
  if missing:
    print(f'warning: {missing} votes are still to come.', file=sys.stderr)
  print(ballots.table(record['questions'], record['names']))
  if args.out:
    write_text(Path(args.out), json.dumps(record, indent=1) + '\n')
  return 0


def _beside(path: Path) -> str:
  beside = path.with_suffix('.txt')
  return ' '.join(beside.read_text(encoding='utf-8', errors='replace').split()) if beside.is_file() else ''


def _unmatched(folder: str, shown: Shown, other: str) -> str:
  return (
    f'{folder} has {shown.path.name} of the prompt {shown.prompt[:80]!r}, which {other} has not as often: both methods '
    'need one video for each prompt of the other.'
  )


def _read(path: Path, otherwise: str) -> dict[str, Any]:
  """A JSON object of this format."""
  try:
    content = json.loads(path.read_text(encoding='utf-8')) if path.stat().st_size <= MAX_ANSWERS else None
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} is not there: check the path.') from None
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise ValueError(f'{path} {otherwise}.')
  return content


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    'python -m vdm_jax.tools.user_study', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(required=True)
  write = commands.add_parser('make', help='a page to vote on')
  write.add_argument('ours', help='folder of the videos of one method')
  write.add_argument('theirs', help='folder of those of the other')
  write.add_argument('--out', required=True, help='new folder')
  write.add_argument('--names', nargs=2, help='what to call the methods; the names of their folders by default')
  write.add_argument('--votes', type=int, default=VOTES, help='votes on each pair, one per voter')
  write.add_argument('--seed', type=int, default=0)
  write.set_defaults(run=_make)
  count = commands.add_parser('score', help='win rates and their intervals')
  count.add_argument('study', help='folder that make wrote')
  count.add_argument('answers', nargs='+', help='files that the page saved')
  count.add_argument('--out', help='JSON to write beside the table')
  count.set_defaults(run=_score)
  return parser


if __name__ == '__main__':
  sys.exit(main())
