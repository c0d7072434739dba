"""Speed of one compiled program for the whole sampler, compared with a Python loop of jitted steps.

`python -m vdm_jax.benchmarks.sampler_loop` prints JSON: seconds per evaluation and their ratio, for a small U-Net at
two sizes, with and without reconstruction guidance, which differentiates the network inside the loop.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax import configuration, models, sampling
from vdm_jax.benchmarks import timing
from vdm_jax.models import Model
from vdm_jax.rng import fold_in, unit_noise
from vdm_jax.types import Array, Conditioning, Denoiser, Params

Run = Callable[[Params, Array, Array], Array]


def compare(size: int, guided: bool, *, num_steps: int, repeats: int, batch: int = 2) -> dict[str, Any]:
  """Return seconds per evaluation of both samplers on `[batch 8 size size 3]`, their ratio and largest difference.

  Args:
    size: height and width.
    guided: whether to use reconstruction guidance, which differentiates each evaluation.
    num_steps: points of the grid, and evaluations.
    repeats: timed runs, of which the median is taken.
    batch: number of videos.
  """
  model = small_model(size)
  params = jitter(jax.jit(model.init)(jax.random.key(0)), jax.random.key(1))
  z = unit_noise(jax.random.key(2), (batch, *model.video_shape))
  rng = jax.random.key(3)
  runs = {'scan': in_a_scan(model, guided, num_steps), 'loop': in_a_loop(model, guided, num_steps)}
  difference = jnp.abs(runs['scan'](params, z, rng) - runs['loop'](params, z, rng)).max()
  seconds = timing.medians({name: lambda run=run: run(params, z, rng) for name, run in runs.items()}, repeats)
  return {
    'features': f'{size}x{size}',
    'guided': guided,
    'scan_seconds_per_evaluation': seconds['scan'] / num_steps,
    'loop_seconds_per_evaluation': seconds['loop'] / num_steps,
    'scan_over_loop': seconds['scan'] / seconds['loop'],
    'largest_difference': float(difference),
  }


def small_model(size: int) -> Model:
  """Return a U-Net for eight frames: 32 channels at `size` x `size` pixels, 64 channels and attention at half of it."""
  config = configuration.default()
  config.data.update({'num_frames': 8, 'height': size, 'width': size})
  config.model.update(
    {
      'base_channels': 32,
      'channel_multipliers': (1, 2),
      'num_blocks': 1,
      'attention_resolutions': (size // 2,),
      'head_width': 32,
      'embedding_width': 128,
      'embedding_layers': 2,
      'norm_groups': 8,
    }
  )
  return models.build(config.model)


def jitter(params: Params, rng: Array) -> Params:
  """Return the parameters plus a little noise; freshly initialized layers that are zero would hide the others."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(rng, len(leaves))
  noise = [0.02 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
  return jax.tree.map(jnp.add, params, jax.tree.unflatten(tree, noise))


def in_a_scan(model: Model, guided: bool, num_steps: int) -> Run:
  """Return the sampler as the library runs it: one jitted program."""
  step, logsnrs = sampling.ancestral(model.process), _grid(model, num_steps)
  return jax.jit(
    lambda params, z, rng: sampling.sample(_denoiser(model, params, guided), step, logsnrs, z, rng, Conditioning())
  )


def in_a_loop(model: Model, guided: bool, num_steps: int) -> Run:
  """Return the same sampler with each step one call of a jitted function."""
  step, logsnrs = sampling.ancestral(model.process), _grid(model, num_steps)

  @jax.jit
  def move(params: Params, z: Array, rng: Array, i: Array) -> Array:
    at = jnp.broadcast_to(logsnrs[i], z.shape[:1]), jnp.broadcast_to(logsnrs[i + 1], z.shape[:1])
    return step.update(_denoiser(model, params, guided), z, *at, fold_in(rng, i), Conditioning(), None, step.init(z))[0]

  @jax.jit
  def finish(params: Params, z: Array) -> Array:
    last = jnp.broadcast_to(logsnrs[-1], z.shape[:1])
    return _denoiser(model, params, guided)(z, last, Conditioning(), None)[0]

  def run(params: Params, z: Array, rng: Array) -> Array:
    for i in range(num_steps - 1):
      z = move(params, z, rng, i)
    return finish(params, z)

  return run


def _grid(model: Model, num_steps: int) -> Array:
  return model.grid('cosine', num_steps, sigma_min=0.002, sigma_max=80.0, rho=7.0)


def _denoiser(model: Model, params: Params, guided: bool) -> Denoiser:
  denoiser = model.denoiser(params)
  if guided:
    observed = jnp.zeros((1, 2, *model.video_shape[1:]))
    denoiser = sampling.reconstruction(denoiser, model.process, lambda x: x[:, :2], observed, 1.0)
  return sampling.clip(denoiser)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--num_steps', type=int, default=8)
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  cases = [
    compare(size, guided, num_steps=args.num_steps, repeats=args.repeats)
    for size in (8, 32)
    for guided in (False, True)
  ]
  print(json.dumps({'machine': timing.machine(), 'cases': cases}, indent=2))


if __name__ == '__main__':
  main()
