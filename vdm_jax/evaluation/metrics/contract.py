"""The contract of a metric: what it is computed from, what it returns, and which direction is better.

A metric is one file of this folder with a `MetricKind`, and one entry in `table.METRICS`. Protocols name the entry
(`protocols.contract.Metric.kind`); no other module knows a metric by name. docs/extending/metric.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Stream = Callable[[], Iterator[np.ndarray]]  # reads arrays [b ...] batch by batch, in order; each call starts again


class MetricInputs(NamedTuple):
  """Inputs of a metric. The arrays are on disk; a stream holds one batch of them at a time.

  The arrays hold one row per clip: the features of the metric's network, or what `MetricKind.from_videos` returned.
  Features of single frames (`Metric.frames` is 'each') have shape `[b t d]`, all others `[b d]`.

  Attributes:
    name: of the metric in the protocol, for messages.
    count: number of samples.
    samples: stream of the samples' arrays.
    references: stream of the real clips' arrays, by split (`Protocol.references`).
    text: stream of the embeddings of the samples' prompts, float32 `[b d]`; None unless `MetricKind.needs_text`.

  >>> import numpy as np
  >>> inputs = MetricInputs('fvd', 2, samples=lambda: iter([np.zeros((2, 3))]), references={})
  >>> [batch.shape for batch in inputs.samples()]
  [(2, 3)]
  """

  name: str
  count: int
  samples: Stream
  references: Mapping[str, Stream]
  text: Stream | None = None


class MetricKind(NamedTuple):
  """How a metric is computed.

  Attributes:
    compute: inputs -> `{variant: {'value': float, 'spread': float | None, ...}}`. The spread is the standard error, or
      None. Other keys are written to the record too. Sweeps compare the last variant. Raises ValueError for arrays it
      cannot use.
    lower_is_better: whether a smaller value is better.
    from_videos: for metrics without a feature network: uint8 `[n t h w 3]` -> array `[n ...]`, one row per clip. None:
      the metric reads features.
    min_rows: least number of rows of the samples and of each reference.
    needs_text: whether `compute` reads `MetricInputs.text`. The metric's network must have a text encoder.

  >>> import numpy as np
  >>> def compute(inputs):
  ...   values = np.concatenate(list(inputs.samples()))
  ...   return {'mean': {'value': float(values.mean()), 'spread': None}}
  >>> brightness = MetricKind(compute, lower_is_better=False, from_videos=lambda videos: videos.mean((1, 2, 3, 4)))
  >>> white = brightness.from_videos(np.full((2, 4, 8, 8, 3), 255, np.uint8))
  >>> brightness.compute(MetricInputs('brightness', 2, lambda: iter([white]), {}))
  {'mean': {'value': 255.0, 'spread': None}}
  """

  compute: Callable[[MetricInputs], dict[str, dict[str, Any]]]
  lower_is_better: bool
  from_videos: Callable[[np.ndarray], np.ndarray] | None = None
  needs_text: bool = False
  min_rows: int = 1
