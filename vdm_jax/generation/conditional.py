"""Conditional generation: observed frames or a smaller video, kept during sampling.

The methods, values of `sampling.conditioning`; all but the last are for any model (VDM section 3.1):

  reconstruction  x_hat is moved along the gradient of its distance to the observation (VDM Eqs. 7 and 8)
  replacement     observed frames overwrite those of x_hat
  redraw          observed frames of z are drawn afresh from q(z_s | x) after every step: the paper's first variant
  given_frames    observed frames enter the network without noise; for a model whose frames had levels of their own in
                  training (`model.frame_logsnr` 'given' or 'independent')

`reconstruction` also keeps observed frames exactly: by replacement in x_hat, or by redrawing if the step adds extra
noise (gamma > 0), for which only redrawing is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vdm_jax import sampling
from vdm_jax.diffusion import HOLDS_FRAMES, GaussianProcess, diffuse, downsample
from vdm_jax.names import choose
from vdm_jax.types import Array, Denoiser, Step

METHODS = ('reconstruction', 'replacement', 'redraw', 'given_frames')


class Observed(NamedTuple):
  """The observed part of a window of t frames.

  Attributes:
    frames: float32 `[b t h w c]` in [-1, 1]; not read where not seen.
    seen: bool `[t]`, True for observed frames.
    low: float32 `[b t h/f w/f c]`, the frames downsampled by f; not read where not seen. None: no such observation.
    low_seen: bool `[t]`, True for frames observed at low resolution.

  >>> import numpy as np
  >>> from vdm_jax.generation import Observed
  >>> observed = Observed(np.zeros((1, 8, 16, 16, 1), np.float32), seen=np.arange(8) < 4)
  >>> observed.mask.shape
  (1, 8, 1, 1, 1)
  """

  frames: Array
  seen: Array
  low: Array | None = None
  low_seen: Array | None = None

  @property
  def mask(self) -> Array:
    """`seen`, to broadcast against frames: `[1 t 1 1 1]`."""
    return _against_frames(self.seen)


def check(config: Mapping[str, Any], *, low_resolution: bool = False) -> None:
  """Raise ValueError unless `sampling.conditioning` is valid and goes with the other settings.

  Args:
    config: the section `sampling` of a configuration.
    low_resolution: whether a low-resolution video is to be observed.
  """
  method = choose('sampling.conditioning', config['conditioning'], METHODS)
  weight, low_weight, gamma = (config[key] for key in ('reconstruction_weight', 'low_resolution_weight', 'gamma'))
  if method == 'reconstruction' and not weight > 0:
    raise ValueError(
      f"sampling.reconstruction_weight={weight} leaves conditioning='reconstruction' without guidance: give a positive "
      "weight (VDM uses 9 and 50), or conditioning='replacement'."
    )
  if low_weight < 0 or (low_weight and method != 'reconstruction'):
    raise ValueError(
      f'sampling.low_resolution_weight={low_weight} with conditioning={method!r}: it is the weight of a smaller video '
      "under conditioning='reconstruction'; set it to 0 for that of given frames, or to a positive number."
    )
  if method == 'replacement' and gamma:
    raise ValueError(
      f"sampling.conditioning='replacement' with gamma={gamma} gives the given frames too much noise: set gamma=0, or "
      "conditioning='redraw', which is exact for every gamma."
    )
  if low_resolution and method != 'reconstruction':
    raise ValueError(
      f"sampling.conditioning={method!r} can hold frames, but not a smaller video: use conditioning='reconstruction'."
    )


def check_model(config: Mapping[str, Any], model: Mapping[str, Any]) -> None:
  """Raise ValueError if `sampling.conditioning` needs another training than the model of a `model` section had."""
  pattern = model.get('frame_logsnr', 'shared')
  if config['conditioning'] == 'given_frames' and pattern not in HOLDS_FRAMES:
    raise ValueError(
      f"sampling.conditioning='given_frames' needs a model that was trained with frames at different noise levels, but "
      f"this one has model.frame_logsnr={pattern!r}: use conditioning='reconstruction', or train one with "
      '--config.model.frame_logsnr=given.'
    )


def start(process: GaussianProcess, observed: Observed, z: Array, logsnr: Array) -> Array:
  """Return noise `z` at the first level with the observed frames replaced by draws from q(z | x)."""
  signal = diffuse(process, observed.frames, jnp.zeros_like(z), logsnr)
  return jnp.where(observed.mask, signal + z, z)


def guide(
  denoiser: Denoiser,
  process: GaussianProcess,
  observed: Observed,
  config: Mapping[str, Any],
  in_range: Callable[[Denoiser], Denoiser],
  *,
  pad_rows: int = 0,
) -> Denoiser:
  """Return the denoiser under `sampling.conditioning`.

  Args:
    denoiser: the denoiser with classifier-free guidance.
    process: the diffusion process of z.
    observed: the observation.
    config: the section `sampling` of a configuration.
    in_range: the thresholding of x_hat. Reconstruction compares x_hat before it; replacement happens after it.
    pad_rows: number of padding rows at the top and at the bottom of a frame, which are not compared.
  """
  if config['conditioning'] == 'reconstruction':
    ratio = config['low_resolution_weight'] / config['reconstruction_weight'] or 1.0
    measure, wanted = _measurement(observed, pad_rows, ratio)
    denoiser = sampling.reconstruction(denoiser, process, measure, wanted, config['reconstruction_weight'])
  if config['conditioning'] == 'given_frames':
    denoiser = sampling.given_frames(denoiser, process, observed.frames, observed.seen)
  denoiser = in_range(denoiser)
  if config['conditioning'] == 'redraw':
    return denoiser
  return sampling.replacement(denoiser, observed.frames, observed.mask)


def hold(step: Step, process: GaussianProcess, observed: Observed, config: Mapping[str, Any]) -> Step:
  """Return the step, with observed frames of z drawn afresh if `conditioning` or gamma > 0 requires it."""
  if config['conditioning'] == 'given_frames':  # which never reads them
    return step
  if config['conditioning'] == 'redraw' or config['gamma'] > 0:
    return sampling.redraw(step, process, observed.frames, observed.mask)
  return step


def _measurement(observed: Observed, pad_rows: int, ratio: float = 1.0) -> tuple[Callable[[Array], Array], Array]:
  """Return the measurement of x `[b n]` and its observed value: observed frames, then those of low resolution.

  The latter are multiplied by the root of `ratio`, and so the weight of their squared error by `ratio`.
  """

  def flat(x: Array, seen: Array) -> Array:
    return jnp.where(_against_frames(seen), x, 0.0).reshape(x.shape[0], -1)

  def rows(x: Array) -> Array:
    return x[:, :, pad_rows : x.shape[2] - pad_rows]

  if observed.low is None:
    return lambda x: flat(rows(x), observed.seen), flat(rows(observed.frames), observed.seen)
  factor, scale = rows(observed.frames).shape[2] // observed.low.shape[2], ratio**0.5

  def measure(x: Array) -> Array:
    x = rows(x)
    return jnp.concatenate([flat(x, observed.seen), scale * flat(downsample(x, factor), observed.low_seen)], axis=1)

  wanted = [flat(rows(observed.frames), observed.seen), scale * flat(observed.low, observed.low_seen)]
  return measure, jnp.concatenate(wanted, axis=1)


def _against_frames(which: Array) -> Array:
  """Return `[t]` as `[1 t 1 1 1]`."""
  return which[None, :, None, None, None]
