"""The types that all packages share: arrays, conditions, and the functions a model is made of.

A video is `[b t h w c]`, float32 in [-1, 1]: batch, frames, height, width, channels. The only time variable is
`logsnr = log(alpha^2 / sigma^2)`, of shape `[b]`, or `[b t]` where the frames of a video have levels of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Any  # a pytree of arrays
Carry = Any  # recurrent state of a network (FIT's latents), a pytree; None means zeros
Memory = Any  # state of a sampling step, a pytree of arrays with leading axis b; None where a step keeps nothing


class Conditioning(NamedTuple):
  """Conditions of a video. Every field may be None; the leading axis is the batch.

  `n` is 1 for the video plus 1 for each appended independent image of joint training (VDM section 4.3.1); the last
  `n - 1` frames of `x` are those images.
  """

  text: Array | None = None  # float [b n l c] embeddings, or int32 [b n l] token ids
  text_mask: Array | None = None  # bool [b n l], False on padding
  label: Array | None = None  # int32 [b n]
  drop: Array | None = None  # bool [b n], True where the null condition replaces text and label
  frame_interval: Array | None = None  # float [b], seconds between frames; 0 for an image
  resolution: Array | None = None  # float [b 2], original height and width in pixels
  low_resolution: Array | None = None  # float [b t h w c], already upsampled and noised
  augmentation_logsnr: Array | None = None  # float [b], noise level of `low_resolution`

  def num_images(self) -> int:
    """Return the number of appended images, n - 1; 0 if no field has the axis n."""
    segmented = [leaf for leaf in (self.text, self.label, self.drop) if leaf is not None]
    return segmented[0].shape[1] - 1 if segmented else 0


class Batch(NamedTuple):
  """One training batch: videos followed by their appended images on the frame axis, and their conditions."""

  x: Array  # float32 [b t+n-1 h w c] in [-1, 1]
  cond: Conditioning
  mask: Array | None = None  # float32 like x, 0 where a value is missing and not in the loss; None: all are there


class Network(Protocol):
  """A neural network with its parameters bound: `(x, logsnr[b], cond, carry) -> (output like x, carry)`."""

  def __call__(self, x: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]: ...


class Denoiser(Protocol):
  """An estimate of the clean video: `(z, logsnr[b], cond, carry) -> (x_hat, carry)`, all float32."""

  def __call__(self, z: Array, logsnr: Array, cond: Any, carry: Carry) -> tuple[Array, Carry]: ...


class StepUpdate(Protocol):
  """The function `update` of a `Step`."""

  def __call__(
    self,
    denoiser: Denoiser,
    z_t: Array,
    logsnr_t: Array,
    logsnr_s: Array,
    rng: Array,
    cond: Any,
    carry: Carry,
    memory: Memory,
  ) -> tuple[Array, Carry, Memory]: ...


class Step(NamedTuple):
  """A step of the reverse process, as a pair of pure functions.

  Attributes:
    init: `z -> memory`, the memory before the first step. Every array in it has the batch as its leading axis.
    update: `(denoiser, z_t, logsnr_t, logsnr_s, rng, cond, carry, memory) -> (z_s, carry, memory)` takes `z_t` at the
      levels `logsnr_t` to `z_s` at the higher (cleaner) levels `logsnr_s`, both `[b]`. `rng` is one key, or a key per
      example `[b]`. Memory keeps its structure, shapes and dtypes.

  Most steps keep nothing in memory; `vdm_jax.sampling.memoryless` makes them from a single function.

  >>> import jax, jax.numpy as jnp
  >>> from vdm_jax import diffusion, sampling
  >>> step = sampling.ddim(diffusion.variance_preserving())
  >>> always_zero = lambda z, logsnr, cond, carry: (jnp.zeros_like(z), carry)
  >>> z, logsnr = jnp.ones((2, 3)), jnp.zeros(2)
  >>> z_s, carry, memory = step.update(always_zero, z, logsnr, logsnr + 1, jax.random.key(0), None, None, step.init(z))
  >>> z_s.shape, memory
  ((2, 3), None)
  """

  init: Callable[[Array], Memory]
  update: StepUpdate


# A guidance weight: a number, or a function of logsnr[b] that returns [b].
Weight = float | Callable[[Array], Array]
