"""Bilinear resizing as in the code that introduced each metric: three conventions for the position of a pixel.

None of them antialiases. They differ by fractions of a pixel, which changes a Fréchet distance by more than many
published improvements.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array

Rule = Literal['first corners', 'centers', 'corners']


def weights(size: int, new: int, rule: Rule) -> np.ndarray:
  """Return the interpolation matrix of an axis, float32 [new size].

  Args:
    size: number of pixels.
    new: number of pixels after resizing.
    rule: position of new pixel i. 'first corners': i size/new, as in TensorFlow 1's resize_bilinear. 'centers':
      (i + 1/2) size/new - 1/2, as in PyTorch's interpolate without align_corners. 'corners': i (size - 1)/(new - 1),
      as in Chainer's resize_images. Positions beyond the last pixel take its value.
  """
  i = np.arange(new, dtype=np.float64)
  if rule == 'first corners':
    at = i * (size / new)
  elif rule == 'centers':
    at = np.maximum((i + 0.5) * (size / new) - 0.5, 0)
  else:
    at = i * ((size - 1) / max(new - 1, 1))
  low = np.minimum(at.astype(int), size - 1)
  share = at - low
  matrix = np.zeros((new, size))
  np.add.at(matrix, (np.arange(new), low), 1 - share)
  np.add.at(matrix, (np.arange(new), np.minimum(low + 1, size - 1)), share)
  return matrix.astype(np.float32)


def bilinear(frames: Array, new: int, rule: Rule) -> Array:
  """Resize frames [... h w c], uint8 or float, to float32 [... new new c], whatever their aspect ratio."""
  h, w = frames.shape[-3:-1]
  frames = jnp.asarray(frames, jnp.float32)
  rows, columns = weights(h, new, rule), weights(w, new, rule)
  frames = jnp.einsum('ih,...hwc->...iwc', rows, frames, precision='highest')
  return jnp.einsum('jw,...iwc->...ijc', columns, frames, precision='highest')
