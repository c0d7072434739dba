"""Videos of any length from a plan, in windows made by one compiled sampler.

    plan = extension(64, block=16, overlap=8)
    generate = make_long_generator(model, config['sampling'])
    videos = generate(params, plan, prompts=['a 3 moving left'])

Frames are read and written window by window, so they may be stored on disk: memory does not grow with the length.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vdm_jax import partitioning
from vdm_jax.configuration import frames_per_second
from vdm_jax.generation import conditional
from vdm_jax.generation.cascade import make_corruption
from vdm_jax.generation.frames import Frames, InMemory, check_given, frame_shape, observe, unpad
from vdm_jax.generation.plan import Plan, Window
from vdm_jax.generation.sampler import SampleInParts, default_batch_size, in_parts, make_stages, video_keys
from vdm_jax.models import Model
from vdm_jax.rng import VideoStream, fold_in
from vdm_jax.types import Array, Conditioning, Params

# (window, numbers of the videos [b], keys [b]) -> their conditions in this window
Conditions = Callable[[Window, np.ndarray, Array], Conditioning]


class GenerateLong(Protocol):
  """Makes n videos along a plan, float32 `[n plan.num_frames h w c]` in [-1, 1], in memory.

  n is the number of prompts or labels, else of given videos, else `count`. Video i depends on its conditions, its given
  frames and (seed, first + i) alone, to the bit. A window that observes nothing is the video that `make_generator`
  makes.

  Args:
    params: the model's parameters.
    plan: the windows.
    given: `[n k h w c]`, the frames at `plan.given`; they are returned unchanged.
    low: `[n k h/f w/f c]`, the low-resolution frames at `plan.low`.
    prompts, labels, count, seed, first, frame_rate, original_size: as in `Generate`; the frame rate is that of the
      whole video.

  Raises:
    ValueError: frames of the wrong number or size, or conditions that the model does not take.
    FloatingPointError: a sample is not finite.
  """

  def __call__(
    self,
    params: Params,
    plan: Plan,
    *,
    given: np.ndarray | None = None,
    low: np.ndarray | None = None,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int = 1,
    seed: int | Sequence[int] = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
  ) -> np.ndarray: ...


def make_long_generator(
  model: Model,
  config: Mapping[str, Any],
  *,
  batch_size: int | None = None,
  mesh: Mesh | None = None,
  split: bool = False,
) -> GenerateLong:
  """Return a generator of videos along a plan, `generate(params, plan, *, given=None, ...)`; see `GenerateLong`.

  Arguments as in `make_generator`; a window has the length of the model's videos.

  Raises:
    ValueError: settings are invalid, or do not go together.

  >>> import vdm_jax
  >>> from vdm_jax import configuration
  >>> from vdm_jax.generation import extension, make_long_generator
  >>> model, params = vdm_jax.load('pretrained:digits')
  >>> generate = make_long_generator(model, configuration.default().sampling.to_dict() | {'num_steps': 2})
  >>> generate(params, extension(12, block=8, overlap=4), prompts=['a 3 moving left']).shape
  (1, 12, 16, 16, 1)
  """
  sample_window = make_window_sampler(model, config, mesh=mesh)
  rows = partitioning.batch_sharding(mesh) if split else None
  size = batch_size or default_batch_size(mesh)

  def generate(
    params: Params,
    plan: Plan,
    *,
    given: np.ndarray | None = None,
    low: np.ndarray | None = None,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int = 1,
    seed: int | Sequence[int] = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
  ) -> np.ndarray:
    sized = [some for some in (prompts, labels, given, low) if some is not None]
    count = len(sized[0]) if sized else count
    frames, small = _frames(model, plan, count, given, low)
    asked = {'frame_rate': frame_rate, 'original_size': original_size}
    conditions = make_conditions(model, config, prompts=prompts, labels=labels, count=count, **asked)
    options = {'model': model, 'count': count, 'seed': seed, 'first': first, 'rows': rows, 'batch_size': size}
    for _ in fill(plan, sample_window, params, frames, conditions, low=small, **options):
      pass
    return frames.videos

  return generate


def _frames(
  model: Model, plan: Plan, count: int, given: np.ndarray | None, low: np.ndarray | None
) -> tuple[InMemory, InMemory | None]:
  """Return storage with the given frames written, and the low-resolution frames; raise ValueError for wrong shapes."""
  frames = InMemory(np.zeros((count, plan.num_frames, *frame_shape(model)), np.float32))
  check_given('given', given, plan.given, count, frame_shape(model))
  check_given('low', low, plan.low, count, frame_shape(model), smaller=True)
  if given is not None:
    frames.write(range(count), plan.given, given)
  return frames, None if low is None else InMemory(np.asarray(low, np.float32))


def make_window_sampler(
  model: Model, config: Mapping[str, Any], *, low_resolution: bool = False, mesh: Mesh | None = None
) -> SampleInParts:
  """Return the sampler of one window, compiled once for windows with an observation and once for those without.

  Args:
    model: the model.
    config: the section `sampling` of a configuration.
    low_resolution: whether a low-resolution video is to be observed.
    mesh: devices on which the parameters live, if several.

  Raises:
    ValueError: settings are invalid, or do not go together.
  """
  conditional.check(config, low_resolution=low_resolution)
  return in_parts(make_stages(model, config), mesh=mesh)


def make_conditions(
  model: Model,
  config: Mapping[str, Any],
  *,
  prompts: Sequence[str] | None,
  labels: Sequence[int] | None,
  count: int,
  frame_rate: float | None = None,
  original_size: tuple[int, int] | None = None,
) -> Conditions:
  """Return the conditions of all windows; a window that skips frames has a lower frame rate.

  Args:
    model: the model.
    config: the section `sampling` of a configuration.
    prompts, labels: conditions, one per video.
    count: number of videos.
    frame_rate: frames per second of the whole video; None: `sampling.fps`.
    original_size: as in `Generate`.

  Raises:
    ValueError: as `Model.condition`.
  """
  height, width, _ = frame_shape(model)
  frame_rate = frames_per_second(config) if frame_rate is None else frame_rate
  original_size = original_size or config['original_size'] or (height, width)

  @functools.cache
  def of_all(stride: int) -> Conditioning:
    return model.condition(prompts, labels, count=count, frame_rate=frame_rate / stride, original_size=original_size)

  of_all(1)  # raises before any work
  return lambda window, videos, keys: jax.tree.map(lambda leaf: leaf[videos], of_all(window.stride))


def upsampling_conditions(
  conditions: Conditions, model: Model, config: Mapping[str, Any], first: Frames, num_frames: int
) -> Conditions:
  """Return `conditions` with the first stage's frames of the same window, for a second stage.

  Args:
    conditions: all other conditions.
    model: the second stage.
    config: its section `sampling`.
    first: the videos of the first stage.
    num_frames: their length; frames of a window beyond it repeat the last one.
  """
  corrupt = jax.jit(make_corruption(model, config))

  def of_window(window: Window, videos: np.ndarray, keys: Array) -> Conditioning:
    low = first.read(videos, np.minimum(window.frames, num_frames - 1))
    return corrupt(keys, conditions(window, videos, keys), low)

  return of_window


def fill(
  plan: Plan,
  sample_window: SampleInParts,
  params: Params,
  frames: Frames,
  conditions: Conditions,
  *,
  model: Model,
  count: int,
  seed: int | Sequence[int],
  batch_size: int,
  low: Frames | None = None,
  second_stage: bool = False,
  skip: int = 0,
  first: int = 0,
  rows: NamedSharding | None = None,
  report: Callable[[float], None] = lambda windows: None,
) -> Iterator[int]:
  """Make and write all windows of `count` videos; after each, yield the number of windows done.

  A window depends on the frames it sees and on (seed, video, window) alone, so that interrupted work can be resumed.

  Args:
    plan: the windows.
    sample_window: a sampler of `make_window_sampler`.
    params: the model's parameters.
    frames: where frames are read and written.
    conditions: the conditions of a window, of `make_conditions` or `upsampling_conditions`.
    model: the model.
    count: number of videos.
    seed: seed of the noise, or one per video, as in `Generate`.
    batch_size: videos made at a time; fewer are padded, since XLA rounds differently for other sizes.
    low: the low-resolution frames, in the order of `plan.low`.
    second_stage: whether to draw the noise of a second stage, which differs from the first stage's of the same seed.
    skip: number of windows done before, for resuming.
    first: number of the first video.
    rows: sharding of the keys.
    report: called with the share of a window just done.

  Raises:
    FloatingPointError: samples of a window are not finite; nothing of that window is written.
  """
  index_of, each = {position: index for index, position in enumerate(plan.low)}, np.ndim(seed) > 0
  work = [(start, number) for start in range(0, count, batch_size) for number in range(len(plan.windows))]
  for done, (start, number) in enumerate(work[skip:], skip + 1):
    window = plan.windows[number]
    videos = np.minimum(np.arange(start, start + batch_size), count - 1)  # the last batch repeats its last video
    numbers = np.full(batch_size, first) if each else first + videos
    keys = video_keys([seed[video] for video in videos] if each else seed, numbers, rows)
    keys = fold_in(keys, VideoStream.SECOND_STAGE) if second_stage else keys
    keys = fold_in(fold_in(keys, VideoStream.WINDOWS), number) if number else keys
    observed = observe(window, model, frames, videos, low, index_of)
    x = unpad(model, sample_window(params, keys, conditions(window, videos, keys), observed, report))
    if not np.isfinite(x).all():
      raise FloatingPointError(
        f'window {number + 1} of {len(plan.windows)} has samples that are not finite; it was not written. Sample an '
        "earlier checkpoint, in model.dtype='float32', or with less guidance or sampling.reconstruction_weight."
      )
    kept, real = np.flatnonzero(window.kept), min(batch_size, count - start)
    frames.write(videos[:real], [window.frames[i] for i in kept], x[:real, kept])
    yield done


def num_windows(plan: Plan, count: int, batch_size: int) -> int:
  """Return the number of windows that `fill` makes."""
  return len(plan.windows) * math.ceil(count / batch_size)
