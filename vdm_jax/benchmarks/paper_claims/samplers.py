"""Quality against network evaluations for each sampler: Snap Fig. 6."""

from __future__ import annotations

from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison

# Sampler -> keys of `sampling`. Heun needs the range of EDM's grid.
SAMPLERS = {
  'ancestral': {'step': 'ancestral', 'grid': 'cosine'},
  'ddim': {'step': 'ddim', 'grid': 'cosine'},
  'dpm_solver': {'step': 'dpm_solver', 'grid': 'cosine'},
  'heun': {'step': 'heun', 'grid': 'karras'},
}
POINTS = (4, 8, 16, 32, 64)  # grid points, which equal evaluations; Heun's grid has half as many, 2N - 1 evaluations


def arm(sampler: str, points: int) -> str:
  return f'{sampler}, {evaluations(sampler, points)}'


def grid_points(sampler: str, points: int) -> int:
  return points // 2 if sampler == 'heun' else points


def evaluations(sampler: str, points: int) -> int:
  """Return the evaluations of the network per video, without guidance's second branch."""
  return 2 * grid_points(sampler, points) - 1 if sampler == 'heun' else points


def claim(model: str) -> Claim:
  """Return the claim for a shipped model of captioned digits."""
  cells = [(sampler, points) for sampler in SAMPLERS for points in POINTS]
  return Claim(
    name=f'samplers_{model}',
    source='Snap Fig. 6',
    statement='quality is high at 64 steps already, and still improves up to 256',
    setting=f'pretrained:{model} at its default guidance weight, 120 videos each; seeds vary the sampling noise',
    cost='20 minutes',
    arms={
      arm(sampler, points): Arm(
        f'pretrained:{model}', settings=SAMPLERS[sampler] | {'num_steps': grid_points(sampler, points)}
      )
      for sampler, points in cells
    },
    baseline=arm('ancestral', 64),
    scores=quality.SCORES,
    comparisons=(
      *(Comparison(arm(sampler, 64), arm(sampler, 16), 'frechet', 'lower') for sampler in SAMPLERS),
      *(Comparison(arm(sampler, 64), arm(sampler, 32), 'frechet', 'lower') for sampler in SAMPLERS),
      Comparison(arm('heun', 16), arm('ancestral', 16), 'frechet', 'lower'),
      Comparison(arm('heun', 64), arm('ancestral', 64), 'frechet', 'lower'),
    ),
    measure=quality.measure,
    draw=quality.drawing(
      {arm(*cell): (cell[0], evaluations(*cell)) for cell in cells}, quality.SCORES, x='network evaluations', log=True
    ),
  )
