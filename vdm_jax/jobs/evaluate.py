"""Evaluating a run: flags in, the record printed, exit status out."""

from __future__ import annotations

import json

import jax
from ml_collections import ConfigDict

from vdm_jax.evaluation import EvalOptions, evaluate_run
from vdm_jax.runs import Run
from vdm_jax.runtime import progress


def evaluate(config: ConfigDict, run: Run | None, options: EvalOptions) -> int:
  """Evaluate a run or videos, print the record as JSON, and return 0. Raises InvalidInput as `evaluate_run` does."""
  with progress.phase(f'evaluating {options.videos if run is None else run.name}'):
    record = evaluate_run(config, run, options)
  if jax.process_index() == 0:
    print(json.dumps(record, indent=2))
  return 0
