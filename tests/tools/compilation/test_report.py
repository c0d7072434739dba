"""Compile reports of a tiny FIT for two virtual devices, against closed forms; the command line is a slow test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from tools.compilation.report_cases import fit

from vdm_jax.tools.compilation import model_flops, programs, report
from vdm_jax.types import Conditioning

REPOSITORY = Path(__file__).resolve().parents[3]


def reports(which: str) -> dict:
  script = Path(__file__).with_name('report_cases.py')
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  done = subprocess.run([sys.executable, script, which], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.fixture(scope='module')
def cases() -> dict:
  return reports('plain')


@pytest.fixture(scope='module')
def shapes():
  model = programs.build_model(fit())
  return model, jax.eval_shape(model.init, jax.random.key(0))


def test_the_report_counts_the_state_and_the_work(cases, shapes):
  model, params = shapes
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  plain = cases['plain']
  assert plain['parameters'] == count
  assert (plain['parameter_bytes'], plain['ema_bytes']) == (4 * count, 4 * count)
  assert plain['optimizer_bytes'] == 2 * 4 * count + 4  # two moments, and the count of updates
  assert (plain['backend'], plain['mesh']) == ('cpu_estimate', {'data': 2, 'fsdp': 1, 'tensor': 1})
  assert (plain['hbm_bytes_per_device'], plain['fits']) == (73_600_000_000, True)
  assert plain['peak_bytes_per_device'] > 16 * count + plain['temporary_bytes']
  # The new state reuses the memory of the old; counters and sums are a few more numbers.
  assert 16 * count + 4 <= plain['donated_bytes'] < 16 * count + 1000

  x = jax.ShapeDtypeStruct((8, *model.video_shape), 'float32')
  one = [jax.ShapeDtypeStruct((8, *shape), 'float32') for shape in ((), (2,))]
  cond = Conditioning(frame_interval=one[0], resolution=one[1])
  forward = model_flops(lambda p, x, level, cond: model.network(p)(x, level, cond, None)[0], params, x, one[0], cond)
  # Three forward passes; the condition's inputs and the pixels need no gradient.
  assert 2.9 * forward < plain['flops_per_step'] <= 3 * forward
  # Nothing is computed twice: the products of all devices are the model's.
  assert 2 * plain['roofline']['flops_per_device'] == pytest.approx(plain['flops_per_step'], rel=0.02)
  assert plain['roofline']['collective_bytes'] == pytest.approx(4 * count, rel=0.05)  # gradients, by a ring of two
  assert 0 < plain['roofline']['mfu_bound'] <= 1


def test_fsdp_halves_what_it_splits(cases, shapes):
  model, params = shapes

  def part(leaf, names) -> int:
    split = any(name == 'embed' and not size % 2 for name, size in zip(names, leaf.shape, strict=True))
    return leaf.size // (2 if split else 1)

  halved = sum(jax.tree.leaves(jax.tree.map(part, params, model.logical_axes)))
  whole = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert halved < 0.6 * whole
  assert cases['state']['data'] == {'params': 4 * whole, 'opt_state': 8 * whole + 4, 'ema': 4 * whole}
  assert cases['state']['fsdp'] == {'params': 4 * halved, 'opt_state': 8 * halved + 4, 'ema': 4 * halved}


def test_collectives_in_a_loop_count_once_per_iteration(cases):
  found = cases['collectives']
  assert found['reduced']['collective_bytes'] == 5 * 2 * (4 * 32 * 32) / 2
  assert found['reduced']['flops'] == 5 * 2 * 32 * 32 * 32  # on 32 of the 64 rows
  assert found['gathered']['collective_bytes'] == 5 * (4 * 32 * 32)


def test_fsdp_gathers_the_parameters_and_not_the_videos(cases, shapes):
  model, params = shapes
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  # The other half of the parameters, and features of the noise level; one array [256 8 16] has 4 * 32,768 bytes.
  assert cases['forward']['collective_bytes'] <= 4 * count < 4 * 256 * 8 * 16

  x = jax.ShapeDtypeStruct((256, *model.video_shape), 'float32')
  levels, sizes = (jax.ShapeDtypeStruct((256, *shape), 'float32') for shape in ((), (2,)))
  cond = Conditioning(frame_interval=levels, resolution=sizes)
  flops = model_flops(lambda p, x, level, cond: model.network(p)(x, level, cond, None)[0], params, x, levels, cond)
  assert cases['forward']['flops'] == pytest.approx(flops / 2, rel=0.01)


def test_guidance_splits_the_videos_over_the_devices_too(cases):
  """Both branches of guidance are computed where their video is; stacked, videos would have to be gathered."""
  found = cases['guided']
  assert found['collective_bytes'] == 0
  # XLA skips taps on padding.
  assert 0.35 * found['model_flops'] < found['flops'] < 0.5 * found['model_flops']


def test_a_mesh_that_does_not_match_the_devices_is_an_error():
  with pytest.raises(ValueError, match='mesh.fsdp=3 x mesh.tensor=1: 1 devices are not a multiple of 3'):
    report(fit(mesh__fsdp=3), 'gpu:1x1x80')


@pytest.mark.slow
@pytest.mark.timeout(1200)  # six compilations
def test_a_step_that_does_not_fit_comes_with_changes_that_do():
  found = reports('every')
  plain, full = found['plain'], found['full']
  assert plain['peak_bytes_per_device'] < found['batch']['peak_bytes_per_device'] < full['peak_bytes_per_device']
  assert (plain['fits'], full['fits']) == (True, False)
  assert plain['sampling']['videos'] == 2
  assert plain['parameter_bytes'] < plain['sampling']['peak_bytes_per_device'] < plain['peak_bytes_per_device']

  changes = {entry['change']: entry for entry in full['suggestions']}
  assert {'--config.model.remat=block', '--config.mesh.data=1 --config.mesh.fsdp=2'} < set(changes)
  assert full['suggestions'][0]['fits']
  assert all(entry['fits'] == (entry['peak_bytes_per_device'] <= 0.92 * 10**9) for entry in full['suggestions'])
  assert changes['--config.model.remat=block']['extra_flops'] > 0
  assert changes['--config.mesh.data=1 --config.mesh.fsdp=2']['extra_flops'] == 0


@pytest.mark.slow
def test_the_command_prints_one_json_object():
  command = [sys.executable, '-m', 'vdm_jax.main', '--mode=compile', '--config=configs/digits_fit.py']
  changes = ['--config.model.num_blocks=1', '--config.data.batch_size=4']
  done = subprocess.run([*command, *changes, '--topology=gpu:1x2x80'], cwd=REPOSITORY, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  printed = json.loads(done.stdout)
  assert printed['config'] == 'configs/digits_fit.py'
  assert printed['overrides'] == {'model.num_blocks': 1, 'data.batch_size': 4}
  assert {
    'parameters',
    'peak_bytes_per_device',
    'hbm_bytes_per_device',
    'fits',
    'flops_per_step',
    'compile_seconds',
    'backend',
    'sampling',
    'roofline',
    'versions',
    'topology',
    'mesh',
  } <= set(printed)
  refused = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
  assert refused.returncode == 2
  assert refused.stderr.startswith('error: --topology ')
