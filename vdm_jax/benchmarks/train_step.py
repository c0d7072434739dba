"""Snap Video's networks on one device, training and evaluation: milliseconds per video, peak memory, utilization.

    python -m vdm_jax.benchmarks.train_step --out=train_step.json

The batch of each network doubles until memory is exhausted or videos per second stop growing. Every measurement has its
own process, so that peak memory is its own and running out of memory ends no other. The step is that of training:
bfloat16 layers, float32 state, with optimizer and EMA. Clips and captions are random. Model FLOPs exclude
rematerialization; the two passes of self-conditioning count 1 + 3, scaled by the share of examples that need them.

The report ends with a table of the four networks of Snap's Table 2 (milliseconds per video of a training step, and of
one evaluation) beside the printed values, which are of one A100. On other hardware, and with this code, only the ratios
of the networks are comparable.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vdm_jax import partitioning
from vdm_jax.benchmarks import timing
from vdm_jax.inputs.paths import path_argument
from vdm_jax.jobs import experiments
from vdm_jax.models import Model
from vdm_jax.tools.compilation.ideal import evaluation, evaluation_flops, peak_flops, step_evaluations
from vdm_jax.tools.compilation.programs import build_model
from vdm_jax.training import jit_train_step, optimizer, state
from vdm_jax.types import Array, Batch, Conditioning

CONFIGS = ('snap_fit_500m', 'snap_fit_3b9', 'snap_fit_3b9_upsampler', 'snap_unet_85m', 'snap_unet_284m')
# Snap Table 2, ms per video on an A100: training and inference, which by its FLOPs is one evaluation.
PAPER_MS = {
  'snap_unet_85m': (133.2, 49.6),
  'snap_unet_284m': (230.3, 105.1),
  'snap_fit_500m': (69.5, 23.4),
  'snap_fit_3b9': (526.0, 130.4),
}
GROWTH = 1.02  # the doubling stops unless the rate grows by this factor


def random_batch(model: Model, config: ConfigDict, size: int) -> Batch:
  """Return noise in the shape of a batch: `size` clips with captions of full length, at 24 frames per second."""
  rng = np.random.default_rng(0)
  shape, text = model.text_shape(size), None
  if config.data.text != 'none':
    text = rng.standard_normal(shape, np.float32) if len(shape) == 4 else np.zeros(shape, np.int32)
  cond = Conditioning(
    text=text,
    text_mask=None if text is None else np.ones(text.shape[:3], bool),
    frame_interval=np.full(size, 1 / 24, np.float32),
    resolution=np.tile(np.float32([720, 1280]), (size, 1)),
  )
  return Batch(rng.uniform(-1, 1, (size, *model.video_shape)).astype(np.float32), cond)


def measure(config: ConfigDict, size: int, repeats: int) -> dict[str, Any]:
  """Measure a training step and one evaluation of `size` videos: time, utilization, FLOPs and peak memory.

  Args:
    config: the configuration.
    size: videos per batch.
    repeats: how often each is timed.
  """
  model, mesh = build_model(config), partitioning.make_mesh({'data': 1}, jax.devices()[:1])
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  train_step = jit_train_step(model, rule, config.training, mesh, state.abstract(model, rule, mesh))
  batch = partitioning.put_batch(random_batch(model, config, size), mesh)
  evaluate = jax.jit(lambda params, batch: evaluation(model, params, batch))
  with jax.set_mesh(mesh):
    current = state.create(model, rule, mesh, seed=0)
    key = jax.random.key(0)
    flops = evaluation_flops(model, current.params, batch)

    def step() -> Array:
      nonlocal current
      current, measured = train_step(current, batch, key)
      return measured['loss']

    seconds = timing.medians({'train_step': step}, repeats)
    peak = peak_bytes()  # before the evaluation, which needs less
    seconds |= timing.medians({'evaluation': lambda: evaluate(current.params, batch)}, repeats)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(current.params))
  facts = {'batch': size, 'parameters': parameters, 'peak_bytes': peak, 'evaluation_flops': flops / size}
  return facts | rates(seconds, size, flops, config.training.self_condition_rate, peak_flops())


def rates(
  seconds: dict[str, float], size: int, flops: float, self_condition_rate: float, peak: float | None
) -> dict[str, float | None]:
  """Return milliseconds per video and utilization.

  Args:
    seconds: of a `train_step` and of an `evaluation`.
    size: videos per batch.
    flops: of one evaluation of the batch.
    self_condition_rate: share of examples that take two passes in training.
    peak: the device's FLOP/s; None leaves utilization out.
  """
  work = {'train_step': step_evaluations(self_condition_rate) * flops, 'evaluation': flops}
  result: dict[str, float | None] = {}
  for name, time in seconds.items():
    result[f'{name}_ms_per_video'] = 1e3 * time / size
    result[f'{name}_mfu'] = work[name] / time / peak if peak else None
  return result


def best_batch(attempt: Callable[[int], dict[str, Any] | None], first: int, last: int) -> list[dict[str, Any]]:
  """Double the batch from `first` to at most `last` while `attempt` succeeds and videos per second grow.

  Returns:
    All results, the best one last.
  """
  results: list[dict[str, Any]] = []
  size = first
  while size <= last and (result := attempt(size)) is not None:
    results.append(result)
    size *= 2
    if len(results) > 1 and gain(results) < GROWTH:
      break
  return sorted(results, key=lambda result: -result['train_step_ms_per_video'])


def gain(results: list[dict[str, Any]]) -> float:
  """Return how many times faster per video the last batch is than the one before."""
  before, last = (result['train_step_ms_per_video'] for result in results[-2:])
  return before / last


def measured_matmul(size: int = 8192, repeats: int = 5) -> float:
  """Return the FLOP/s of a bfloat16 matrix product, the attainable part of the datasheet's figure."""
  a = jnp.ones((size, size), jnp.bfloat16)
  product = jax.jit(jnp.matmul)
  return 2 * size**3 / timing.medians({'matmul': lambda: product(a, a)}, repeats)['matmul']


def peak_bytes() -> int | None:
  """Return the peak device memory of this process so far, or None if the runtime does not report it."""
  return (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')


def load(path: str, overrides: list[str]) -> ConfigDict:
  """Return the configuration of a file, with overrides such as `model.remat=none` or `model.num_blocks=1`."""
  config = experiments.load(path)
  for override in overrides:
    key, _, text = override.partition('=')
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text
    config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
  return config


def measure_in_process(config: str, size: int, arguments: list[str]) -> dict[str, Any] | None:
  """Measure in a separate process; return None if the device runs out of memory."""
  command = [sys.executable, '-m', 'vdm_jax.benchmarks.train_step', f'--one={config}', f'--batch={size}', *arguments]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode == 0:
    return json.loads(done.stdout)
  if 'RESOURCE_EXHAUSTED' in done.stderr:
    return None
  raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr[-3000:]}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  files = [f'configs/{name}.py' for name in CONFIGS]
  parser.add_argument('--configs', type=path_argument, nargs='*', default=files, help='configuration files to measure')
  parser.add_argument('--batch', type=int, default=1, help='first batch size')
  parser.add_argument('--max_batch', type=int, default=1024, help='last batch size')
  parser.add_argument('--repeats', type=int, default=10, help='timings of each function')
  parser.add_argument('--set', nargs='*', default=[], metavar='KEY=VALUE', help='overrides of every configuration')
  parser.add_argument('--one', default='', help='measure only this file at --batch and print JSON')
  parser.add_argument(
    '--profile', type=path_argument, default='', help='with --one: folder for a trace of three further steps'
  )
  parser.add_argument('--out', type=path_argument, default='', help='file for the report, which is printed in any case')
  args = parser.parse_args()
  if args.one:
    config = load(args.one, args.set)
    if args.profile:
      measure(config, args.batch, 1)
      with jax.profiler.trace(args.profile):
        print(json.dumps(measure(config, args.batch, 3)))
      return
    print(json.dumps(measure(config, args.batch, args.repeats)))
    return

  arguments = [f'--repeats={args.repeats}', *(['--set', *args.set] if args.set else [])]
  report: dict[str, Any] = {'command': timing.command('train_step', None)}
  for config in args.configs:

    def attempt(size: int, config: str = config) -> dict[str, Any] | None:
      result = measure_in_process(config, size, arguments)
      print(f'{config}, batch {size}: {result or "does not fit"}', file=sys.stderr)
      return result

    report[Path(config).stem] = best_batch(attempt, args.batch, args.max_batch)
  report |= {'machine': timing.machine(), 'matmul_flops_per_second': measured_matmul()} | ratios(report)
  text = json.dumps(report, indent=2)
  if args.out:
    Path(args.out).write_text(text + '\n')
  print(text)
  print(table_2(report), file=sys.stderr)


def table_2(report: dict[str, Any]) -> str:
  """Return the networks of Snap's Table 2 in a Markdown table: measured and printed milliseconds per video."""
  lines = ['| network | batch | training ms | printed | evaluation ms | printed |', '|---' * 6 + '|']
  for name, printed in PAPER_MS.items():
    if results := report.get(name):
      best = results[-1]
      train, evaluation = best['train_step_ms_per_video'], best['evaluation_ms_per_video']
      lines.append(f'| {name} | {best["batch"]} | {train:.1f} | {printed[0]} | {evaluation:.1f} | {printed[1]} |')
    elif name in report:
      lines.append(f'| {name} | does not fit | | {printed[0]} | | {printed[1]} |')
  return '\n'.join(lines)


def ratios(report: dict[str, Any]) -> dict[str, Any]:
  """Return the ratio of the 284M U-Net's time per video to the 500M FIT's, with the paper's."""
  names = ('snap_unet_284m', 'snap_fit_500m')
  if not all(report.get(name) for name in names):
    return {}
  unet, fit = (report[name][-1] for name in names)
  found = {kind: unet[f'{kind}_ms_per_video'] / fit[f'{kind}_ms_per_video'] for kind in ('train_step', 'evaluation')}
  return {'unet_284m_over_fit_500m': found | {'paper': {'train_step': 3.31, 'evaluation': 4.49}}}


if __name__ == '__main__':
  main()
