"""From videos to the arrays that metrics are computed from, after checks that the videos are what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.evaluation.metrics.table import METRICS
from vdm_jax.evaluation.protocols.contract import Metric
from vdm_jax.types import Array

Size = tuple[int, int] | None


def extract(
  metrics: tuple[Metric, ...], networks: Mapping[str, Any], videos: np.ndarray | Mapping[Size, np.ndarray]
) -> dict[str, np.ndarray]:
  """Return the arrays of all metrics by `Metric.features`. Each network sees each crop once.

  Args:
    metrics: of the protocol.
    networks: Extractors by name.
    videos: uint8 `[n t h w 3]`, of which metrics with a size see the center; or the videos of each size by it.
  """
  found: dict[str, np.ndarray] = {}
  seen: dict[tuple, Any] = {}
  for metric in metrics:
    if metric.features in found:
      continue
    if metric.network is None:
      found[metric.features] = np.asarray(METRICS[metric.kind].from_videos(_of_size(videos, metric.size)))
      continue
    if (key := (metric.network, metric.size)) not in seen:
      seen[key] = networks[metric.network].apply(_of_size(videos, metric.size))
    rows = np.asarray(getattr(seen[key], metric.output))
    found[metric.features] = {'mean': lambda rows: rows.mean(1), 'first': lambda rows: rows[:, 0]}.get(
      metric.frames, lambda rows: rows
    )(rows)
  return found


def _of_size(videos: np.ndarray | Mapping[Size, np.ndarray], size: Size) -> np.ndarray:
  return videos[size] if isinstance(videos, Mapping) else center_crop(videos, size)


def center_crop(videos: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
  """Return the center of `[n t h w c]`, of a height and width; None: all.

  Raises:
    ValueError: the videos are smaller.
  """
  if size is None:
    return videos
  height, width = videos.shape[2:4]
  top, left = (height - size[0]) // 2, (width - size[1]) // 2
  if top < 0 or left < 0:
    raise ValueError(f'videos of {height}x{width} are smaller than the crop of {size[0]}x{size[1]}.')
  return videos[:, :, top : top + size[0], left : left + size[1]]


def check_clips(videos: Array, shape: tuple[int, int, int, int], what: str) -> None:
  """Check that videos are uint8 `[n t h w c]` with n >= 1 and (t, h, w, c) = `shape`.

  Nothing is cast, scaled or resized, because that changes metrics by factors.

  Raises:
    ValueError: they are not; the message calls them `what`.
  """
  videos = np.asarray(videos)
  if videos.dtype != np.uint8:
    raise ValueError(f'{what} are {videos.dtype}, but a protocol measures uint8 in [0, 255].')
  if videos.ndim != 5 or not len(videos):
    raise ValueError(f'{what} have shape {videos.shape}, but a protocol measures [n t h w c] with n >= 1.')
  named = zip(('frames', 'rows', 'columns', 'channels'), videos.shape[1:], shape, strict=True)
  if differ := [f'{has} {name} instead of {wanted}' for name, has, wanted in named if has != wanted]:
    raise ValueError(f'{what} have {", ".join(differ)}; they are never resized.')


def check_range(videos: Array) -> None:
  """Check that samples are floats in [-1, 1], up to rounding.

  Raises:
    ValueError: they are not.
  """
  videos = np.asarray(videos)
  if not np.issubdtype(videos.dtype, np.floating):
    raise ValueError(f'samples are {videos.dtype}; pass floats in [-1, 1].')
  low, high = float(videos.min()), float(videos.max())
  if not (low >= -1.001 and high <= 1.001):
    raise ValueError(
      f'samples range from {low:.4g} to {high:.4g}, but a protocol measures [-1, 1] without clipping: sample with '
      "sampling.threshold='clip' or 'dynamic'."
    )
