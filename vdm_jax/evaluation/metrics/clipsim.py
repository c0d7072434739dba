"""CLIPSIM: how well frames go with the text they were made from."""

from __future__ import annotations

import numpy as np

from vdm_jax.types import Array


def similarity(frames: Array, text: Array) -> np.ndarray:
  """The mean cosine between a clip's frames and its text, float64 [n] (Wu et al. 2021, GODIVA, section 4).

  `frames` [n t d] and `text` [n d] are embeddings of the two towers of one CLIP, normalised or not. Raises ValueError
  for other shapes, and for embeddings that are zero or not finite.
  """
  frames, text = np.asarray(frames, np.float64), np.asarray(text, np.float64)
  if frames.ndim != 3 or text.shape != (len(frames), frames.shape[-1]):
    raise ValueError(
      f'clipsim: frames {frames.shape} and text {text.shape} do not belong together; pass [n t d] and [n d].'
    )
  cosines = np.einsum('ntd,nd->nt', _unit(frames, 'frames'), _unit(text, 'text'))
  return cosines.mean(1)


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
  length = np.linalg.norm(vectors, axis=-1, keepdims=True)
  if not (np.isfinite(length).all() and (length > 0).all()):
    raise ValueError(f'clipsim: {name} hold embeddings that are zero or not finite; look at what they were made from.')
  return vectors / length
