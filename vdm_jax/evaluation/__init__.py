"""How good are the videos: the judge of captioned digits, the Frechet distance, drift along a long video."""

from vdm_jax.evaluation.digit_protocol import evaluate_digits
from vdm_jax.evaluation.digits import Scores, accuracy, parse_caption, read_clips, score
from vdm_jax.evaluation.drift import drift
from vdm_jax.evaluation.frechet import frechet_distance

__all__ = [
  'Scores',
  'accuracy',
  'drift',
  'evaluate_digits',
  'frechet_distance',
  'parse_caption',
  'read_clips',
  'score',
]
