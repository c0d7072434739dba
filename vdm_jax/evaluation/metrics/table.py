"""The table of metrics. To add one: write one file of this folder (see `contract`), and enter it here."""

from __future__ import annotations

from vdm_jax.evaluation.metrics.clipsim import SIMILARITY
from vdm_jax.evaluation.metrics.contract import MetricKind
from vdm_jax.evaluation.metrics.frechet import FRECHET
from vdm_jax.evaluation.metrics.inception_score import INCEPTION

METRICS: dict[str, MetricKind] = {'frechet': FRECHET, 'inception': INCEPTION, 'similarity': SIMILARITY}
