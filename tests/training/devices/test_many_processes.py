"""Several processes train as one: they save, resume, stop and end together."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import standin
from helpers.process_group import ProcessGroup, group_commands
from helpers.standin import make_batch, make_config, make_model

from vdm_jax import checkpoints, partitioning
from vdm_jax.training import train

# Trains to a step; from step `bad` (from 0) on, batches are NaN on the last process only.
TRAIN = """
import time, jax, numpy as np
from helpers import standin
from vdm_jax import partitioning
from vdm_jax.training import train
workdir, steps, bad, pause = arguments[0], int(arguments[1]), int(arguments[2]), float(arguments[3])
stall = float(arguments[4])
with runtime.join_process_group(rendezvous, success=(0, 75)):
  # Devices of the processes alternate along the mesh, as those of hosts in a TPU slice: rows are not contiguous.
  devices = sorted(jax.devices(), key=lambda device: (device.id % jax.local_device_count(), device.process_index))
  mesh = partitioning.make_mesh({'data': -1, 'fsdp': 2}, devices)
  rows = list(partitioning.batch_rows(mesh, standin.BATCH_SIZE))
  assert rows == list(range(standin.BATCH_SIZE))[index :: rendezvous.num_processes]
  def batches(start):
    for k, batch in enumerate(standin.batches(start), start):
      time.sleep(pause)
      mine = jax.tree.map(lambda x: np.array(x[rows]), batch)
      if k >= bad and index == rendezvous.num_processes - 1:
        mine.x[-1, 0] = np.nan
      yield mine
  config = standin.make_config(
    num_steps=steps, checkpoint_every=3, log_every=2, schedule='constant', heldout_every=4, preview_every=4,
    stall_seconds=stall,
  )
  heldout = [jax.tree.map(lambda x: x[rows], standin.make_batch(1000))]
  seen = []
  def preview(ema, step):
    seen.append(float(jax.jit(lambda x: x.sum(), out_shardings=partitioning.replicated(mesh))(ema['enter']['kernel'])))
  state = train(
    standin.make_model(config), config, workdir, mesh=mesh, batches=batches, heldout=heldout, preview=preview
  )
  print('finished at', int(state.step), 'previews', seen, flush=True)
  sys.exit(0 if int(state.step) == steps else 75)
"""
NEVER = 10**9


def together(folder, workdir, steps, *, bad=NEVER, pause=0.0, stall=600.0, count=2, devices=4):
  return ProcessGroup(folder, group_commands(TRAIN, workdir, steps, bad, pause, stall, count=count), devices=devices)


def alone(workdir, steps):
  config = make_config(
    num_steps=steps, checkpoint_every=3, log_every=2, schedule='constant', heldout_every=4, preview_every=4
  )
  mesh = partitioning.make_mesh({'data': -1})
  return train(make_model(config), config, workdir, mesh=mesh, batches=standin.batches, heldout=[make_batch(1000)])


def rows_of(workdir: Path) -> list[dict]:
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{k: v for k, v in row.items() if not k.startswith(('time/', 'memory/'))} for row in rows]


def assert_equal_runs(one, other, steps):
  """Compare states after the last step and all rows of two workdirs, up to the order of summation."""
  states = [alone(workdir, steps) for workdir in (one, other)]
  assert [int(state.step) for state in states] == [steps, steps]
  for field in ('params', 'ema', 'opt_state'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *(getattr(s, field) for s in states)
    )
  for a, b in zip(rows_of(one), rows_of(other), strict=True):
    assert a == pytest.approx(b, rel=1e-4, abs=1e-6)


def test_two_processes_train_save_and_resume_as_one(tmp_path):
  """The first half on two processes of four devices, the second on a single device, equals a single device."""
  with together(tmp_path / 'logs', tmp_path / 'two', 6) as group:
    assert group.wait(250) == [0, 0], group.texts()
  said = [re.search('finished at .*', text)[0] for text in group.texts()]
  assert said[0] == said[1] and said[0].startswith('finished at 6 previews [')
  assert checkpoints.steps(tmp_path / 'two') == [3, 6]
  alone(tmp_path / 'one', 6)
  assert rows_of(tmp_path / 'two')[-1]['train/loss'] == pytest.approx(rows_of(tmp_path / 'one')[-1]['train/loss'], 1e-5)
  assert_equal_runs(tmp_path / 'one', tmp_path / 'two', 10)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_processes_resume_what_two_saved(tmp_path):
  """2 x 4 devices, then 4 x 2, then one."""
  for count, devices, steps in ((2, 4, 6), (4, 2, 10)):
    with together(tmp_path / str(count), tmp_path / 'many', steps, count=count, devices=devices) as group:
      assert group.wait(500) == [0] * count, group.texts()
  assert_equal_runs(tmp_path / 'one', tmp_path / 'many', 12)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path, number):
  """With status 75; and the run resumes from there."""
  with together(tmp_path / 'logs', tmp_path / 'two', 4000, pause=0.02) as group:
    group.until('compiled', seconds=280)
    time.sleep(1.0)
    group.processes[1].send_signal(number)
    assert group.wait(100) == [75, 75], group.texts()
  steps = {int(re.search(r'finished at (\d+)', text)[1]) for text in group.texts()}
  (step,) = steps
  assert 1 < step < 4000
  assert checkpoints.steps(tmp_path / 'two')[-1] == step
  assert_equal_runs(tmp_path / 'one', tmp_path / 'two', step + 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('number', [signal.SIGSTOP, signal.SIGKILL])
def test_a_lost_process_is_named_and_no_checkpoint_is_lost(tmp_path, number):
  """Frozen or killed: the other ends within the bound, and the run resumes from its last checkpoint."""
  with together(tmp_path / 'logs', tmp_path / 'two', 4000, pause=0.05, stall=12.0) as group:
    group.until('compiled', seconds=280)
    deadline = time.monotonic() + 100
    while not checkpoints.steps(tmp_path / 'two'):
      assert time.monotonic() < deadline, group.texts()
      time.sleep(0.1)
    group.processes[1].send_signal(number)
    started = time.monotonic()
    assert group.processes[0].wait(100) == 70, group.texts()
    assert time.monotonic() - started < 12 + 25
    text = group.texts()[0]
  assert re.search(
    r'error: process 1 \(\S+, pid \d+\) of 2 has sent no heartbeat for \d+ s, last seen (?:waiting for|handing|saving|'
    r'measuring|making) .*step \d+.*: .* The same command resumes from the last checkpoint\.',
    text,
  ), text
  assert_equal_runs(tmp_path / 'one', tmp_path / 'two', checkpoints.steps(tmp_path / 'two')[-1] + 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_non_finite_step_of_one_process_is_skipped_by_all(tmp_path):
  """NaN on one of two: neither changes its parameters, both end alike, and the bundle is complete."""
  with together(tmp_path / 'logs', tmp_path / 'two', 40, bad=4) as group:
    assert group.wait(280) == [1, 1], group.texts()
  assert any('of the 10 steps up to step 14 ' in text for text in group.texts())
  folder = tmp_path / 'two' / 'nonfinite' / 'step_00000014'
  report = json.loads((folder / 'report.json').read_text())
  assert report['found'][:2] == ['batch: x', 'loss of 1 of 8 examples: 7']
  assert checkpoints.steps(folder) == [13]
  alone(tmp_path / 'one', 4)
  layouts = [checkpoints.steps(tmp_path / name) for name in ('one', 'two')]
  assert layouts == [[3, 4], [9, 12]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_job_of_two_processes_is_refused_on_both(tmp_path):
  with together(tmp_path / 'first', tmp_path / 'two', 4000, pause=0.05) as first:
    first.until('compiled', seconds=280)
    with together(tmp_path / 'second', tmp_path / 'two', 4000) as second:
      assert second.wait(100) == [1, 1], second.texts()
    assert all('is in use by process' in text for text in second.texts())
    assert first.wait(0.1) == [None, None], 'the first still runs'
