"""Conditional generation without a conditional model: frames, or a smaller video, held during sampling (VDM 3.1).

A pure function over denoisers and steps. The methods:

  reconstruction  the prediction is moved along the gradient of its misfit to what was observed (VDM Eqs. 7 and 8)
  replacement     given frames take their place in x_hat, and the rest follows the model alone
  redraw          given frames of z are drawn afresh from q(z_s | x) after every step: the paper's first variant

With `reconstruction` given frames are held as well: by replacement in x_hat, or by redrawing where the step adds noise
of its own (gamma > 0), under which only redrawing is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vdm_jax import sampling
from vdm_jax.diffusion import GaussianProcess, diffuse, downsample
from vdm_jax.names import choose
from vdm_jax.types import Array, Denoiser, Step

METHODS = ('reconstruction', 'replacement', 'redraw')


class Observed(NamedTuple):
  """What is known of a window of t frames."""

  frames: Array  # float32 [b t h w c] in [-1, 1]; any value where not seen
  seen: Array  # bool [t]
  low: Array | None = None  # float32 [b t h/f w/f c]: the frames downsampled by f; any value where not seen
  low_seen: Array | None = None  # bool [t]

  @property
  def mask(self) -> Array:
    """`seen` against frames: `[1 t 1 1 1]`."""
    return _against_frames(self.seen)


def check(config: Mapping[str, Any], *, low_resolution: bool = False) -> None:
  """Raises ValueError unless `sampling.conditioning` goes with the other settings, and with `low_resolution` if so."""
  method = choose('sampling.conditioning', config['conditioning'], METHODS)
  weight, gamma = config['reconstruction_weight'], config['gamma']
  if method == 'reconstruction' and not weight > 0:
    raise ValueError(
      f"sampling.reconstruction_weight={weight} leaves conditioning='reconstruction' without guidance: give a positive "
      "weight (VDM uses 9 and 50), or conditioning='replacement'."
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


def start(process: GaussianProcess, observed: Observed, z: Array, logsnr: Array) -> Array:
  """Noise `z` at the first level `logsnr`, a draw of q(z | x) in the given frames."""
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
  """The denoiser under `sampling.conditioning`: the misfit is of x_hat before `in_range`, given frames go in after it.

  `pad_rows` rows at the top and the bottom of a frame mean nothing and are not compared.
  """
  if config['conditioning'] == 'reconstruction':
    measure, wanted = _measurement(observed, pad_rows)
    denoiser = sampling.reconstruction(denoiser, process, measure, wanted, config['reconstruction_weight'])
  denoiser = in_range(denoiser)
  if config['conditioning'] == 'redraw':
    return denoiser
  return sampling.replacement(denoiser, observed.frames, observed.mask)


def hold(step: Step, process: GaussianProcess, observed: Observed, config: Mapping[str, Any]) -> Step:
  """The step with the given frames of z drawn afresh, where replacing them in x_hat is not wanted or not exact."""
  if config['conditioning'] == 'redraw' or config['gamma'] > 0:
    return sampling.redraw(step, process, observed.frames, observed.mask)
  return step


def _measurement(observed: Observed, pad_rows: int) -> tuple[Callable[[Array], Array], Array]:
  """What is measured of x, `[b n]`, and its observed value: the given frames, then those of low resolution."""

  def flat(x: Array, seen: Array) -> Array:
    return jnp.where(_against_frames(seen), x, 0.0).reshape(x.shape[0], -1)

  def rows(x: Array) -> Array:
    return x[:, :, pad_rows : x.shape[2] - pad_rows]

  if observed.low is None:
    return lambda x: flat(rows(x), observed.seen), flat(rows(observed.frames), observed.seen)
  factor = rows(observed.frames).shape[2] // observed.low.shape[2]

  def measure(x: Array) -> Array:
    x = rows(x)
    return jnp.concatenate([flat(x, observed.seen), flat(downsample(x, factor), observed.low_seen)], axis=1)

  wanted = [flat(rows(observed.frames), observed.seen), flat(observed.low, observed.low_seen)]
  return measure, jnp.concatenate(wanted, axis=1)


def _against_frames(which: Array) -> Array:
  return which[None, :, None, None, None]
