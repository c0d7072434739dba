"""Votes between two methods: the order and sides in which voters see the videos, and statistics of the votes."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Snap's questions about each pair (section 4.4, appendix C.2), named as in its Tables 6 and 10.
QUESTIONS = {
  'photorealism': 'Which video looks more like a real recording?',
  'video-text alignment': 'Which video matches the text better?',
  'motion quantity': 'Which video has more motion?',
  'motion quality': 'Which video has more natural motion, without flicker, jumps or distortion?',
}
VOTES = 5  # per pair
METHODS = 2
INTERVAL = 0.95
RESAMPLES = 10_000


class Vote(NamedTuple):
  """One answer of a voter to a question about a pair, in favor of a method (0 or 1)."""

  voter: int
  pair: int
  question: str
  method: int


def order(num_pairs: int, num_voters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the order in which each voter sees the pairs, and the method on the left: both int `[voters pairs]`.

  Row v of the order is a permutation of the pairs; `left[v, p]` is the method (0 or 1) on the left of pair p. Each
  voter sees each method on the left for half of the pairs (one more if their number is odd), so a voter who prefers a
  side prefers no method.

  Raises:
    ValueError: there are no pairs or no voters.
  """
  if num_pairs < 1 or num_voters < 1:
    raise ValueError(f'{num_pairs} pairs and {num_voters} voters: at least one of each is needed.')
  rng = np.random.default_rng((seed, 0x5DE5))
  halves = (np.arange(num_pairs) + rng.integers(METHODS, size=(num_voters, 1))) % METHODS
  return rng.permuted(np.tile(np.arange(num_pairs), (num_voters, 1)), axis=1), rng.permuted(halves, axis=1)


def results(
  votes: Sequence[Vote], num_pairs: int, *, seed: int = 0, questions: Sequence[str] = tuple(QUESTIONS)
) -> dict[str, dict[str, Any]]:
  """Return the results for method 0 by question, in percent.

  Returns:
    `share`: share of votes, as in Snap's Tables 6 and 10; `low`, `high`: its 95 % interval; `pairs_won`: share of pairs
    won by a majority of votes, a tie counting half; `votes`, `pairs`: counts.

  Raises:
    ValueError: a question has no votes.
  """
  found = {}
  for question in questions:
    counts = np.zeros((num_pairs, METHODS), np.int64)
    for vote in votes:
      if vote.question == question:
        counts[vote.pair, vote.method] += 1
    counts = counts[counts.sum(1) > 0]
    if not len(counts):
      raise ValueError(f'{question!r} has no votes: add at least one file that answers it.')
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
  """Return the 95 % bootstrap percentile interval of the share of votes for method 0.

  Pairs are resampled with all of their votes: votes on one pair depend on each other, and treating them as independent
  would make the interval too narrow. Its width is 0 if all votes agree.

  Args:
    counts: votes for each method, int `[pairs 2]`.
    seed: of the resampling.
    resamples: number of resamples.
  """
  num_pairs = len(counts)
  resampled = np.random.default_rng((seed, 0xB007)).multinomial(num_pairs, np.full(num_pairs, 1 / num_pairs), resamples)
  wins, totals = resampled @ counts[:, 0], resampled @ counts.sum(1)
  low, high = np.quantile(wins / totals, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
  return float(low), float(high)


def votes_missing(votes: Sequence[Vote], num_pairs: int, wanted: int) -> int:
  """Return the number of missing votes, over all pairs and questions."""
  given = collections.Counter((vote.pair, vote.question) for vote in votes)
  return sum(max(0, wanted - given[pair, question]) for pair in range(num_pairs) for question in QUESTIONS)


def table(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> str:
  """Return a Markdown table of the results, with one column per question as in Snap's Table 6."""
  columns = list(found)

  def row(name: str, cell: Any) -> str:
    return f'| {name} | ' + ' | '.join(cell(found[column]) for column in columns) + ' |'

  return '\n'.join(
    [
      f'| % for {names[0]} over {names[1]} | ' + ' | '.join(columns) + ' |',
      '|---' * (len(columns) + 1) + '|',
      row('share of votes', lambda figure: f'{figure["share"]:.1f}'),
      row('95 % interval', lambda figure: f'{figure["low"]:.1f} to {figure["high"]:.1f}'),
      row('pairs won', lambda figure: f'{figure["pairs_won"]:.1f}'),
      row('votes', lambda figure: str(figure['votes'])),
    ]
  )
