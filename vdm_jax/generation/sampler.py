"""A model and a configuration's `sampling` section make a sampler: videos from conditions and observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vdm_jax import sampling
from vdm_jax.diffusion import expand_dims_like
from vdm_jax.generation import conditional
from vdm_jax.generation.conditional import Observed
from vdm_jax.models import Model
from vdm_jax.names import choose
from vdm_jax.rng import VideoStream, fold_in, unit_noise
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Params, Step, Weight

Sampler = Callable[[Params, Array, Conditioning], Array]
State = tuple[Array, Carry]  # of the reverse process: z and what the network carries on


class Stages(NamedTuple):
  """A sampler in parts, for callers that report progress between them. Each is pure, to be jitted by its caller.

  `inputs` are (params, keys [b], cond, observed); `observed` is None or what the video is to keep to.
  """

  num_steps: int
  begin: Callable[..., State]  # (*inputs) -> state
  advance: Callable[..., State]  # (*inputs, state, start, stop) -> state, for 0 <= start <= stop <= num_steps
  finish: Callable[..., Array]  # (*inputs, state) -> x


def video_keys(seed: int, numbers: np.ndarray, rows: NamedSharding | None = None) -> Array:
  """The key `[b]` of each video by its number: it depends on nothing else, whatever is sampled with it.

  `rows` says where they lie; the noise follows its keys, and the rest the noise.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
  return keys if rows is None else jax.device_put(keys, rows)


def make_sampler(model: Model, config: Mapping[str, Any]) -> Sampler:
  """Builds `(params, keys [b], cond) -> x [b t h w c]`, float32 in [-1, 1]: pure, to be jitted by its caller.

  With the threshold 'none' values may leave that range. A key per video makes each video independent of its batch.
  Raises ValueError for settings that do not go together.
  """
  stages = make_stages(model, config)

  def sampler(params: Params, keys: Array, cond: Conditioning) -> Array:
    inputs = (params, keys, cond, None)
    return stages.finish(*inputs, stages.advance(*inputs, stages.begin(*inputs), 0, stages.num_steps))

  return sampler


def make_stages(model: Model, config: Mapping[str, Any]) -> Stages:
  """The parts of `make_sampler`'s sampler, which here also keeps to an observation. Raises as `make_sampler` does."""
  logsnrs = model.grid(
    config['grid'],
    config['num_steps'],
    sigma_min=config['sigma_min'],
    sigma_max=config['sigma_max'],
    rho=config['rho'],
  )
  step, process, pad_rows = make_step(model, config), model.process, model.config['pad_rows']
  weight = guidance_weight(logsnrs, config)
  threshold = _threshold(config)

  def in_range(denoiser: Denoiser) -> Denoiser:
    return threshold(repeat_edges(denoiser, pad_rows))

  def make_denoiser(params: Params, cond: Conditioning, observed: Observed | None) -> Denoiser:
    denoiser = guide(model.denoiser(params), cond, weight)
    if observed is None:
      return in_range(denoiser)
    return conditional.guide(denoiser, process, observed, config, in_range, pad_rows=pad_rows)

  def begin(params: Params, keys: Array, cond: Conditioning, observed: Observed | None) -> State:
    shape = (keys.shape[0], *model.video_shape)
    logsnr = jnp.broadcast_to(logsnrs[0], keys.shape)
    z = expand_dims_like(process.sigma(logsnr), jnp.zeros(shape)) * unit_noise(
      fold_in(keys, VideoStream.INITIAL_NOISE), shape
    )
    if observed is not None:
      z = conditional.start(process, observed, z, logsnr)
    return sampling.begin(make_denoiser(params, cond, observed), logsnrs, z, cond)

  def advance(
    params: Params, keys: Array, cond: Conditioning, observed: Observed | None, state: State, start: int, stop: int
  ) -> State:
    def hold(step: Step) -> Step:
      return conditional.hold(step, process, observed, config)

    denoiser = make_denoiser(params, cond, observed)
    taken = step if observed is None else make_step(model, config, hold)
    return sampling.advance(denoiser, taken, logsnrs, state, fold_in(keys, VideoStream.STEPS), cond, start, stop)

  def finish(params: Params, keys: Array, cond: Conditioning, observed: Observed | None, state: State) -> Array:
    x = sampling.finish(make_denoiser(params, cond, observed), logsnrs, state, cond)
    return x if observed is None else jnp.where(observed.mask, observed.frames, x)

  return Stages(logsnrs.shape[0] - 1, begin, advance, finish)


def guide(denoiser: Denoiser, cond: Conditioning, weight: Weight) -> Denoiser:
  """Classifier-free guidance, where there is a condition to guide towards."""
  if cond.text is None and cond.label is None:
    return denoiser
  return sampling.classifier_free(denoiser, null_condition, weight)


def repeat_edges(denoiser: Denoiser, pad_rows: int) -> Denoiser:
  """Puts into x_hat's padded rows what they held in training, the edge repeated: the network never learned them."""
  if not pad_rows:
    return denoiser

  def padded(z: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    rows = jnp.clip(jnp.arange(x_hat.shape[2]), pad_rows, x_hat.shape[2] - pad_rows - 1)
    return x_hat[:, :, rows], carry

  return padded


def null_condition(cond: Conditioning) -> Conditioning:
  """The same condition with text and label dropped."""
  segmented = cond.text if cond.text is not None else cond.label
  return cond._replace(drop=jnp.ones(segmented.shape[:2], bool))


def make_step(model: Model, config: Mapping[str, Any], hold: Callable[[Step], Step] = lambda step: step) -> Step:
  """The step that `sampling.step` names, with Langevin correction where `langevin_delta` is positive.

  `hold` is done to the step, and again to the corrected one.
  """
  steps = {
    'ancestral': lambda: sampling.ancestral(model.process, config['gamma']),
    'ddim': lambda: sampling.ddim(model.process),
    'heun': lambda: sampling.heun(model.process, config['churn'], config['churn_noise'], _churn_range(model, config)),
  }
  make = choose('sampling.step', config['step'], steps)
  for name, owner in (('gamma', 'ancestral'), ('churn', 'heun')):
    if config[name] and config['step'] != owner:
      raise ValueError(
        f'sampling.{name}={config[name]} has no effect on step={config["step"]!r}: '
        f'set it to 0, or sampling.step={owner!r}.'
      )
  if not config['churn'] and (config['churn_noise'], config['churn_min'], config['churn_max']) != (1.0, 0.0, 0.0):
    raise ValueError(
      f'sampling.churn_noise={config["churn_noise"]}, churn_min={config["churn_min"]}, '
      f'churn_max={config["churn_max"]} have no effect without churn: set sampling.churn, or leave them out.'
    )
  step, delta = hold(make()), config['langevin_delta']
  return hold(sampling.langevin_corrected(step, model.process, delta)) if delta else step


def guidance_weight(logsnrs: Array, config: Mapping[str, Any]) -> Weight:
  """The constant weight, or the oscillating one where `guidance_start` is positive."""
  if not config['guidance_start']:
    if config['guidance_low']:
      raise ValueError(
        f'sampling.guidance_low={config["guidance_low"]} has no effect on a constant guidance weight: '
        'set sampling.guidance_start to the steps before it oscillates, or guidance_low to 0.'
      )
    return config['guidance_weight']
  return sampling.oscillating(logsnrs, config['guidance_weight'], config['guidance_low'], config['guidance_start'])


def _churn_range(model: Model, config: Mapping[str, Any]) -> tuple[float, float]:
  """The configuration's sigmas as noise levels sigma / alpha."""
  low, high = config['churn_min'], config['churn_max'] or math.inf
  if not 0 <= low < high:
    raise ValueError(f'sampling.churn_min={low}, churn_max={high}: choose 0 <= churn_min < churn_max.')
  return model.noise_level(low), model.noise_level(high)


def _threshold(config: Mapping[str, Any]) -> Callable[[Denoiser], Denoiser]:
  thresholds = {
    'none': lambda denoiser: denoiser,
    'clip': sampling.clip,
    'dynamic': lambda denoiser: sampling.dynamic_threshold(denoiser, config['percentile']),
  }
  return choose('sampling.threshold', config['threshold'], thresholds)
