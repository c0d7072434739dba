"""The contract of a protocol: immutable records that define exactly what is measured, and how.

A protocol is one `Protocol` and one entry in `table.PROTOCOLS`. It is one of two kinds:
- It lists `metrics`. Samples and real clips are turned into features, and each metric is computed from those.
- It has a function `evaluate`, which scores samples by itself and returns the record.

docs/extending/protocol.md has examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

TASKS = ('unconditional', 'prediction', 'captions', 'classes')


class Metric(NamedTuple):
  """One metric of a protocol: its name in the record, how it is computed, and from which features.

  Attributes:
    name: key of the record's `metrics`.
    kind: key of `metrics.table.METRICS`.
    network: key of `features.table.FEATURE_NETWORKS`; None for metrics that read the videos themselves.
    output: 'pool' or 'logits' of that network.
    frames: 'clip' for networks of clips; for networks of images: 'mean' or 'first' of a clip's frames, or 'each', where
      every frame counts by itself.
    size: height and width of the center crop that is taken first; None: the whole frame.

  >>> Metric('fvd', 'frechet', 'i3d', 'logits').features
  'i3d-clip-logits'
  """

  name: str
  kind: str
  network: str | None = None
  output: str = 'pool'
  frames: str = 'clip'
  size: tuple[int, int] | None = None

  @property
  def features(self) -> str:
    """The name of the arrays that the metric is computed from. Metrics with the same name share them."""
    crop = '' if self.size is None else '-{}x{}'.format(*self.size)
    return f'{self.kind}{crop}' if self.network is None else f'{self.network}-{self.frames}-{self.output}{crop}'


class Figure(NamedTuple):
  """A published value.

  >>> Figure('fvd', 'test', 16.2, 0.34, 'Video Diffusion Models, Table 3', (('sampling.num_steps', 128),)).value
  16.2
  """

  metric: str
  variant: str  # key of the metric in the record: the split a distance is measured to, or splits_1, splits_10, mean
  value: float
  spread: float | None
  source: str  # paper and table
  # The row of the table: configuration keys and their values. A key without a dot describes what no run here has.
  setting: tuple[tuple[str, float | str], ...] = ()


class Protocol(NamedTuple):
  """How a model is measured.

  Real clips are scaled to cover the protocol's size, keeping the aspect ratio, and cropped to their center
  (`data.ExampleClips`), at `data.frame_skip` alone. For a metric with a size of its own they are cut from the original
  frames, samples from the generated ones. The model's videos must have the protocol's size.

  Attributes:
    name: value of `--protocol`.
    source: paper and section.
    task: what samples are generated from, one of TASKS.
    metrics: the metrics, in the order of the record. A sweep optimizes the first. Empty if there is `evaluate`.
    references: splits of the data that samples are compared to, each with its own value. The last one provides the
      prompts, labels and given frames of the samples, and diversity and motion are compared to it.
    height: of the videos, in pixels; 0 with `evaluate`: any.
    width: likewise.
    num_frames: likewise.
    channels: of the model's videos; the feature networks see one as three equal ones.
    model_frames: frames of the model's videos, if samples are longer: they are extended block by block; 0: num_frames.
    overlap: with `model_frames`: frames that each block sees of the one before.
    num_samples: number of generated videos.
    num_references: number of real clips of each reference; None: all.
    fewer_references: whether a split with fewer clips is measured with those it has.
    test_set: whether the reference must be a test set: not clips of a validation set, nor held out from training data.
    real_split: split of the clips that `--real_vs_real` measures in place of samples.
    given_frames: for 'prediction': number of first frames given to the model; they count as part of the sample.
    window: which frames of a clip are used: 'random' or 'first'.
    replacement: whether clips are drawn with replacement, independently for the references and the given frames.
    prompts: for 'classes': a set of `protocols.prompts` with one prompt per class.
    prompt_file: for 'captions': whether the user provides a file with one prompt per sample, instead of the captions of
      the clips.
    frame_rate: frames per second of the real clips, whose frames nearest in time are taken, and of the samples, for
      models conditioned on it. Slower clips are left out. None: real clips keep their rate.
    original_size: height and width in pixels, for models conditioned on it.
    training_clips: number of training clips to search for copies; 0: the model was not trained on this data.
    guidance_weights: values of `--sweep=guidance`, Eq. 6's w.
    guidance_sampling: other keys of `sampling` that this sweep sets, and their values.
    num_steps: values of `--sweep=steps`.
    steps_sampling: other keys of `sampling` that this sweep sets, and their values.
    samplers: values of `sampling.step` in this sweep; empty: the run's own.
    sweep_samples: number of samples per point of a sweep; None: num_samples.
    published: published values of models, the rows of `--sweep=rows`.
    calibration: published values of real clips, for `--real_vs_real`.
    notes: what the source leaves open, and what is done about it.
    adapt: returns the protocol for videos of a size: `(protocol, (t, h, w, c), has_prompts) -> protocol`.
    evaluate: scores samples by itself: `(generate, data, *, seed, num_trained) -> record`, with `generate(prompts) ->
      videos` float `[n t h w c]` in [-1, 1], `data` that section of the configuration, and the number of clips the run
      was trained on. The record has `metrics` as other records do, or its figures are top-level keys.
    record_figures: with `evaluate`: the top-level keys that are figures, for records without `metrics`.
    objective: with `evaluate`: the metric and the variant that a sweep minimizes. For a record without `metrics` the
      metric is the name of the protocol.

  >>> metric = Metric('fvd', 'frechet', 'i3d', 'logits')
  >>> protocol = Protocol('mine', 'a paper', 'unconditional', (metric,), ('train', 'test'), 64, 64, 16, 2048, 2048)
  >>> protocol.networks, protocol.splits
  (('i3d',), ('train', 'test'))
  """

  name: str
  source: str
  task: str
  metrics: tuple[Metric, ...]
  references: tuple[str, ...]
  height: int
  width: int
  num_frames: int
  num_samples: int
  num_references: int | None
  channels: int = 3
  model_frames: int = 0
  overlap: int = 0
  fewer_references: bool = False
  test_set: bool = False
  real_split: str = 'train'
  given_frames: int = 0
  window: str = 'random'
  replacement: bool = False
  prompts: str | None = None
  prompt_file: bool = False
  frame_rate: float | None = None
  original_size: tuple[int, int] | None = None
  training_clips: int = 0
  guidance_weights: tuple[float, ...] = ()
  guidance_sampling: tuple[tuple[str, float | str], ...] = ()
  num_steps: tuple[int, ...] = ()
  steps_sampling: tuple[tuple[str, float | str], ...] = ()
  samplers: tuple[str, ...] = ()
  sweep_samples: int | None = None
  published: tuple[Figure, ...] = ()
  calibration: tuple[Figure, ...] = ()
  notes: str = ''
  adapt: Callable[..., Protocol] | None = None
  evaluate: Callable[..., dict[str, Any]] | None = None
  record_figures: tuple[str, ...] = ()
  objective: tuple[str, str] | None = None

  @property
  def networks(self) -> tuple[str, ...]:
    """The names of the feature networks that the metrics need."""
    return tuple(dict.fromkeys(metric.network for metric in self.metrics if metric.network is not None))

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits of the data that are read."""
    also = ('train', 'test') if self.training_clips else ()
    return tuple(dict.fromkeys((*self.references, *also)))
