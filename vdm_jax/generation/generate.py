"""Videos for a list of prompts: fixed-size batches through one compiled sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.generation.sampler import make_sampler
from vdm_jax.models import Model
from vdm_jax.types import Params

Generate = Callable[..., np.ndarray]


def make_generator(
  model: Model, config: Mapping[str, Any], *, batch_size: int = 32, mesh: Mesh | None = None
) -> Generate:
  """Builds `generate(params, *, prompts=None, labels=None, count=None, seed=0) -> float32 [n t h w c]` in [-1, 1].

  n is the number of prompts or labels, or `count` for a model without conditions. Video i depends on its prompt, its
  label and (seed, i) alone. At most `batch_size` videos are made at a time, by one compiled program.

  Args:
    config: the section `sampling`.
    mesh: where the parameters live, if not on one device.

  Raises:
    ValueError: settings that do not go together, or conditions that the model does not take.
    FloatingPointError: a sample is not finite; it names the first.
  """
  layout = partitioning.replicated(mesh) if mesh else None
  sampler = jax.jit(make_sampler(model, config), out_shardings=layout)

  def generate(
    params: Params,
    *,
    prompts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    count: int | None = None,
    seed: int = 0,
  ) -> np.ndarray:
    count = _count(prompts, labels, count)
    size = min(count, batch_size)
    cond = model.condition(prompts, labels)
    videos = []
    for start in range(0, count, size):
      index = np.minimum(np.arange(start, start + size), count - 1)  # the last batch repeats its last video
      keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
      part = jax.tree.map(lambda leaf, index=index: leaf[index], cond)
      videos.append(np.asarray(sampler(params, keys, part))[: count - start])
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


def _finite(videos: np.ndarray, prompts: Sequence[str] | None) -> np.ndarray:
  broken = np.flatnonzero(~np.isfinite(videos).all(axis=(1, 2, 3, 4)))
  if len(broken):
    name = f'video {broken[0]}' + (f' ({prompts[broken[0]]!r})' if prompts else '')
    raise FloatingPointError(
      f'{len(broken)} of {len(videos)} samples are not finite, the first is {name}; none was written. '
      "Sample an earlier checkpoint, in model.dtype='float32', or with less sampling.guidance_weight."
    )
  return videos
