"""The vocabulary every room shares: array aliases, what a model is conditioned on, and the types of its parts.

A video is `[b t h w c]`, float32 in [-1, 1]: batch, frames, rows, columns, channels. The only time is
`logsnr = log(alpha^2 / sigma^2)`, of shape `[b]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
Carry = Any  # what a network hands to its next evaluation (FIT's latents); None equals zeros


class Conditioning(NamedTuple):
  """What a video is generated from. Every field may be None; the leading axis is the batch.

  `n` is one for the video plus one for each appended independent image of joint training (VDM section 3.2);
  the last `n - 1` frames of `x` are those images.
  """

  text: Array | None = None  # float [b n l c] embeddings, or int32 [b n l] token ids
  text_mask: Array | None = None  # bool [b n l], False on padding
  label: Array | None = None  # int32 [b n]
  drop: Array | None = None  # bool [b n], True where text and label give way to the null condition
  frame_interval: Array | None = None  # float [b], seconds between frames; 0 for an image
  resolution: Array | None = None  # float [b 2], original height and width in pixels
  low_resolution: Array | None = None  # float [b t h w c], already upsampled and noised
  augmentation_logsnr: Array | None = None  # float [b], noise level of `low_resolution`

  def num_images(self) -> int:
    """Appended images, n - 1; 0 when no field has the segment axis."""
    segmented = [leaf for leaf in (self.text, self.label, self.drop) if leaf is not None]
    return segmented[0].shape[1] - 1 if segmented else 0


class Batch(NamedTuple):
  """One training batch: videos followed by their appended images on the frame axis, and their conditions."""

  x: Array  # float32 [b t+n-1 h w c] in [-1, 1]
  cond: Conditioning


class Network(Protocol):
  """A neural network with its parameters bound: `(x, logsnr[b], cond, carry) -> (output like x, carry)`."""

  def __call__(self, x: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]: ...


class Denoiser(Protocol):
  """Estimates the clean video: `(z, logsnr[b], cond, carry) -> (x_hat, carry)`; all float32."""

  def __call__(self, z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]: ...


class Step(Protocol):
  """Takes `z_t` to the cleaner `z_s`: `logsnr_t < logsnr_s`, both `[b]`."""

  def __call__(
    self, denoiser: Denoiser, z_t: Array, logsnr_t: Array, logsnr_s: Array, rng: Array, cond: Any, carry: Carry
  ) -> tuple[Array, Carry]: ...


# A guidance weight: a number, or a function of logsnr[b] returning [b].
Weight = float | Callable[[Array], Array]
