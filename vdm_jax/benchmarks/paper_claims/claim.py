"""A claim of a paper: the runs to train, the scores to measure, and the comparisons that decide it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vdm_jax.jobs import experiments

Row = Mapping[str, Any]  # results of one arm and seed: its scores, those of real clips as `real`, data for plots
Rows = Mapping[str, Sequence[Row]]  # one row per seed, by arm


class Run(NamedTuple):
  """A model that is trained once per seed; arms and claims share runs of the same name."""

  name: str
  config: Callable[[], ConfigDict]


class Arm(NamedTuple):
  """One of the alternatives that are compared."""

  run: Run | str  # a string names an existing run, such as `pretrained:digits`
  num_steps: int = 0  # the step to measure, for arms that share a run; 0: training.num_steps
  settings: Mapping[str, Any] = {}  # passed to `measure`


class Comparison(NamedTuple):
  """A comparison of the arms `of` and `to` in one score."""

  of: str
  to: str
  score: str
  expected: str  # of `of` by the paper: 'lower' or 'higher' than `to`


class Claim(NamedTuple):
  """A claim of a paper, and how it is tested."""

  name: str
  source: str  # paper, table or figure
  statement: str
  setting: str  # the experiment, and what the seeds vary
  cost: str  # of all seeds on two cores
  arms: Mapping[str, Arm]
  baseline: str  # the arm that differences in the table refer to
  scores: Mapping[str, str]  # score -> its column in the table
  comparisons: tuple[Comparison, ...]
  measure: Callable[[str, int, Mapping[str, Any]], Row]  # (workdir, seed, settings)
  draw: Callable[[Path, Rows], None]  # writes a PNG of all rows


def config_of(name: str) -> ConfigDict:
  """Return the configuration of an experiment in configs/."""
  return experiments.load(name)
