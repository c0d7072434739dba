"""Generators: videos for a list of prompts, in batches of one size through one compiled sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.configuration import frames_per_second
from vdm_jax.generation.cascade import make_corruption
from vdm_jax.generation.sampler import SampleInParts, default_batch_size, in_parts, make_stages, video_keys
from vdm_jax.models import Model
from vdm_jax.rng import VideoStream, fold_in
from vdm_jax.types import Array, Conditioning, Params
from vdm_jax.video import check_fps


class Generate(Protocol):
  """Makes n videos, float32 `[n t h w c]` in [-1, 1], without padding rows.

  Video i depends on its conditions and (seed, first + i) alone, to the bit: many videos can be made in several calls,
  and one of them again alone.

  Args:
    params: the model's parameters.
    prompts, labels: conditions, one per video; n is their number.
    count: n, for a model without conditions.
    seed: seed of the noise. With a sequence of n seeds, video i is number `first` of its own seed.
    first: number of the first video.
    frame_rate: frames per second to condition on, infinite for an image; None: `sampling.fps`.
    original_size: height and width in pixels to condition on; None: `sampling.original_size`, or the model's own.
    low_resolution: `[n t h/f w/f c]`, first-stage videos, for a second stage.
    report: called with the number of videos just done, which may be a fraction.

  Raises:
    ValueError: the model does not take these conditions.
    FloatingPointError: a sample is not finite; the message names the first.

  >>> import numpy as np
  >>> from vdm_jax.generation import Generate
  >>> def static(params, *, prompts=None, count=None, **options):
  ...   return np.zeros((count or len(prompts), 8, 16, 16, 1), np.float32)
  >>> generate: Generate = static
  >>> generate(None, prompts=['a 3 moving left']).shape
  (1, 8, 16, 16, 1)
  """

  def __call__(
    self,
    params: Params,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int | None = None,
    seed: int | Sequence[int] = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
    low_resolution: np.ndarray | None = None,
    report: Callable[[float], None] = lambda videos: None,
  ) -> np.ndarray: ...


def make_generator(
  model: Model,
  config: Mapping[str, Any],
  *,
  batch_size: int | None = None,
  mesh: Mesh | None = None,
  split: bool = False,
) -> Generate:
  """Return a generator of the model's videos, `generate(params, *, prompts=None, ...)`; see `Generate`.

  Args:
    model: the model.
    config: the section `sampling` of a configuration.
    batch_size: videos made at a time, by one compiled program; fewer are padded, since XLA rounds differently for
      other sizes. None: `default_batch_size`.
    mesh: devices on which the parameters live, if several.
    split: whether each device of the mesh makes its part of a batch. Parameters must be replicated, and the number of
      devices divide `batch_size`.

  Raises:
    ValueError: settings are invalid, or do not go together.

  >>> import vdm_jax
  >>> from vdm_jax import configuration
  >>> from vdm_jax.generation import make_generator
  >>> model, params = vdm_jax.load('pretrained:digits')
  >>> generate = make_generator(model, configuration.default().sampling.to_dict() | {'num_steps': 2})
  >>> generate(params, prompts=['a 3 moving left', 'a 7 moving up'], seed=1).shape
  (2, 8, 16, 16, 1)
  """
  size = batch_size or default_batch_size(mesh)
  rows = partitioning.batch_sharding(mesh) if split else None
  sample = _make_sampler(model, config, mesh=mesh, split=split)
  pad, height = model.config['pad_rows'], model.video_shape[1]
  condition = _make_condition(model, config)

  def generate(
    params: Params,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int | None = None,
    seed: int | Sequence[int] = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
    low_resolution: np.ndarray | None = None,
    report: Callable[[float], None] = lambda videos: None,
  ) -> np.ndarray:
    count = _count(prompts, labels, count)
    _check_low_resolution(model, low_resolution, count)
    cond = condition(prompts, labels, count=count, frame_rate=frame_rate, original_size=original_size)
    each = np.ndim(seed) > 0
    numbers = np.full(count, first) if each else np.arange(first, first + count)
    videos = []
    for start in range(0, count, size):
      index = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats its last video
      keys = video_keys([seed[i] for i in index] if each else seed, numbers[index], rows)
      part = jax.tree.map(lambda leaf, index=index: leaf[index], (cond, low_resolution))
      made = min(size, count - start)
      x = sample(params, keys, *part, lambda share, made=made: report(share * made))
      videos.append(x[:made, :, pad : height - pad])
    return _finite(np.concatenate(videos), prompts, first)

  return generate


def _make_sampler(
  model: Model, config: Mapping[str, Any], **options: Any
) -> Callable[[Params, Array, Conditioning, np.ndarray | None, Callable[[float], None]], np.ndarray]:
  """Return `(params, keys [b], cond, low, report) -> x`; `low` is None but for a second stage."""
  sample: SampleInParts = in_parts(make_stages(model, config), **options)
  if model.upsampling == 1:
    return lambda params, keys, cond, low, report: sample(params, keys, cond, None, report)
  corrupt = jax.jit(make_corruption(model, config))

  def upsample(
    params: Params, keys: Array, cond: Conditioning, low: np.ndarray, report: Callable[[float], None]
  ) -> np.ndarray:
    keys = fold_in(keys, VideoStream.SECOND_STAGE)
    return sample(params, keys, corrupt(keys, cond, low), None, report)

  return upsample


def _make_condition(model: Model, config: Mapping[str, Any]) -> Callable[..., Conditioning]:
  """Return `Model.condition` with the configuration's frame rate and original size as defaults."""
  fps = frames_per_second(config)
  check_fps(fps, 'sampling.fps')
  pad, (_, height, width, _) = model.config['pad_rows'], model.video_shape
  defaults = {'frame_rate': fps, 'original_size': config['original_size'] or (height - 2 * pad, width)}
  model.condition(count=1, **defaults)  # raises before any work

  def condition(
    prompts: Sequence[str] | None, labels: Sequence[int] | None, *, count: int, **given: Any
  ) -> Conditioning:
    for name, scalar in (('frame_rate', 'frame_interval'), ('original_size', 'resolution')):
      if given[name] is not None and not model.takes(scalar):
        raise ValueError(f'{name} has no effect: this model was trained without {scalar!r} in model.scalars.')
    given = {name: defaults[name] if value is None else value for name, value in given.items()}
    return model.condition(prompts, labels, count=count, **given)

  return condition


def _count(prompts: Sequence[str] | None, labels: Sequence[int] | None, count: int | None) -> int:
  """Return the number of videos."""
  counts = {len(given) for given in (prompts, labels) if given is not None} | ({count} if count is not None else set())
  if len(counts) != 1 or 0 in counts:
    raise ValueError(
      f'{len(prompts or ())} prompts, {len(labels or ())} labels, count={count} do not define a number of videos: '
      'give one or more of them, the same number of each.'
    )
  return counts.pop()


def _check_low_resolution(model: Model, videos: np.ndarray | None, count: int) -> None:
  """Raise ValueError unless a second stage, and no other model, is given first-stage videos of the right shape."""
  factor = model.upsampling
  if factor == 1:
    if videos is not None:
      raise ValueError('low_resolution is not an input of this model (model.upsampling is 1): leave it out.')
    return
  frames, height, width, channels = model.video_shape
  wanted = (count, frames, height // factor, width // factor, channels)
  if np.shape(videos) != wanted:
    raise ValueError(
      f'low_resolution has shape {None if videos is None else np.shape(videos)}, but this second stage needs {wanted}: '
      'give the videos of its first stage, as make_cascade does.'
    )


def _finite(videos: np.ndarray, prompts: Sequence[str] | None, first: int) -> np.ndarray:
  """Return the videos, or raise FloatingPointError if a value is not finite."""
  broken = np.flatnonzero(~np.isfinite(videos).all(axis=(1, 2, 3, 4)))
  if len(broken):
    name = f'video {first + broken[0]}' + (f' ({prompts[broken[0]]!r})' if prompts else '')
    raise FloatingPointError(
      f'{len(broken)} of {len(videos)} samples are not finite, the first is {name}; they were not written. '
      "Sample an earlier checkpoint, set model.dtype='float32', or reduce sampling.guidance_weight."
    )
  return videos
