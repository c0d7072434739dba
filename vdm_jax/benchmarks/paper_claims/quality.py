"""Scores of a text-to-video model of digits by the protocol `digits`, for given noise and sampling settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import vdm_jax
from vdm_jax import configuration, evaluation, plots
from vdm_jax.benchmarks.paper_claims.claim import Row, Rows
from vdm_jax.benchmarks.paper_claims.intervals import paired
from vdm_jax.generation import make_generator

BATCH = 40  # videos at a time; divides the protocol's 120, so that one compiled program suffices
SCORES = {
  'digit': 'digit',
  'direction': 'direction',
  'frame_consistency': 'frame consistency',
  'frechet': 'Fréchet distance',
  'recall': 'recall',
}
LARGE_SCORES = {key: title for key, title in SCORES.items() if key != 'recall'} | {
  'frechet_frames': 'Fréchet distance of frames',
  'detail': 'detail',
}  # for videos above 16x16
# Scores that the protocol also computes for real clips.
REAL = ('digit', 'direction', 'frame_consistency', 'frechet', 'frechet_frames', 'precision', 'recall', 'detail')


def measure(workdir: str, seed: int, settings: Mapping[str, Any]) -> Row:
  """Return the scores of `evaluate_digits`, flattened.

  Args:
    workdir: the run.
    seed: of the sampling noise.
    settings: overrides of the section `sampling`.
  """
  run = vdm_jax.Run(workdir)
  model, params = run.load()
  config = configuration.from_dict(run.config)
  generate = make_generator(model, config.sampling.to_dict() | dict(settings), batch_size=BATCH)
  record = evaluation.evaluate_digits(
    lambda prompts: generate(params, prompts=list(prompts), seed=seed),
    config.data,
    seed=config.seed,
    num_trained=run.step * config.data.batch_size,
  )
  return {key: record[key] for key in REAL} | {
    'pairwise_per_prompt': record['diversity']['pairwise_per_prompt'],
    'motion_ratio': record['motion']['ratio'],
    'real': {key: record['real'][key] for key in REAL if record['real'][key] is not None},
  }


def drawing(
  points: Mapping[str, tuple[str, float]], scores: Mapping[str, str], *, x: str, log: bool = False
) -> Callable[[Path, Rows], None]:
  """Return a claim's `draw`: one plot per score, with 95 % intervals of the mean over seeds as error bars.

  Args:
    points: arm -> the line that it is a point of, and its position on the x axis.
    scores: score -> title of its plot.
    x: label of the x axis.
    log: whether the x axis is logarithmic.
  """

  def draw(path: Path, rows: Rows) -> None:
    metrics: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for key, title in scores.items():
      for name, (line, at) in points.items():
        values = [row[key] for row in rows[name]]
        interval = paired(values, [0.0] * len(values))
        metrics.setdefault(title, {}).setdefault(line, []).append((at, interval['mean'], interval['half_width']))
    plots.draw_sweep(path, metrics, x=x, log=log)

  return draw
