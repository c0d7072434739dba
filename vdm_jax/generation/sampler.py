"""Samplers built from a model and a configuration's `sampling` section."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from vdm_jax import partitioning, sampling
from vdm_jax.diffusion import expand_dims_like
from vdm_jax.generation import conditional
from vdm_jax.generation.conditional import Observed
from vdm_jax.models import Model
from vdm_jax.names import choose
from vdm_jax.rng import VideoStream, fold_in, unit_noise
from vdm_jax.sampling import State
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Params, Step, Weight

# (params, keys [b], cond) -> x [b t h w c]
Sampler = Callable[[Params, Array, Conditioning], Array]
# (params, keys [b], cond, observed, report) -> x [b t h w c]; `report` is called with the share of work just done.
SampleInParts = Callable[[Params, Array, Conditioning, Observed | None, Callable[[float], None]], np.ndarray]

REPORTS = 8  # progress reports per call
# Videos made at a time on accelerators, which a single small video leaves idle; CPUs are as fast one by one.
ACCELERATOR_BATCH = 8

# Each value of `sampling.step`: (model, config) -> step.
STEPS: dict[str, Callable[[Model, Mapping[str, Any]], Step]] = {
  'ancestral': lambda model, config: sampling.ancestral(model.process, config['gamma']),
  'ddim': lambda model, config: sampling.ddim(model.process),
  'heun': lambda model, config: sampling.heun(
    model.process, config['churn'], config['churn_noise'], _churn_range(model, config)
  ),
  'dpm_solver': lambda model, config: sampling.dpm_solver(model.process),
}
# Settings that one step alone reads, and the values at which they have no effect.
STEP_SETTINGS: dict[str, dict[str, float]] = {
  'ancestral': {'gamma': 0.0},
  'heun': {'churn': 0.0, 'churn_noise': 1.0, 'churn_min': 0.0, 'churn_max': 0.0},
}


class Stages(NamedTuple):
  """A sampler in parts, for callers that report progress between them. Each part is pure, to be jitted by its caller.

  `inputs` are (params, keys [b], cond, observed); `observed` is an `Observed`, or None for unconditional frames.

  Attributes:
    num_steps: number of steps, one less than the points of the grid.
    begin: `(*inputs) -> state`.
    advance: `(*inputs, state, start, stop) -> state`, for 0 <= start <= stop <= num_steps.
    finish: `(*inputs, state) -> x`.
  """

  num_steps: int
  begin: Callable[..., State]
  advance: Callable[..., State]
  finish: Callable[..., Array]


def video_keys(seed: int | Sequence[int], numbers: np.ndarray, rows: NamedSharding | None = None) -> Array:
  """Return the key of each numbered video, `[b]`; it depends on the seed and the number alone.

  Args:
    seed: one seed for all, or one per video.
    numbers: numbers of the videos, `[b]`.
    rows: sharding of the keys. The noise has the sharding of its keys, and all else that of the noise.
  """
  if np.ndim(seed):
    of_seed = {number: jax.random.key(number) for number in set(seed)}
    keys = jax.vmap(jax.random.fold_in)(jnp.stack([of_seed[number] for number in seed]), numbers)
  else:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
  return keys if rows is None else jax.device_put(keys, rows)


def default_batch_size(mesh: Mesh | None = None) -> int:
  """Return the number of videos that are made at a time: 1 on CPUs, 8 per accelerator.

  XLA rounds differently for different batch sizes. A constant one makes the bits of a video independent of the number
  of videos made beside it.
  """
  each = 1 if jax.default_backend() == 'cpu' else ACCELERATOR_BATCH
  return each * (mesh.size if mesh else 1)


def in_parts(stages: Stages, *, mesh: Mesh | None = None, split: bool = False) -> SampleInParts:
  """Return a compiled sampler that reports its progress, `(params, keys [b], cond, observed, report) -> x`.

  Args:
    stages: the sampler, from `make_stages`.
    mesh: devices on which the parameters live, if several.
    split: whether each device makes its part of a batch; see `make_generator`.
  """
  layout = partitioning.replicated(mesh) if mesh else None
  begin, advance = (jax.jit(part, out_shardings=None if split else layout) for part in (stages.begin, stages.advance))
  finish = jax.jit(stages.finish, out_shardings=layout)
  part, evaluations = max(1, math.ceil(stages.num_steps / REPORTS)), stages.num_steps + 1

  def sample(
    params: Params, keys: Array, cond: Conditioning, observed: Observed | None, report: Callable[[float], None]
  ) -> np.ndarray:
    inputs = (params, keys, cond, observed)
    state = begin(*inputs)
    for start in range(0, stages.num_steps, part):
      stop = min(start + part, stages.num_steps)
      state = jax.block_until_ready(advance(*inputs, state, start, stop))
      report((stop - start) / evaluations)
    x = np.asarray(finish(*inputs, state))
    report(1 / evaluations)
    return x

  return sample


def make_sampler(model: Model, config: Mapping[str, Any]) -> Sampler:
  """Return a sampler `(params, keys [b], cond) -> x [b t h w c]`, pure, to be jitted by its caller.

  x is float32 in [-1, 1]; with `threshold='none'` it may leave that range. Each video depends on its own key and
  condition alone.

  Args:
    model: the model.
    config: the section `sampling` of a configuration.

  Raises:
    ValueError: settings are invalid, or do not go together.

  >>> import jax, vdm_jax
  >>> from vdm_jax import configuration
  >>> from vdm_jax.generation import make_sampler
  >>> model, params = vdm_jax.load('pretrained:digits')
  >>> sampler = make_sampler(model, configuration.default().sampling.to_dict() | {'num_steps': 2})
  >>> cond = model.condition(['a 3 moving left', 'a 7 moving up'])
  >>> jax.eval_shape(sampler, params, jax.random.split(jax.random.key(0), 2), cond).shape
  (2, 8, 16, 16, 1)
  """
  stages = make_stages(model, config)

  def sampler(params: Params, keys: Array, cond: Conditioning) -> Array:
    inputs = (params, keys, cond, None)
    return stages.finish(*inputs, stages.advance(*inputs, stages.begin(*inputs), 0, stages.num_steps))

  return sampler


def make_stages(model: Model, config: Mapping[str, Any]) -> Stages:
  """Return the parts of `make_sampler`'s sampler, which also take an observation. Raises as `make_sampler` does."""
  logsnrs = model.grid(
    config['grid'],
    config['num_steps'],
    sigma_min=config['sigma_min'],
    sigma_max=config['sigma_max'],
    rho=config['rho'],
  )
  conditional.check_model(config, model.config)
  plain_step, process, pad_rows = make_step(model, config), model.process, model.config['pad_rows']
  weight = guidance_weight(logsnrs, config)
  threshold = _threshold(config)

  def in_range(denoiser: Denoiser) -> Denoiser:
    return threshold(repeat_edges(denoiser, pad_rows))

  def make_denoiser(params: Params, cond: Conditioning, observed: Observed | None) -> Denoiser:
    denoiser = guide(model.denoiser(params), cond, weight)
    if observed is None:
      return in_range(denoiser)
    return conditional.guide(denoiser, process, observed, config, in_range, pad_rows=pad_rows)

  def step_for(observed: Observed | None) -> Step:
    if observed is None:
      return plain_step
    return make_step(model, config, lambda step: conditional.hold(step, process, observed, config))

  def begin(params: Params, keys: Array, cond: Conditioning, observed: Observed | None) -> State:
    shape = (keys.shape[0], *model.video_shape)
    logsnr = jnp.broadcast_to(logsnrs[0], keys.shape)
    z = expand_dims_like(process.sigma(logsnr), jnp.zeros(shape)) * unit_noise(
      fold_in(keys, VideoStream.INITIAL_NOISE), shape
    )
    if observed is not None:
      z = conditional.start(process, observed, z, logsnr)
    return sampling.begin(make_denoiser(params, cond, observed), step_for(observed), logsnrs, z, cond)

  def advance(
    params: Params, keys: Array, cond: Conditioning, observed: Observed | None, state: State, start: int, stop: int
  ) -> State:
    denoiser, step_keys = make_denoiser(params, cond, observed), fold_in(keys, VideoStream.STEPS)
    return sampling.advance(denoiser, step_for(observed), logsnrs, state, step_keys, cond, start, stop)

  def finish(params: Params, keys: Array, cond: Conditioning, observed: Observed | None, state: State) -> Array:
    x = sampling.finish(make_denoiser(params, cond, observed), logsnrs, state, cond)
    return x if observed is None else jnp.where(observed.mask, observed.frames, x)

  return Stages(logsnrs.shape[0] - 1, begin, advance, finish)


def guide(denoiser: Denoiser, cond: Conditioning, weight: Weight) -> Denoiser:
  """Return the denoiser with classifier-free guidance, or unchanged if there is neither text nor label."""
  if cond.text is None and cond.label is None:
    return denoiser
  return sampling.classifier_free(denoiser, null_condition, weight)


def repeat_edges(denoiser: Denoiser, pad_rows: int) -> Denoiser:
  """Return the denoiser with x_hat's padded rows overwritten by the edge rows, as in training.

  The training loss leaves padded rows out, so the network's own output there is arbitrary.
  """
  if not pad_rows:
    return denoiser

  def padded(z: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
    x_hat, carry = denoiser(z, logsnr, cond, carry)
    rows = jnp.clip(jnp.arange(x_hat.shape[2]), pad_rows, x_hat.shape[2] - pad_rows - 1)
    return x_hat[:, :, rows], carry

  return padded


def null_condition(cond: Conditioning) -> Conditioning:
  """Return the same condition with text and label dropped."""
  segmented = cond.text if cond.text is not None else cond.label
  return cond._replace(drop=jnp.ones(segmented.shape[:2], bool))


def make_step(model: Model, config: Mapping[str, Any], hold: Callable[[Step], Step] = lambda step: step) -> Step:
  """Return the step named by `sampling.step`, with Langevin correction if `langevin_delta` is positive.

  Args:
    model: the model, whose process the step uses.
    config: the section `sampling` of a configuration.
    hold: a transformation such as `redraw`, applied to the step and again to the corrected step.

  Raises:
    ValueError: the step is unknown, or a setting is invalid or has no effect on this step.
  """
  make = choose('sampling.step', config['step'], STEPS)
  for owner, settings in STEP_SETTINGS.items():
    for name, off in settings.items():
      if owner != config['step'] and config[name] != off:
        raise ValueError(
          f'sampling.{name}={config[name]} has no effect on step={config["step"]!r}: '
          f'set it to {off:g}, or sampling.step={owner!r}.'
        )
  if not config['churn'] and (config['churn_noise'], config['churn_min'], config['churn_max']) != (1.0, 0.0, 0.0):
    raise ValueError(
      f'sampling.churn_noise={config["churn_noise"]}, churn_min={config["churn_min"]}, '
      f'churn_max={config["churn_max"]} have no effect without churn: set sampling.churn, or leave them out.'
    )
  step, delta = hold(make(model, config)), config['langevin_delta']
  return hold(sampling.langevin_corrected(step, model.process, delta)) if delta else step


def guidance_weight(logsnrs: Array, config: Mapping[str, Any]) -> Weight:
  """Return the constant guidance weight, or the oscillating one if `guidance_start` is positive.

  `guidance_start` is a share of the levels, so that the schedule keeps its form when their number changes.

  Raises:
    ValueError: `guidance_start` is outside [0, 1], or `guidance_low` has no effect.
  """
  share = config['guidance_start']
  if not 0 <= share <= 1:
    raise ValueError(
      f'sampling.guidance_start={share} must be in [0, 1]: it is the share of the steps before the guidance weight '
      'oscillates, such as 0.25 for 64 of 256.'
    )
  if not share:
    if config['guidance_low']:
      raise ValueError(
        f'sampling.guidance_low={config["guidance_low"]} has no effect on a constant guidance weight: '
        'set sampling.guidance_start to the share of the steps before it oscillates, or guidance_low to 0.'
      )
    return config['guidance_weight']
  start = max(1, round(share * config['num_steps']))
  return sampling.oscillating(logsnrs, config['guidance_weight'], config['guidance_low'], start)


def _churn_range(model: Model, config: Mapping[str, Any]) -> tuple[float, float]:
  """Return the configuration's range of sigmas as noise levels sigma / alpha."""
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
