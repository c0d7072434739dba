"""One training step and one forward pass of a mid-sized U-Net: seconds, parameters, model FLOPs and FLOP/s.

`python -m vdm_jax.benchmarks.unet_step` prints JSON. With `--against="COMMAND"` it alternates with that command, once
per round, and prints the ratios of the medians. The command is anything that prints JSON with the keys
`train_step_seconds` and `forward_seconds`: a driver of another library, or this benchmark in another checkout.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vdm_jax import configuration, models
from vdm_jax.benchmarks import timing
from vdm_jax.diffusion import denoising_loss
from vdm_jax.models import Model
from vdm_jax.tools.compilation import model_flops
from vdm_jax.types import Array, Conditioning, Params

TIMES = ('train_step_seconds', 'forward_seconds')


def build(num_frames: int = 8, size: int = 32, base_channels: int = 32, num_blocks: int = 2) -> Model:
  """Return VDM's U-Net at a size for CPUs: four levels of `num_blocks` blocks, attention at all but the first."""
  config = configuration.default()
  config.data.update({'num_frames': num_frames, 'height': size, 'width': size})
  config.model.update(
    {
      'base_channels': base_channels,
      'channel_multipliers': (1, 2, 4, 8),
      'num_blocks': num_blocks,
      'attention_resolutions': (size // 8, size // 4, size // 2),
      'head_width': 32,
      'embedding_width': 4 * base_channels,
      'embedding_layers': 2,
      'norm_groups': 8,
    }
  )
  return models.build(config.model)


def forward(model: Model, params: Params, x: Array) -> Array:
  """Return the output of one unconditional evaluation of the network at log-SNR 0."""
  return model.network(params)(x, jnp.zeros(x.shape[:1]), Conditioning(), None)[0]


def make_train_step(model: Model) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Return Adam's `init`, and a training step `(params, moments, x, rng) -> (params, moments, loss)`."""
  adam = optax.adam(1e-4)

  def loss(params: Params, x: Array, rng: Array) -> Array:
    return denoising_loss(
      model.network(params),
      x,
      Conditioning(),
      rng,
      process=model.process,
      parameterization=model.parameterization,
      sample_logsnr=model.sample_logsnr,
    )[0]

  def train_step(params: Params, moments: Any, x: Array, rng: Array) -> tuple[Params, Any, Array]:
    value, gradients = jax.value_and_grad(loss)(params, x, rng)
    updates, moments = adam.update(gradients, moments)
    return optax.apply_updates(params, updates), moments, value

  return adam.init, train_step


def measure(model: Model, batch: int, repeats: int) -> Callable[[], dict[str, float]]:
  """Return a function that times training step and forward pass and returns their medians, with the keys `TIMES`."""
  init, train_step = make_train_step(model)
  params = jax.jit(model.init)(jax.random.key(0))
  x = jax.random.uniform(jax.random.key(1), (batch, *model.video_shape), minval=-1.0, maxval=1.0)
  state = jax.tree.map(jnp.copy, params), init(params)
  compiled = jax.jit(train_step, donate_argnums=(0, 1))
  network = jax.jit(lambda params, x: forward(model, params, x))

  def step() -> Array:
    nonlocal state
    *state, loss = compiled(*state, x, jax.random.key(2))
    return loss

  def once() -> dict[str, float]:
    return timing.medians(dict(zip(TIMES, (step, lambda: network(params, x)), strict=True)), repeats)

  return once


def describe(model: Model, batch: int) -> dict[str, float]:
  """Return the number of parameters, and the model FLOPs of one training step and one forward pass."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((batch, *model.video_shape), jnp.float32)
  init, train_step = make_train_step(model)
  return {
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
    'train_step_flops': model_flops(train_step, params, jax.eval_shape(init, params), x, jax.random.key(0)),
    'forward_flops': model_flops(lambda params, x: forward(model, params, x), params, x),
  }


def run_command(command: str) -> dict[str, Any]:
  """Run a command and return the JSON object that it prints.

  Raises:
    ValueError: the command fails, or its output lacks one of `TIMES`.
  """
  done = subprocess.run(shlex.split(command), capture_output=True, text=True)
  if done.returncode:
    raise ValueError(f'{command} failed with exit status {done.returncode}: {done.stderr[-2000:]}')
  result = json.loads(done.stdout)
  if missing := [name for name in TIMES if name not in result]:
    raise ValueError(f'{command} must print JSON with the keys {", ".join(TIMES)}: {missing[0]} is missing.')
  return result


def compare(ours: Callable[[], dict[str, Any]], theirs: Callable[[], dict[str, Any]], rounds: int) -> dict[str, Any]:
  """Measure both in turns; return the medians of each side and how many times faster ours is."""
  results = [(ours(), theirs()) for _ in range(rounds)]
  mine, other = (
    side[-1] | {name: statistics.median(result[name] for result in side) for name in TIMES}
    for side in zip(*results, strict=True)
  )
  return {
    'ours': with_rates(mine),
    'against': with_rates(other),
    'times_faster': {name.removesuffix('_seconds'): other[name] / mine[name] for name in TIMES},
    'rounds': {name: [[mine[name], other[name]] for mine, other in results] for name in TIMES},
  }


def with_rates(result: dict[str, Any]) -> dict[str, Any]:
  """Add FLOP/s to a result wherever it has both seconds and FLOPs."""
  rates = {}
  for name in TIMES:
    if (flops := result.get(name.replace('seconds', 'flops'))) is not None:
      rates[name.replace('seconds', 'flops_per_second')] = flops / result[name]
  return result | rates


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=4, help='videos per batch')
  parser.add_argument('--num_blocks', type=int, default=2, help='residual blocks per level; VDM has 2')
  parser.add_argument('--repeats', type=int, default=5, help='timings per round')
  parser.add_argument('--rounds', type=int, default=3, help='rounds of --against')
  parser.add_argument('--against', default='', help='command to compare with')
  args = parser.parse_args()

  model = build(num_blocks=args.num_blocks)
  facts = describe(model, args.batch)
  once = measure(model, args.batch, args.repeats)

  def ours() -> dict[str, Any]:
    return facts | once()

  figures = compare(ours, lambda: run_command(args.against), args.rounds) if args.against else with_rates(ours())
  settings = {'machine': timing.machine(), 'batch': args.batch, 'num_blocks': args.num_blocks}
  print(json.dumps(settings | figures, indent=2))


if __name__ == '__main__':
  main()
