"""How good are the videos: protocols and their distances, the judge of captioned digits, drift along a long video."""

from vdm_jax.evaluation.digits.digit_classifier import Scores, accuracy, parse_caption, read_clips, score
from vdm_jax.evaluation.digits.digit_protocol import evaluate_digits
from vdm_jax.evaluation.digits.scene_protocol import evaluate_scenes
from vdm_jax.evaluation.metric_records import compare, figures_of
from vdm_jax.evaluation.metrics.clipsim import similarity
from vdm_jax.evaluation.metrics.drift import drift
from vdm_jax.evaluation.metrics.frechet import Distance, distance_from, estimate, frechet_distance
from vdm_jax.evaluation.metrics.inception_score import inception_score
from vdm_jax.evaluation.metrics.moments import Moments, merge, merge_all, moments, streamed
from vdm_jax.evaluation.metrics.motion import compare_motion, motion
from vdm_jax.evaluation.metrics.neighbors import mean_pairwise, memorisation, nearest, precision_recall
from vdm_jax.evaluation.protocols.contract import Figure, Metric, Protocol
from vdm_jax.evaluation.protocols.published import PROTOCOLS

__all__ = [
  'PROTOCOLS',
  'Distance',
  'Figure',
  'Metric',
  'Moments',
  'Protocol',
  'Scores',
  'accuracy',
  'compare',
  'compare_motion',
  'distance_from',
  'drift',
  'estimate',
  'evaluate_digits',
  'evaluate_scenes',
  'figures_of',
  'frechet_distance',
  'inception_score',
  'mean_pairwise',
  'memorisation',
  'merge',
  'merge_all',
  'moments',
  'motion',
  'nearest',
  'parse_caption',
  'precision_recall',
  'read_clips',
  'score',
  'similarity',
  'streamed',
]
