"""Video quality metrics and protocols.

- `evaluate_run` measures a run by one of `PROTOCOLS`, and `compare` compares two records.
- `metrics/` has the metrics (`METRICS`), `features/` the feature networks, `protocols/` the protocols of the papers.
- `digits/` has classifiers for the embedded digits, and the two protocols that use them.

To add a metric, a feature network or a protocol, see docs/extending/.
"""

from vdm_jax.evaluation.digits.digit_classifier import Scores, accuracy, parse_caption, read_clips, score
from vdm_jax.evaluation.digits.digit_protocol import evaluate_digits
from vdm_jax.evaluation.digits.scene_protocol import evaluate_scenes
from vdm_jax.evaluation.evaluate_run import evaluate_run
from vdm_jax.evaluation.metric_records import compare, figures_of
from vdm_jax.evaluation.metrics.clipsim import similarity
from vdm_jax.evaluation.metrics.contract import MetricInputs, MetricKind
from vdm_jax.evaluation.metrics.drift import drift
from vdm_jax.evaluation.metrics.frechet import Distance, distance_from, estimate, frechet_distance
from vdm_jax.evaluation.metrics.inception_score import inception_score
from vdm_jax.evaluation.metrics.moments import Moments, merge, merge_all, moments, streamed
from vdm_jax.evaluation.metrics.motion import compare_motion, motion
from vdm_jax.evaluation.metrics.neighbors import mean_pairwise, memorization, nearest, precision_recall
from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.options import EvalOptions
from vdm_jax.evaluation.protocols.contract import Figure, Metric, Protocol
from vdm_jax.evaluation.protocols.table import PROTOCOLS

__all__ = [
  'METRICS',
  'PROTOCOLS',
  'Distance',
  'EvalOptions',
  'Figure',
  'Metric',
  'MetricInputs',
  'MetricKind',
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
  'evaluate_run',
  'evaluate_scenes',
  'figures_of',
  'frechet_distance',
  'inception_score',
  'mean_pairwise',
  'memorization',
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
