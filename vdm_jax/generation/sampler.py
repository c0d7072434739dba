"""A model and a configuration's `sampling` section make a sampler: videos from conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax import sampling
from vdm_jax.diffusion import from_left, unit_noise
from vdm_jax.models import Model, unknown
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Params, Step, Weight

Sampler = Callable[[Params, Array, Conditioning], Array]


def make_sampler(model: Model, config: Mapping[str, Any]) -> Sampler:
  """Builds `(params, keys [b], cond) -> x [b t h w c]`, float32 in [-1, 1]: pure, to be jitted by its caller.

  With the threshold 'none' values may leave that range. A key per video makes each video independent of its batch.
  Raises ValueError for settings that do not go together.
  """
  logsnrs = model.grid(
    config['grid'], config['num_steps'],
    sigma_min=config['sigma_min'], sigma_max=config['sigma_max'], rho=config['rho'],
  )  # fmt: skip
  step = make_step(model, config)
  weight = guidance_weight(logsnrs, config)
  threshold = _threshold(config)

  def sampler(params: Params, keys: Array, cond: Conditioning) -> Array:
    noise_keys, step_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in (0, 1))
    shape = (keys.shape[0], *model.video_shape)
    z = from_left(model.process.sigma(logsnrs[0]), jnp.zeros(shape)) * unit_noise(noise_keys, shape)
    denoiser = threshold(repeat_edges(guide(model.denoiser(params), cond, weight), model.config['pad_rows']))
    return sampling.sample(denoiser, step, logsnrs, z, step_keys, cond)

  return sampler


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


def make_step(model: Model, config: Mapping[str, Any]) -> Step:
  """The step that `sampling.step` names, with Langevin correction where `langevin_delta` is positive."""
  steps = {
    'ancestral': lambda: sampling.ancestral(model.process, config['gamma']),
    'ddim': lambda: sampling.ddim(model.process),
    'heun': lambda: sampling.heun(model.process, config['churn'], config['churn_noise'], _churn_range(model, config)),
  }
  if config['step'] not in steps:
    raise ValueError(unknown('sampling.step', config['step'], steps))
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
  step = steps[config['step']]()
  delta = config['langevin_delta']
  return sampling.langevin_corrected(step, model.process, delta) if delta else step


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
  if config['threshold'] not in thresholds:
    raise ValueError(unknown('sampling.threshold', config['threshold'], thresholds))
  return thresholds[config['threshold']]
