"""Bilinear resizing as the code did that metrics were first computed with: three conventions of where a pixel lies.

None of them smooths before shrinking. They differ by fractions of a pixel, which moves a Frechet distance by more than
many published improvements.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from vdm_jax.types import Array

Rule = Literal['first corners', 'centres', 'corners']


def weights(size: int, new: int, rule: Rule) -> np.ndarray:
  """Returns float32 [new size]: how much each pixel of an axis of `size` counts in each of `new` pixels.

  'first corners': pixel i is at i size/new, as in TensorFlow 1's resize_bilinear. 'centres': at (i + 1/2) size/new -
  1/2, as PyTorch's interpolate without align_corners. 'corners': at i (size - 1)/(new - 1), as Chainer's
  resize_images. Beyond the last pixel its value is repeated.
  """
  i = np.arange(new, dtype=np.float64)
  if rule == 'first corners':
    at = i * (size / new)
  elif rule == 'centres':
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
  """Resizes frames [... h w c], uint8 or float, to float32 [... new new c], whatever their aspect."""
  h, w = frames.shape[-3:-1]
  frames = jnp.asarray(frames, jnp.float32)
  rows, columns = weights(h, new, rule), weights(w, new, rule)
  frames = jnp.einsum('ih,...hwc->...iwc', rows, frames, precision='highest')
  return jnp.einsum('jw,...iwc->...ijc', columns, frames, precision='highest')
