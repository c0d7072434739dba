"""What every feature network looks like from outside: clips of bytes in, features out, in calls of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.types import Array, Params


class Features(NamedTuple):
  """What a network computes from n clips of t frames.

  Networks of videos have one row per clip, networks of images one per frame: the caller averages over t or takes the
  first.
  """

  pool: np.ndarray  # float32 [n d] or [n t d], what a Frechet distance or a cosine is taken of
  logits: np.ndarray | None  # float32 [n k] or [n t k], what an Inception Score is taken of; None: no classes


class Extractor(NamedTuple):
  """A feature network with its weights.

  `apply` takes uint8 `[n t h w 3]`, RGB, every n >= 1, and raises ValueError for another dtype or shape, for fewer than
  `min_frames` or more than `max_frames` frames, and for frames too small to mean anything (8 pixels).
  """

  name: str
  weights: str  # hash of the file and what it was recognised as, or 'random:SEED' of a stand-in without meaning
  min_frames: int
  max_frames: int | None  # None: any number
  apply: Callable[[np.ndarray], Features]
