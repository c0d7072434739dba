"""FIT against the U-Net at equal training cost: Snap Table 2."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import vdm_jax
from vdm_jax import configuration, data, partitioning
from vdm_jax.benchmarks import timing
from vdm_jax.benchmarks.paper_claims import input_scaling, quality
from vdm_jax.benchmarks.paper_claims.claim import Arm, Claim, Comparison, Row, Rows, Run, config_of
from vdm_jax.tools.compilation.ideal import evaluation
from vdm_jax.training import jit_train_step, optimizer, state

REPEATS = 7  # timings of each function
FIT_STEPS = 1_100  # about the U-Net's CPU seconds: twice as many videos per step, at less than half the cost each
SPEED = {
  'training_ms': 'CPU ms per training video',
  'evaluation_ms': 'CPU ms per evaluation',
  'training_cpu_seconds': 'CPU seconds of training',
}
SCORES = SPEED | quality.LARGE_SCORES


def fit() -> ConfigDict:
  """Return the network and optimizer of digits_fit.py with the U-Net's process, data and noise levels."""
  unet = input_scaling.run(input_scaling.RULE).config()
  config = input_scaling.large_digits(config_of('digits_fit'))
  shared = ('process', 'sigma_in', 'parameterization', 'logsnr', 'lognormal_mean', 'lognormal_std')
  config.model.update({key: unet.model[key] for key in shared})
  # 128 tokens, as in digits_fit.py.
  config.model.update(patch_size=(2, 16, 16), group_size=(8, 2, 2), patch_width=128, patch_head_width=32, num_blocks=2)
  config.training.update(num_steps=FIT_STEPS, ema_half_life=100.0)
  return config


def measure(workdir: str, seed: int, settings: Mapping[str, Any]) -> Row:
  """Return quality, and CPU milliseconds per video of a training step and of an evaluation, over all cores."""
  run = vdm_jax.Run(workdir)
  config = configuration.from_dict(run.config)
  speed = timed(config, run)
  spent = run.step * config.data.batch_size * speed['training_ms'] / 1e3
  return quality.measure(workdir, seed, settings) | speed | {'training_cpu_seconds': spent}


def timed(config: ConfigDict, run: vdm_jax.Run) -> dict[str, float]:
  """Return the CPU milliseconds per video of the run's training step and of one evaluation of the network."""
  model, params = run.load()
  mesh = partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  train_step = jit_train_step(model, rule, config.training, mesh, state.abstract(model, rule, mesh))
  evaluate = jax.jit(lambda params, batch: evaluation(model, params, batch))
  with jax.set_mesh(mesh):
    batch = partitioning.put_batch(data.held_out(config.data, model.encode, seed=0, num_batches=1)[0], mesh)
    current, key = state.create(model, rule, mesh, seed=0), jax.random.key(0)

    def step() -> jax.Array:
      nonlocal current
      current, measured = train_step(current, batch, key)
      return measured['loss']

    calls = {'training_ms': step, 'evaluation_ms': lambda: evaluate(params, batch)}
    seconds = timing.medians(calls, REPEATS, clock=time.process_time)
    return {name: 1e3 * spent / config.data.batch_size for name, spent in seconds.items()} | {
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(params))
    }


def draw(path: Path, rows: Rows) -> None:
  """Plot quality against the cost of an evaluation, means over seeds."""
  cost = {name: statistics.fmean(row['evaluation_ms'] for row in seeds) for name, seeds in rows.items()}
  points = {name: (name, cost[name]) for name in rows}
  scores = {key: title for key, title in SCORES.items() if key not in SPEED}
  quality.drawing(points, scores, x=SPEED['evaluation_ms'], log=True)(path, rows)


FIT, UNET = 'FIT', 'U-Net'
CLAIM = Claim(
  name='architecture',
  source='Snap Table 2',
  statement='FIT trains and samples faster than the U-Net, and is better',
  setting='16x64x64 digits, FIT and U-Net with the same process and about equal CPU seconds of training; each seed is '
  'a separate training',
  cost='20 minutes in addition to input_scaling, which trains the U-Net',
  arms={FIT: Arm(Run('fit_64', fit)), UNET: Arm(input_scaling.run(input_scaling.RULE))},
  baseline=UNET,
  scores=SCORES,
  comparisons=(
    Comparison(FIT, UNET, 'training_ms', 'lower'),
    Comparison(FIT, UNET, 'evaluation_ms', 'lower'),
    Comparison(FIT, UNET, 'frechet', 'lower'),
    Comparison(FIT, UNET, 'digit', 'higher'),
  ),
  measure=measure,
  draw=draw,
)
