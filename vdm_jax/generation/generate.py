"""Videos for a list of prompts: fixed-size batches through one compiled sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.generation.cascade import make_upsampler
from vdm_jax.generation.sampler import make_sampler, video_keys
from vdm_jax.models import Model
from vdm_jax.types import Params

Generate = Callable[..., np.ndarray]


def make_generator(
  model: Model, config: Mapping[str, Any], *, batch_size: int = 32, mesh: Mesh | None = None, split: bool = False
) -> Generate:
  """Builds `generate(params, *, prompts=None, labels=None, count=None, seed=0, first=0, frame_rate=None,
  original_size=None, low_resolution=None) -> float32 [n t h w c]` in [-1, 1].

  n is the number of prompts or labels, or `count` for a model without conditions. Video i depends on its prompt, its
  label and (seed, first + i) alone, so that many can be made in several calls. At most `batch_size` videos are made
  at a time, by one compiled program. Padded rows are cut off. `frame_rate` (frames per second, infinite for an image)
  and `original_size` (height and width in pixels) are what a model that is told them is asked for; the
  configuration's where they are None. A second stage needs `low_resolution` `[n t h/f w/f c]`, the videos of the
  first.

  Args:
    config: the section `sampling`.
    mesh: where the parameters live, if not on one device.
    split: each device of the mesh makes its part of a batch, if parameters are replicated and `batch_size` divides.

  Raises:
    ValueError: settings that do not go together, or conditions that the model does not take.
    FloatingPointError: a sample is not finite; it names the first.
  """
  layout = partitioning.replicated(mesh) if mesh else None
  rows = partitioning.batch_sharding(mesh) if split else None
  make = make_upsampler if model.upsampling > 1 else make_sampler
  sampler = jax.jit(make(model, config), out_shardings=layout)
  pad, (_, height, width, _) = model.config['pad_rows'], model.video_shape
  if not config['fps'] > 0:
    raise ValueError(f'sampling.fps={config["fps"]} must be positive: it is the frame rate of the videos.')
  defaults = {'frame_rate': config['fps'], 'original_size': config['original_size'] or (height - 2 * pad, width)}
  model.condition(count=1, **defaults)  # raises before any work

  def generate(
    params: Params,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int | None = None,
    seed: int = 0,
    first: int = 0,
    frame_rate: float | None = None,
    original_size: tuple[int, int] | None = None,
    low_resolution: np.ndarray | None = None,
  ) -> np.ndarray:
    count = _count(prompts, labels, count)
    _check_low_resolution(model, low_resolution, count)
    size = min(count, batch_size)
    asked = {'frame_rate': frame_rate, 'original_size': original_size}
    for name, scalar in (('frame_rate', 'frame_interval'), ('original_size', 'resolution')):
      if asked[name] is not None and not model.takes(scalar):
        raise ValueError(f'{name} has no effect: this model was trained without {scalar!r} in model.scalars.')
    asked = {name: defaults[name] if value is None else value for name, value in asked.items()}
    cond = model.condition(prompts, labels, count=count, **asked)
    inputs = (cond,) if low_resolution is None else (cond, low_resolution)
    videos = []
    for start in range(0, count, size):
      index = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats its last video
      keys = video_keys(seed, first + index, rows)
      part = jax.tree.map(lambda leaf, index=index: leaf[index], inputs)
      videos.append(np.asarray(sampler(params, keys, *part))[: count - start, :, pad : height - pad])
    return _finite(np.concatenate(videos), prompts)

  return generate


def _count(prompts: Sequence[str] | None, labels: Sequence[int] | None, count: int | None) -> int:
  counts = {len(given) for given in (prompts, labels) if given is not None} | ({count} if count is not None else set())
  if len(counts) != 1 or 0 in counts:
    raise ValueError(
      f'{len(prompts or ())} prompts, {len(labels or ())} labels, count={count}: give one or more videos to make, '
      'and the same number of each.'
    )
  return counts.pop()


def _check_low_resolution(model: Model, videos: np.ndarray | None, count: int) -> None:
  factor = model.upsampling
  if factor == 1:
    if videos is not None:
      raise ValueError('low-resolution videos were given to a model that takes none: model.upsampling is 1.')
    return
  frames, height, width, channels = model.video_shape
  wanted = (count, frames, height // factor, width // factor, channels)
  if np.shape(videos) != wanted:
    raise ValueError(
      f'a second stage makes videos out of low-resolution ones of shape {wanted}, but was given '
      f'{"none" if videos is None else np.shape(videos)}: sample its first stage before, as a cascade does.'
    )


def _finite(videos: np.ndarray, prompts: Sequence[str] | None) -> np.ndarray:
  broken = np.flatnonzero(~np.isfinite(videos).all(axis=(1, 2, 3, 4)))
  if len(broken):
    name = f'video {broken[0]}' + (f' ({prompts[broken[0]]!r})' if prompts else '')
    raise FloatingPointError(
      f'{len(broken)} of {len(videos)} samples are not finite, the first is {name}; none was written. '
      "Sample an earlier checkpoint, in model.dtype='float32', or with less sampling.guidance_weight."
    )
  return videos
