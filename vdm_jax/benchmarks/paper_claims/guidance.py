"""The weight of classifier-free guidance: VDM Table 5, Snap Fig. 5."""

from __future__ import annotations

from vdm_jax.benchmarks.paper_claims import quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # Eq. 6's w


def arm(weight: float) -> str:
  return f'w={weight:g}'


def claim(model: str) -> Claim:
  """Return the claim for a shipped model of captioned digits."""
  return Claim(
    name=f'guidance_{model}',
    source='VDM Table 5, Snap Fig. 5',
    statement='guidance raises fidelity to the prompt; Fréchet distances improve with its weight, then degrade',
    setting=f'pretrained:{model}, 120 videos per weight; seeds vary the sampling noise, not the model',
    cost='7 minutes',
    arms={arm(weight): Arm(f'pretrained:{model}', settings={'guidance_weight': weight}) for weight in WEIGHTS},
    baseline=arm(0.0),
    scores=quality.SCORES,
    comparisons=(
      Comparison(arm(1.0), arm(0.0), 'digit', 'higher'),
      Comparison(arm(1.0), arm(0.0), 'frame_consistency', 'higher'),
      Comparison(arm(1.0), arm(0.0), 'frechet', 'lower'),
      Comparison(arm(8.0), arm(1.0), 'frechet', 'higher'),
      Comparison(arm(8.0), arm(0.0), 'recall', 'lower'),
    ),
    measure=quality.measure,
    draw=quality.drawing(
      {arm(weight): (model, weight) for weight in WEIGHTS}, quality.SCORES, x='guidance weight w of VDM Eq. 6'
    ),
  )
