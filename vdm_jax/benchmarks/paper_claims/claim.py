"""What a claim is: what a paper says, the runs to train, what to measure of them, and how that is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vdm_jax.jobs import experiments

Row = Mapping[str, Any]  # of one arm and seed: its scores, those of real clips as `real`, and what plots need
Rows = Mapping[str, Sequence[Row]]  # by arm, one for each seed


class Run(NamedTuple):
  """A model that is trained once per seed; arms and claims with runs of one name share their folders."""

  name: str
  config: Callable[[], ConfigDict]


class Arm(NamedTuple):
  """One of the alternatives that are compared."""

  run: Run | str  # or a run that exists, such as `pretrained:digits`
  num_steps: int = 0  # at which the run is measured, for arms that share one; 0: its configuration's
  settings: Mapping[str, Any] = {}  # what `measure` does otherwise for this arm


class Comparison(NamedTuple):
  """`of` against `to`: what the paper leads one to expect of their difference in a score, 'lower' or 'higher'."""

  of: str
  to: str
  score: str
  expected: str


class Claim(NamedTuple):
  """A claim of a paper, and how it is put to the test."""

  name: str
  source: str  # paper, table or figure
  says: str
  setting: str  # what is done here, and what the seeds vary
  cost: str  # of all seeds on two cores
  arms: Mapping[str, Arm]
  baseline: str  # the arm that the table gives differences to
  scores: Mapping[str, str]  # score -> its column in the table
  judged: tuple[Comparison, ...]
  measure: Callable[[str, int, Mapping[str, Any]], Row]  # (workdir, seed, settings)
  draw: Callable[[Path, Rows], None]  # of all rows, to a PNG


def config_of(name: str) -> ConfigDict:
  """Return the configuration of an experiment in configs/."""
  return experiments.load(name)
