"""What a protocol consists of: immutable records, so that a figure can say what it is a figure of."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ('frechet', 'inception', 'similarity')
TASKS = ('unconditional', 'prediction', 'captions', 'classes')


class Metric(NamedTuple):
  """One figure of a record."""

  name: str
  kind: str  # one of KINDS
  network: str  # of vdm_jax.evaluation.features
  output: str = 'pool'  # pool or logits of that network
  frames: str = 'clip'  # of networks of images: mean or first of a clip's frames, or each, which counts for itself
  size: tuple[int, int] | None = None  # height and width of the centre that is cut out before; None: all

  @property
  def features(self) -> str:
    """The name of the features that the metric is computed from, which metrics may share."""
    cut = '' if self.size is None else '-{}x{}'.format(*self.size)
    return f'{self.network}-{self.frames}-{self.output}{cut}'


class Figure(NamedTuple):
  """A published value."""

  metric: str
  variant: str  # of the record: the split a distance is to, or splits_1, splits_10, mean
  value: float
  spread: float | None
  source: str  # paper and table
  setting: tuple[tuple[str, float | str], ...] = ()  # configuration keys, or what tells rows of the table apart


class Protocol(NamedTuple):
  """How a model is measured.

  Clips are scaled to cover the protocol's size, aspect kept, and their centre is cut out (`data.ExampleClips`); the
  model's videos must have that size. `notes` says what the source leaves open and what is done about it.
  """

  name: str
  source: str
  task: str  # one of TASKS: what samples are made from
  metrics: tuple[Metric, ...]
  references: tuple[str, ...]  # splits that distances are measured to, each giving its own figure
  height: int
  width: int
  num_frames: int
  num_samples: int
  num_references: int | None  # clips of each reference; None: all there are
  given_frames: int = 0  # prediction: the first frames of a clip, which count as part of the sample
  window: str = 'random'  # where in a clip its frames are taken: random, or first
  replacement: bool = False  # whether clips are drawn with replacement, reference and given frames each for itself
  prompts: str | None = None  # classes: a set of vdm_jax.evaluation.protocols.prompts that has one for each class
  prompt_file: bool = False  # captions: the user's file with one prompt per sample, instead of the clips' captions
  frame_rate: float | None = None  # asked for, of models that are told it
  original_size: tuple[int, int] | None = None  # likewise
  training_clips: int = 0  # looked at for memorisation; 0: a model that was not trained on this data
  guidance_weights: tuple[float, ...] = ()  # of --sweep=guidance, Eq. 6's w
  guidance_sampling: tuple[tuple[str, float | str], ...] = ()  # what this sweep changes besides, keys of `sampling`
  num_steps: tuple[int, ...] = ()  # of --sweep=steps
  samplers: tuple[str, ...] = ()  # of this sweep, values of `sampling.step`; (): the run's own
  sweep_samples: int | None = None  # of each point of a sweep; None: num_samples
  published: tuple[Figure, ...] = ()
  calibration: tuple[Figure, ...] = ()  # of real clips, for --real_vs_real
  notes: str = ''

  @property
  def networks(self) -> tuple[str, ...]:
    """The feature networks that are needed, each once."""
    return tuple(dict.fromkeys(metric.network for metric in self.metrics))

  @property
  def splits(self) -> tuple[str, ...]:
    """The splits whose clips are looked at."""
    also = ('train', 'test') if self.training_clips else ()
    return tuple(dict.fromkeys((*self.references, *also)))
