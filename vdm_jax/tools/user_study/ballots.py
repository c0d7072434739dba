"""Votes between two methods: who sees which video on which side, and what the votes say."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# What Snap asks of each pair (section 4.4, appendix C.2), by the names of its Tables 6 and 10.
QUESTIONS = {
  'photorealism': 'Which one looks more like a real recording?',
  'video-text alignment': 'Which one shows more of what the text says?',
  'motion quantity': 'In which one is there more motion?',
  'motion quality': 'In which one is the motion more natural, without flicker, jumps or distortion?',
}
VOTES = 5  # of a pair
METHODS = 2
INTERVAL = 0.95
RESAMPLES = 10_000


class Vote(NamedTuple):
  """One answer: of a voter, to a question, about a pair, for a method (0 or 1)."""

  voter: int
  pair: int
  question: str
  method: int


def order(num_pairs: int, num_voters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """In which order each voter sees the pairs, and which method is on the left: both int `[voters pairs]`.

  Row v of the first is a permutation of the pairs, `left[v, p]` the method (0 or 1) on the left of pair p. Each voter
  sees each method on the left for half of the pairs, or one more where their number is odd, so that a voter who prefers
  a side prefers no method. A function of its arguments alone. Raises ValueError unless both numbers are positive.
  """
  if num_pairs < 1 or num_voters < 1:
    raise ValueError(f'{num_pairs} pairs and {num_voters} voters: there must be one or more of each.')
  rng = np.random.default_rng((seed, 0x5DE5))
  halves = (np.arange(num_pairs) + rng.integers(METHODS, size=(num_voters, 1))) % METHODS
  return rng.permuted(np.tile(np.arange(num_pairs), (num_voters, 1)), axis=1), rng.permuted(halves, axis=1)


def results(
  votes: Sequence[Vote], num_pairs: int, *, seed: int = 0, questions: Sequence[str] = tuple(QUESTIONS)
) -> dict[str, dict[str, Any]]:
  """For each question what the votes say of method 0, in percent.

  `share` is the share of votes, as in Snap's Tables 6 and 10; `low` and `high` its 95 % interval. `pairs_won` is the
  share of pairs whose majority of votes is for method 0, a tie counting half. `votes` and `pairs` are counts.

  Raises ValueError where a question has no votes.
  """
  found = {}
  for question in questions:
    counts = np.zeros((num_pairs, METHODS), np.int64)
    for vote in votes:
      if vote.question == question:
        counts[vote.pair, vote.method] += 1
    counts = counts[counts.sum(1) > 0]
    if not len(counts):
      raise ValueError(f'nobody answered the question of {question}: hand in at least one file that does.')
    low, high = bootstrap(counts, seed=seed)
    found[question] = {
      'share': 100 * counts[:, 0].sum() / counts.sum(),
      'low': 100 * low,
      'high': 100 * high,
      'pairs_won': 100 * np.mean(np.sign(counts[:, 0] - counts[:, 1]) / 2 + 0.5),
      'votes': int(counts.sum()),
      'pairs': len(counts),
    }
  return found


def bootstrap(counts: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
  """The 95 % percentile interval of the share of votes for method 0; counts int `[pairs 2]`.

  Pairs are drawn anew, each with all of its votes: votes on one pair depend on each other, and counting them as
  independent would make the interval too narrow. It has no width where all votes agree.
  """
  num_pairs = len(counts)
  drawn = np.random.default_rng((seed, 0xB007)).multinomial(num_pairs, np.full(num_pairs, 1 / num_pairs), resamples)
  wins, totals = drawn @ counts[:, 0], drawn @ counts.sum(1)
  low, high = np.quantile(wins / totals, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
  return float(low), float(high)


def votes_missing(votes: Sequence[Vote], num_pairs: int, wanted: int) -> int:
  """How many votes there are to come, over all pairs and questions."""
  given = collections.Counter((vote.pair, vote.question) for vote in votes)
  return sum(max(0, wanted - given[pair, question]) for pair in range(num_pairs) for question in QUESTIONS)


def table(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
  """Markdown: one row per figure, one column per question, as Snap's Table 6."""
  columns = list(found)

  def row(name: str, cell: Any) -> str:
    return f'| {name} | ' + ' | '.join(cell(found[column]) for column in columns) + ' |'

  return '\n'.join(
    [
      f'| % for {names[0]} over {names[1]} | ' + ' | '.join(columns) + ' |',
      '|---' * (len(columns) + 1) + '|',
      row('of votes', lambda figure: f'{figure["share"]:.1f}'),
      row('95 % interval', lambda figure: f'{figure["low"]:.1f} to {figure["high"]:.1f}'),
      row('of pairs, by majority', lambda figure: f'{figure["pairs_won"]:.1f}'),
      row('votes', lambda figure: str(figure['votes'])),
    ]
  )
