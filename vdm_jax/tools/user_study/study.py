"""Studies on disk: writing the page and the key from two folders of videos, and scoring the voters' files."""

from __future__ import annotations

import collections
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.data.sources import metadata
from vdm_jax.inputs.captions import clean, composed
from vdm_jax.inputs.text_files import read_text
from vdm_jax.runtime.atomic_files import write_text
from vdm_jax.tools.user_study import ballot_page, ballots
from vdm_jax.tools.user_study.ballots import QUESTIONS, VOTES, Vote

KINDS = ('.mp4', '.webm', '.gif')  # formats that browsers play; the first that exists is used
LISTS = ('videos.jsonl', metadata.FILE)
MAX_ANSWERS = 1 << 24  # bytes of a voter's file
FORMAT = 'vdm_jax.user_study.1'


class Sample(NamedTuple):
  """One video of a method."""

  prompt: str
  path: Path


def make(folders: Sequence[str], out: str, *, names: Sequence[str], votes: int = VOTES, seed: int = 0) -> int:
  """Write the page and the key of a study of two methods, and return the number of pairs.

  Args:
    folders: of the videos of each method.
    out: new folder for the study.
    names: of the methods.
    votes: votes per pair, one per voter.
    seed: of the order of pairs and sides.

  Raises:
    FileNotFoundError: a folder or a video does not exist.
    ValueError: a folder has no videos, prompts are missing, or the two folders have different prompts. Nothing has been
      written then.
  """
  target = Path(out)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ValueError(f'--out={out} is not an empty folder: choose another one.')
  if len(set(names)) != ballots.METHODS or not all(names):
    raise ValueError(f'--names={" ".join(names)} is not a pair of different names: give one for each method.')
  pairs = pair(*(read_videos(folder) for folder in folders), folders)
  orders, left = ballots.order(len(pairs), votes, seed)
  rng = np.random.default_rng((seed, 0xF11E))
  first = rng.integers(ballots.METHODS, size=len(pairs))  # the method whose file is called a
  files = []
  (target / 'page' / 'videos').mkdir(parents=True)
  for number, (both, method) in enumerate(zip(pairs, first, strict=True)):
    sources = {letter: both[m].path for letter, m in zip('ab', (method, 1 - method), strict=True)}
    files.append({letter: f'videos/{number:04d}{letter}{path.suffix.lower()}' for letter, path in sources.items()})
    for letter, path in sources.items():
      shutil.copyfile(path, target / 'page' / files[-1][letter])
  study = _identify(pairs, seed, votes)
  content = {
    'format': FORMAT,
    'study': study,
    'questions': QUESTIONS,
    'pairs': [{'prompt': both[0].prompt, **letters} for both, letters in zip(pairs, files, strict=True)],
    # Which file is on the left. The page has only letters, not methods.
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
    'videos': [[str(one.path) for one in both] for both in pairs],
  }
  write_text(target / 'key.json', json.dumps(key, indent=1) + '\n')
  return len(pairs)


def score(study: str, files: Sequence[str]) -> tuple[dict[str, Any], int]:
  """Return the results of a study, and the number of missing votes.

  Args:
    study: folder that `make` wrote.
    files: files that the page saved.

  Raises:
    ValueError: a file has no answers or those of another study, or two files have answers of the same voter.
  """
  key = read_key(study)
  votes = [vote for file in files for vote in read_answers(file, key)]
  given = collections.Counter((vote.voter, vote.pair, vote.question) for vote in votes)
  if twice := [voter for (voter, _, _), times in given.items() if times > 1]:
    raise ValueError(
      f'voter {twice[0] + 1} answered the same question about the same pair in two of the files: omit one of them, or '
      'give that voter another number.'
    )
  num_pairs = len(key['a'])
  figures = ballots.results(votes, num_pairs, seed=key['seed'])
  record = {'study': key['study'], 'names': key['names'], 'pairs': num_pairs, 'questions': figures}
  return record, ballots.votes_missing(votes, num_pairs, key['votes'])


def read_videos(folder: str) -> list[Sample]:
  """Return the videos of a folder and their prompts, in order of their names."""
  root = Path(folder)
  if not root.is_dir():
    raise FileNotFoundError(f'{folder} is not a folder: give the folder of one method, with a video per prompt.')
  root = root.resolve()
  described = [root / name for name in LISTS if (root / name).is_file()][:1]
  if described:
    listed = metadata.read_metadata(root, described)
    paths = {composed(path.relative_to(root).as_posix()): path for path in root.rglob('*')}
    found = [Sample(entry.text, paths.get(name, root / name)) for name, entry in sorted(listed.items())]
  else:
    stems = {path.stem: path for kind in reversed(KINDS) for path in root.glob(f'*{kind}')}
    found = [Sample(_prompt_beside(path), path) for _, path in sorted(stems.items())]
  if not found:
    raise ValueError(f'{folder} has no videos ({", ".join(KINDS)}): give the folder of one method.')
  for prompt, path in found:
    if not path.is_file():
      raise FileNotFoundError(f'{described[0]} lists {path.name}, which does not exist: restore the video.')
    if path.suffix.lower() not in KINDS:
      raise ValueError(f'{path} is not a video that browsers play: convert it to one of {", ".join(KINDS)}.')
    if not path.stat().st_size:
      raise ValueError(f'{path} is empty: generate the video again.')
    if not prompt:
      raise ValueError(f'{path} has no prompt: write it to {path.with_suffix(".txt").name} in the same folder.')
    metadata.check_inside(path, root)
  return found


def pair(ours: Sequence[Sample], theirs: Sequence[Sample], folders: Sequence[str]) -> list[tuple[Sample, Sample]]:
  """Return pairs: the n-th video of a prompt of one method with the n-th of the other.

  Raises:
    ValueError: a video has no counterpart.
  """
  waiting = collections.defaultdict(collections.deque)
  for sample in theirs:
    waiting[sample.prompt].append(sample)
  pairs = []
  for sample in ours:
    if not waiting[sample.prompt]:
      raise ValueError(_unmatched(folders[0], sample, folders[1]))
    pairs.append((sample, waiting[sample.prompt].popleft()))
  if left := [sample for some in waiting.values() for sample in some]:
    raise ValueError(_unmatched(folders[1], left[0], folders[0]))
  return pairs


def read_key(study: str) -> dict[str, Any]:
  """Return the key of a study that `make` wrote. Raises ValueError if it is not valid."""
  path = Path(study) / 'key.json'
  key = _read(path, 'is not the key of a study: give the folder that `make` wrote')
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
    raise ValueError(f'{path} is not a valid key: restore the file that `make` wrote.')
  return key


def read_answers(file: str, key: Mapping[str, Any]) -> list[Vote]:
  """Return the votes in a file that the page saved. Raises ValueError if it is not valid."""
  content = _read(Path(file), 'is not a file of answers: give the files that the page saved')
  if content.get('study') != key['study']:
    raise ValueError(f'{file} has answers to another study: give the answers to this one.')
  voter, answers = content.get('voter'), content.get('answers')
  valid = isinstance(voter, int) and not isinstance(voter, bool) and isinstance(answers, list)
  if not valid or not 1 <= voter <= key['votes']:
    raise ValueError(f'{file} has no valid voter from 1 to {key["votes"]}: save it again with the page.')
  votes = []
  for answer in answers:
    number, question, chosen = answer if isinstance(answer, list) and len(answer) == 3 else (None, None, None)
    known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(key['a'])
    if not known or question not in list(QUESTIONS) or chosen not in ('a', 'b'):
      raise ValueError(f'{file} has an invalid answer, {str(answer)[:80]}: save it again with the page.')
    votes.append(Vote(voter - 1, number, question, key['a'][number] ^ (chosen == 'b')))
  return votes


def _identify(pairs: Sequence[tuple[Sample, Sample]], seed: int, votes: int) -> str:
  """A hash of the videos, their prompts and the order in which they are shown: answers to other ones do not count."""
  digest = hashlib.sha256(json.dumps([seed, votes, [[one.prompt for one in both] for both in pairs]]).encode())
  for both in pairs:
    for one in both:
      digest.update(hashlib.sha256(one.path.read_bytes()).digest())
  return digest.hexdigest()[:16]


def _prompt_beside(path: Path) -> str:
  file = path.with_suffix('.txt')
  return clean(read_text(file)) if file.is_file() else ''


def _unmatched(folder: str, sample: Sample, other: str) -> str:
  return (
    f'{folder} has {sample.path.name} of the prompt {sample.prompt[:80]!r}, which has no counterpart in {other}: both '
    'methods need the same prompts, equally often.'
  )


def _read(path: Path, otherwise: str) -> dict[str, Any]:
  """Return a JSON object of this format."""
  try:
    content = json.loads(path.read_text(encoding='utf-8')) if path.stat().st_size <= MAX_ANSWERS else None
  except FileNotFoundError:
    raise FileNotFoundError(f'{path} does not exist: check the path.') from None
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict) or content.get('format') != FORMAT:
    raise ValueError(f'{path} {otherwise}.')
  return content
