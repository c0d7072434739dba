"""Carries out a plan: videos of any length out of windows that one compiled sampler makes.

    plan = extension(64, block=16, overlap=8)
    generate = make_long_generator(model, config['sampling'])
    videos = generate(params, plan, prompts=['a 3 moving left'])

Frames are read and written window by window, so that they may live on disk: memory does not grow with the length.
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
from vdm_jax.generation import conditional
from vdm_jax.generation.cascade import make_corruption
from vdm_jax.generation.conditional import Observed
from vdm_jax.generation.plan import Plan, Window
from vdm_jax.generation.sampler import make_stages, video_keys
from vdm_jax.models import Model
from vdm_jax.rng import VideoStream, fold_in
from vdm_jax.types import Array, Conditioning, Params

REPORTS = 8  # of the progress of each window

# (params, keys [b], cond, observed, report) -> x [b t h w c]; `report` is called with the number of steps just taken.
SampleWindow = Callable[[Params, Array, Conditioning, Observed | None, Callable[[int], None]], np.ndarray]
# (window, videos [b], keys [b]) -> what these videos are conditioned on in it
Conditions = Callable[[Window, np.ndarray, Array], Conditioning]


class Frames(Protocol):
  """Videos of one size, numbered from 0, whose frames are kept somewhere: float32 in [-1, 1] here."""

  def read(self, videos: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """`[len(videos) len(positions) h w c]`."""

  def write(self, videos: Sequence[int], positions: Sequence[int], x: np.ndarray) -> None: ...


class InMemory:
  """Frames in an array `[n t h w c]`."""

  def __init__(self, videos: np.ndarray):
    self.videos = videos

  def read(self, videos: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    return self.videos[np.ix_(videos, positions)]

  def write(self, videos: Sequence[int], positions: Sequence[int], x: np.ndarray) -> None:
    self.videos[np.ix_(videos, positions)] = x


def make_long_generator(
  model: Model, config: Mapping[str, Any], *, batch_size: int = 32, mesh: Mesh | None = None, split: bool = False
) -> Callable[..., np.ndarray]:
  """Builds `generate(params, plan, *, given=None, low=None, prompts=None, labels=None, count=1, seed=0,
  first=0, frame_rate=None, original_size=None) -> float32 [n plan.num_frames h w c]` in [-1, 1], in memory.

  `given` `[n k h w c]` are the frames at `plan.given`, and `low` `[n k h/f w/f c]` those at `plan.low`; both stay as
  they are. n is the number of prompts or labels, else of given videos, else `count`. Video i depends on its condition,
  its given frames and (seed, first + i) alone; what a window without observations makes is what `make_generator` makes.

  Raises ValueError for settings that do not go together and frames of the wrong number or size, and FloatingPointError
  for samples that are not finite.
  """
  sample_window = make_window_sampler(model, config, mesh=mesh)
  rows = partitioning.batch_sharding(mesh) if split else None

  def generate(
    params: Params,
    plan: Plan,
    *,
    given: np.ndarray | None = None,
    low: np.ndarray | None = None,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int = 1,
    seed: int = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
  ) -> np.ndarray:
    sized = [some for some in (prompts, labels, given, low) if some is not None]
    count = len(sized[0]) if sized else count
    frames = InMemory(np.zeros((count, plan.num_frames, *frame_shape(model)), np.float32))
    _check_held('given', given, plan.given, count, frame_shape(model))
    _check_held('low', low, plan.low, count, frame_shape(model), smaller=True)
    if given is not None:
      frames.write(range(count), plan.given, given)
    conditions = make_conditions(
      model, config, prompts=prompts, labels=labels, count=count, frame_rate=frame_rate, original_size=original_size
    )
    work = fill(
      plan,
      sample_window,
      params,
      frames,
      conditions,
      model=model,
      count=count,
      seed=seed,
      first=first,
      rows=rows,
      batch_size=batch_size,
      low=None if low is None else InMemory(np.asarray(low, np.float32)),
    )
    for _ in work:
      pass
    return frames.videos

  return generate


def make_window_sampler(
  model: Model, config: Mapping[str, Any], *, low_resolution: bool = False, mesh: Mesh | None = None
) -> SampleWindow:
  """Builds the sampler of one window, compiled once with observations and once without, whatever these are.

  Raises ValueError for settings that do not go together, with a low-resolution video if that is to be observed.
  """
  conditional.check(config, low_resolution=low_resolution)
  stages, layout = make_stages(model, config), partitioning.replicated(mesh) if mesh else None
  begin, advance, finish = (jax.jit(part, out_shardings=layout) for part in stages[1:])
  part = math.ceil(stages.num_steps / REPORTS)

  def sample_window(
    params: Params, keys: Array, cond: Conditioning, observed: Observed | None, report: Callable[[int], None]
  ) -> np.ndarray:
    inputs = (params, keys, cond, observed)
    state = begin(*inputs)
    for start in range(0, stages.num_steps, part):
      stop = min(start + part, stages.num_steps)
      state = jax.block_until_ready(advance(*inputs, state, start, stop))
      report(stop - start)
    return np.asarray(finish(*inputs, state))

  return sample_window


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
  """What the windows of all videos are conditioned on: a window that skips frames asks for its own frame rate.

  `frame_rate` is that of the whole video, `sampling.fps` if None, and `original_size` as in `make_generator`. Raises as
  `Model.condition` does.
  """
  height, width, _ = frame_shape(model)
  frame_rate = config['fps'] if frame_rate is None else frame_rate
  original_size = original_size or config['original_size'] or (height, width)

  @functools.cache
  def of_all(stride: int) -> Conditioning:
    return model.condition(prompts, labels, count=count, frame_rate=frame_rate / stride, original_size=original_size)

  of_all(1)  # raises before any work
  return lambda window, videos, keys: jax.tree.map(lambda leaf: leaf[videos], of_all(window.stride))


def upsampling_conditions(
  conditions: Conditions, model: Model, config: Mapping[str, Any], first: Frames, num_frames: int
) -> Conditions:
  """The conditions of a second stage: those given, and the frames that the first stage made of the same window."""
  corrupt = jax.jit(make_corruption(model, config))

  def of_window(window: Window, videos: np.ndarray, keys: Array) -> Conditioning:
    low = first.read(videos, np.minimum(window.frames, num_frames - 1))
    return corrupt(keys, conditions(window, videos, keys), low)

  return of_window


def fill(
  plan: Plan,
  sample_window: SampleWindow,
  params: Params,
  frames: Frames,
  conditions: Conditions,
  *,
  model: Model,
  count: int,
  seed: int,
  batch_size: int = 32,
  low: Frames | None = None,
  second_stage: bool = False,
  skip: int = 0,
  first: int = 0,
  rows: NamedSharding | None = None,
  report: Callable[[int], None] = lambda steps: None,
) -> Iterator[int]:
  """Makes and writes all windows of `count` videos, `batch_size` videos at a time; yields how many are done after each.

  A window's result depends on the frames it sees and on (seed, video, window) alone, so work that was interrupted goes
  on with `skip`, the number of windows already done. `low` holds the low-resolution frames, in the order of `plan.low`.
  A `second_stage` draws other noise than the first one of the same seed. Videos are numbered from `first` on, and keys
  put as `rows` says.

  Raises FloatingPointError, before writing anything of a window, where its samples are not finite.
  """
  size, place = min(count, batch_size), {position: number for number, position in enumerate(plan.low)}
  work = [(start, number) for start in range(0, count, size) for number in range(len(plan.windows))]
  for done, (start, number) in enumerate(work[skip:], skip + 1):
    window = plan.windows[number]
    videos = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats its last video
    keys = video_keys(seed, first + videos, rows)
    keys = fold_in(keys, VideoStream.SECOND_STAGE) if second_stage else keys
    keys = fold_in(fold_in(keys, VideoStream.WINDOWS), number) if number else keys
    observed = _observe(window, model, frames, videos, low, place)
    x = unpad(model, sample_window(params, keys, conditions(window, videos, keys), observed, report))
    if not np.isfinite(x).all():
      raise FloatingPointError(
        f'window {number + 1} of {len(plan.windows)} has samples that are not finite; it was not written. Sample an '
        "earlier checkpoint, in model.dtype='float32', or with less guidance or sampling.reconstruction_weight."
      )
    kept, real = np.flatnonzero(window.kept), min(size, count - start)
    frames.write(videos[:real], [window.frames[i] for i in kept], x[:real, kept])
    yield done


def num_windows(plan: Plan, count: int, batch_size: int) -> int:
  """How many windows `fill` makes."""
  return len(plan.windows) * math.ceil(count / min(count, batch_size))


def frame_shape(model: Model) -> tuple[int, int, int]:
  """Height, width and channels of the model's frames, without padding."""
  _, height, width, channels = model.video_shape
  return height - 2 * model.config['pad_rows'], width, channels


def unpad(model: Model, x: np.ndarray) -> np.ndarray:
  """Videos `[b t h w c]` without the rows that pad them."""
  rows = model.config['pad_rows']
  return x[:, :, rows : x.shape[2] - rows]


def _observe(
  window: Window, model: Model, frames: Frames, videos: np.ndarray, low: Frames | None, place: Mapping[int, int]
) -> Observed | None:
  """What the window sees; None where that is nothing, for which the sampler has a cheaper program."""
  if not any(window.seen) and low is None:
    return None
  rows = model.config['pad_rows']
  x = np.zeros((len(videos), len(window.frames), *frame_shape(model)), np.float32)
  _read(frames, videos, window, window.seen, lambda position: position, x)
  x = np.pad(x, ((0, 0), (0, 0), (rows, rows), (0, 0), (0, 0)), 'edge')
  seen = np.array(window.seen)
  if low is None:
    return Observed(x, seen)
  small = np.zeros((*x.shape[:2], *low.read(videos[:1], [0]).shape[2:]), np.float32)
  _read(low, videos, window, window.low_seen, place.__getitem__, small)
  return Observed(x, seen, small, np.array(window.low_seen))


def _check_held(
  name: str,
  held: np.ndarray | None,
  positions: Sequence[int],
  count: int,
  shape: tuple[int, int, int],
  *,
  smaller: bool = False,
) -> None:
  """Raises ValueError unless these are the frames at `positions` of every video, or there are none to hold."""
  if held is None and not positions:
    return
  height, width, channels = shape
  factor = height // np.shape(held)[2] if smaller and np.ndim(held) == 5 and 0 not in np.shape(held) else 1
  wanted = (count, len(positions), height // max(1, factor), width // max(1, factor), channels)
  if not positions or np.shape(held) != wanted or height % max(1, factor) or width % max(1, factor):
    also = ', or smaller by a whole factor' if smaller else ''
    raise ValueError(
      f'{name} has shape {np.shape(held)}, but the plan needs {(count, len(positions), *shape)}{also}: the frames of '
      'each video at the positions that the plan names.'
    )


def _read(
  frames: Frames,
  videos: np.ndarray,
  window: Window,
  which: Sequence[bool],
  number: Callable[[int], int],
  into: np.ndarray,
) -> None:
  chosen = np.flatnonzero(which)
  if len(chosen):
    into[:, chosen] = frames.read(videos, [number(window.frames[i]) for i in chosen])
