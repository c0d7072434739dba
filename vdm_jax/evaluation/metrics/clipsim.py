"""CLIPSIM: the similarity of frames to the text they were generated from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vdm_jax.evaluation.metrics.contract import MetricInputs, MetricKind
from vdm_jax.types import Array


def similarity(frames: Array, text: Array) -> np.ndarray:
  """Return the mean cosine between each clip's frames and its text, float64 [n] (Wu et al. 2021, GODIVA, section 4).

  Args:
    frames: `[n t d]`, embeddings by CLIP's image encoder, normalized or not.
    text: `[n d]`, embeddings by the text encoder of the same CLIP.

  Raises:
    ValueError: the arrays have other shapes, or an embedding is zero or not finite.

  >>> import numpy as np
  >>> frames = np.array([[[1.0, 0.0], [0.0, 1.0]]])  # one clip of two frames
  >>> similarity(frames, text=np.array([[2.0, 0.0]]))
  array([0.5])
  """
  frames, text = np.asarray(frames, np.float64), np.asarray(text, np.float64)
  if frames.ndim != 3 or text.shape != (len(frames), frames.shape[-1]):
    raise ValueError(f'clipsim: frames {frames.shape} and text {text.shape} do not match; pass [n t d] and [n d].')
  cosines = np.einsum('ntd,nd->nt', _unit(frames, 'frames'), _unit(text, 'text'))
  return cosines.mean(1)


def compute(inputs: MetricInputs) -> dict[str, dict[str, Any]]:
  """Return the mean similarity of all samples, and its standard error."""
  pairs = zip(inputs.samples(), inputs.text(), strict=True)
  cosines = np.concatenate([similarity(frames, text) for frames, text in pairs])
  spread = float(cosines.std(ddof=1) / math.sqrt(len(cosines))) if len(cosines) > 1 else None
  return {'mean': {'value': float(cosines.mean()), 'spread': spread}}


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  if not (np.isfinite(length).all() and (length > 0).all()):
    raise ValueError(f'clipsim: {name} contain embeddings that are zero or not finite; check what they were made from.')
  return vectors / length


SIMILARITY = MetricKind(compute, lower_is_better=False, needs_text=True)
