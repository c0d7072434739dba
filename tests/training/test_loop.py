"""The training loop: an interrupted and resumed run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import standin
from helpers.standin import make_batch, make_config, make_model

from vdm_jax import checkpoints, partitioning
from vdm_jax.training import loop, optimizer, recorder, state, train

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 7


class Crash(Exception):
  pass


def settings(**changes):
  return make_config(num_steps=STEPS, heldout_every=3, self_condition_rate=0.5, **changes)


def call(workdir, config, batches=standin.batches, **arguments):
  mesh = partitioning.make_mesh({'data': -1})
  arguments = {'heldout': [make_batch(1000), make_batch(1001)]} | arguments
  return train(make_model(config), config, workdir, mesh=mesh, batches=batches, **arguments)


def rows_of(workdir):
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{key: value for key, value in row.items() if not key.startswith(('time/', 'memory/'))} for row in rows]


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  return call(workdir, settings()), rows_of(workdir)


def stopping(start, *, at, how):
  """Yield batches, and stop the run while that of step `at` (from 0) is made."""
  return stopping_in(standin.batches(start), start, at=at, how=how)


def stopping_in(batches, start, *, at, how=None):
  for k, batch in enumerate(batches, start):
    if k == at:
      (how or terminate)()
    yield batch


def crash():
  raise Crash


def steps_and_slow_ones(*steps):
  """All steps; the others than these are slow."""
  return [at if at in steps else pytest.param(at, marks=pytest.mark.slow) for at in range(STEPS)]


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize('at', steps_and_slow_ones(1, 2, 6))
def test_stopped_by_a_signal_at_any_step_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, at):
  """The step is finished and saved, also within a logging window; before the first, nothing is compiled for it."""
  early = call(tmp_path, settings(), functools.partial(stopping, at=at, how=terminate))
  assert int(early.step) == (at + 1 if at else 0)
  assert checkpoints.steps(tmp_path)[-1:] == ([at + 1] if at else [])
  if at % 2:  # stop twice
    call(tmp_path, settings(), functools.partial(stopping, at=at + 1, how=terminate))
  state, rows = uninterrupted
  assert_same(call(tmp_path, settings()), state)
  assert rows_of(tmp_path) == rows


@pytest.mark.parametrize('at', steps_and_slow_ones(0, 3))
def test_crashed_at_any_step_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, at):
  """At most `checkpoint_every` steps are repeated, with the same data and draws."""
  seen = []

  def watched(start):
    seen.append(start)
    return standin.batches(start)

  with pytest.raises(Crash):
    call(tmp_path, settings(), functools.partial(stopping, at=at, how=crash))
  state, rows = uninterrupted
  assert_same(call(tmp_path, settings(), watched), state)
  assert rows_of(tmp_path) == rows
  assert seen == [at // 2 * 2]


def test_two_runs_of_200_steps_are_equal_although_one_is_interrupted(tmp_path):
  config = make_config(num_steps=200, log_every=20, heldout_every=50, checkpoint_every=60, self_condition_rate=0.5)
  straight = call(tmp_path / 'a', config)
  cut = functools.partial(stopping, at=119, how=terminate)  # where a checkpoint and a row are due
  assert int(call(tmp_path / 'b', config, cut).step) == 120
  assert_same(call(tmp_path / 'b', config), straight)
  assert rows_of(tmp_path / 'b') == rows_of(tmp_path / 'a')


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(uninterrupted, tmp_path):
  """The rows after the older checkpoint are dropped and rewritten."""
  call(tmp_path, settings())
  newest = tmp_path / 'checkpoints' / '7' / 'default' / '_METADATA'
  newest.write_bytes(newest.read_bytes()[:-1])
  with pytest.warns(RuntimeWarning, match='default/_METADATA has'):
    state = call(tmp_path, settings())
  assert_same(state, uninterrupted[0])
  assert rows_of(tmp_path) == uninterrupted[1]


def test_more_steps_continue_a_finished_run(tmp_path):
  changes = {'schedule': 'constant', 'heldout_every': 0, 'log_every': 2}
  straight = call(tmp_path / 'a', make_config(num_steps=6, **changes))
  call(tmp_path / 'b', make_config(num_steps=4, **changes))
  assert_same(call(tmp_path / 'b', make_config(num_steps=6, **changes)), straight)
  assert rows_of(tmp_path / 'a') == rows_of(tmp_path / 'b')


def test_a_finished_run_is_not_changed(uninterrupted, tmp_path, capsys):
  call(tmp_path, settings())
  before = (tmp_path / 'metrics.jsonl').read_text()
  assert_same(call(tmp_path, settings()), uninterrupted[0])
  assert (tmp_path / 'metrics.jsonl').read_text() == before
  assert 'already at training.num_steps=7' in capsys.readouterr().err


def test_rows_have_the_documented_keys(tmp_path, capsys):
  seen = []
  call(tmp_path, settings(), on_row=seen.append)
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert rows == seen
  assert [row['step'] for row in rows] == [3, 4, 6, 7]  # held-out at 3 and 6, logged at 4 and the end
  assert set(rows[0]) == {'step'} | {key for key in rows[0] if key.startswith('heldout/')}
  logged = rows[1]
  for key in ('loss', 'gradient_norm', 'parameter_norm', 'update_norm', 'learning_rate', 'skipped_steps'):
    assert f'train/{key}' in logged
  assert any(re.fullmatch(r'train/loss_logsnr_-?\d+_-?\d+', key) for key in logged)
  timed = {'time/step_seconds', 'time/samples_per_second_per_device', 'time/data_wait', 'time/compile_seconds'}
  for row in (logged, rows[3]):
    assert timed | {'time/steps_per_second', 'time/host_seconds', 'memory/host_peak_bytes'} <= set(row)
    assert 1 / row['time/step_seconds'] == pytest.approx(row['time/steps_per_second'], rel=1e-2)
    assert row['time/samples_per_second_per_device'] == pytest.approx(8 * row['time/steps_per_second'])
    assert row['time/mfu'] is None, 'a CPU has no published peak'
  lines = capsys.readouterr().err.splitlines()
  progress = r'step \d/7  loss \d+\.\d{4}  \d+\.\d\d steps/s  \d+:\d\d left'
  assert [bool(re.fullmatch(progress, line)) for line in lines] == [False, False, False, True, True]
  assert lines[1] == 'compiling the training step...'
  assert json.loads((tmp_path / 'config.json').read_text()) == settings().to_dict()
  assert json.loads((tmp_path / 'env.json').read_text())['processes'] == 1


def test_previews_get_the_average_at_their_steps(tmp_path):
  previews = {}

  def preview(ema, step):
    previews[step] = jax.device_get(ema)

  state = call(tmp_path, make_config(preview_every=3), preview=preview)
  assert list(previews) == [3, 6]
  assert_same(previews[6], state.ema)
  assert not np.array_equal(previews[3]['enter']['kernel'], previews[6]['enter']['kernel'])


def test_a_preview_does_not_change_the_training(uninterrupted, tmp_path):
  state = call(tmp_path, settings(preview_every=1), preview=lambda ema, step: None)
  assert_same(state, uninterrupted[0])


def shown(workdir, config, stop_at=None, crash_in=()):
  """Train until step `stop_at` + 1; return the state, and step, EMA and newest checkpoint of each preview."""
  seen = []

  def preview(ema, step):
    if step in crash_in:
      raise Crash
    seen.append((step, float(ema['enter']['kernel'].sum()), max(checkpoints.steps(workdir), default=0)))

  data = standin.batches if stop_at is None else functools.partial(stopping, at=stop_at, how=terminate)
  return call(workdir, config, data, preview=preview), seen


def test_a_signal_saves_first_and_postpones_what_was_due_until_resuming(tmp_path):
  """A preview takes longer than schedulers grant; metrics and previews are complete and not repeated."""
  config = settings(preview_every=2, checkpoint_every=5)
  config.training.heldout_every = 2
  straight, seen = shown(tmp_path / 'a', config)
  assert [step for step, *_ in seen] == [2, 4, 6]
  stopped, before = shown(tmp_path / 'b', config, stop_at=3)
  assert int(stopped.step) == 4 and checkpoints.steps(tmp_path / 'b') == [4]
  assert not [key for key in rows_of(tmp_path / 'b')[-1] if key.startswith('heldout')]
  with pytest.raises(Crash):  # killed while making it: the next start makes it
    shown(tmp_path / 'b', config, crash_in=[4])
  resumed, after = shown(tmp_path / 'b', config)
  assert_same(resumed, straight)
  assert rows_of(tmp_path / 'b') == rows_of(tmp_path / 'a')
  assert [step for step, *_ in before] == [2]
  assert [what[:2] for what in before + after] == [what[:2] for what in seen]
  assert shown(tmp_path / 'b', config)[1] == [], 'once'


def test_a_signal_at_the_last_step_saves_it_before_its_preview(tmp_path):
  config = settings(preview_every=7, checkpoint_every=5)
  config.training.heldout_every = 7
  straight, seen = shown(tmp_path / 'a', config)
  assert seen[0][2] < 7, 'the preview usually comes before the checkpoint'
  last, after = shown(tmp_path / 'b', config, stop_at=6)
  assert_same(last, straight)
  assert after == [(7, seen[0][1], 7)]
  assert rows_of(tmp_path / 'b') == rows_of(tmp_path / 'a')
  assert not (tmp_path / 'b' / 'left_out.json').exists()


def test_the_rate_of_every_step_is_right_when_each_is_logged(tmp_path):
  """Also before a checkpoint or a held-out loss, for which the host waits for all steps in flight."""

  def slow(start):
    for batch in standin.batches(start):
      time.sleep(0.1)
      yield batch

  config = make_config(num_steps=12, log_every=1, heldout_every=4, checkpoint_every=5)
  rows = []
  call(tmp_path, config, slow, on_row=rows.append)
  assert [row['step'] for row in rows] == [*range(1, 13)]
  rates = [row['time/steps_per_second'] for row in rows]
  assert sum(rate > 1.5 / 0.1 for rate in rates) <= 2, rates  # not 0: a busy machine may hear of a step late


def test_at_most_two_steps_are_in_flight(tmp_path, monkeypatch):
  waited = []
  original = recorder.Recorder._wait
  monkeypatch.setattr(recorder.Recorder, '_wait', lambda *args: waited.append(1) or original(*args))
  ahead = []

  def watched(start):
    for k, batch in enumerate(standin.batches(start), start):
      ahead.append(k - len(waited))  # dispatched before this batch, less waited for
      yield batch

  call(tmp_path, make_config(checkpoint_every=100), watched, heldout=None)
  assert max(ahead) == 2
  assert ahead == [0, 1, 2, 2, 2, 2]


def poisoned(start, *, first=4, last=10**9):
  """Yield batches with NaN in one example from step `first` (from 0) to before step `last`."""
  for k, batch in enumerate(standin.batches(start), start):
    if first <= k < last:
      batch.x[5, 1] = np.nan
    yield batch


def test_ten_consecutive_skipped_steps_end_the_run(tmp_path):
  with pytest.raises(FloatingPointError) as error:
    call(tmp_path, make_config(num_steps=30), poisoned)
  folder = tmp_path / 'nonfinite' / 'step_00000014'
  assert f'--mode=replay --workdir={folder} ' in str(error.value) and 'up to step 14 ' in str(error.value)
  rows = rows_of(tmp_path)
  assert [row['step'] for row in rows] == [4, 8, 12, 14]
  assert [row['train/skipped_steps'] for row in rows] == [0, 4, 4, 2]
  assert 'train/loss' not in rows[-1]


def test_nine_skipped_steps_change_nothing_and_the_tenth_is_applied(tmp_path):
  config = make_config(num_steps=14, schedule='constant', log_every=14)
  state = call(tmp_path / 'a', config, functools.partial(poisoned, first=4, last=13))
  assert int(state.step) == 14 and int(state.updates) == 5 and int(state.skipped_in_a_row) == 0
  assert rows_of(tmp_path / 'a')[-1]['train/skipped_steps'] == 9
  assert not (tmp_path / 'a' / 'nonfinite').exists()


@pytest.mark.parametrize('at', [7, 11])
def test_the_count_of_skipped_steps_continues_after_an_interruption(tmp_path, at):
  def interrupted(start):
    return stopping_in(poisoned(start), start, at=at)

  config = make_config(num_steps=30)
  assert int(call(tmp_path, config, interrupted).skipped_in_a_row) == at + 1 - 4
  with pytest.raises(FloatingPointError, match='of the 10 steps up to step 14 '):
    call(tmp_path, config, poisoned)


def test_a_checkpoint_of_an_older_version_resumes(uninterrupted, tmp_path):
  """Leaves it lacks were zero then; the average of gradient norms restarts, and has no effect here."""
  call(tmp_path, settings(), functools.partial(stopping, at=3, how=terminate))
  with checkpoints.Checkpointer(tmp_path, 2) as checkpointer:
    config, mesh = settings(), partitioning.make_mesh({'data': -1})
    model = make_model(config)
    layout = state.abstract(model, optimizer.build(config.training, model.logical_axes, model.decay_mask), mesh)
    old = checkpointer.restore(layout)._asdict()
  old['sums'] = {name: value for name, value in old['sums'].items() if f'sums/{name}' not in state.ADDED}
  old = {name: value for name, value in old.items() if name not in state.ADDED}
  shutil.rmtree(tmp_path / 'checkpoints')
  with checkpoints.Checkpointer(tmp_path, 2) as checkpointer:
    checkpointer.save(4, old)
  resumed = call(tmp_path, settings())
  assert resumed.grad_norm_ema > 0
  assert_same(resumed._replace(grad_norm_ema=uninterrupted[0].grad_norm_ema), uninterrupted[0])


def test_data_that_end_are_an_error(tmp_path):
  with pytest.raises(ValueError, match='before step 3'):
    call(tmp_path, make_config(), lambda start: iter([make_batch(0), make_batch(1)]))


def test_an_error_closes_the_data_and_releases_lock_and_signals(tmp_path):
  closed = []

  def source(start):
    try:
      yield make_batch(0)
      raise Crash
    finally:
      closed.append(True)

  handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  with pytest.raises(Crash):
    call(tmp_path, make_config(), source)
  assert closed == [True]
  assert (tmp_path / 'run.lock').read_text() == ''
  assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_batch_that_does_not_split_is_an_error_before_the_workdir_is_created(tmp_path):
  with pytest.raises(ValueError, match='data.batch_size=8 does not split'):
    call(tmp_path / 'run', make_config(accumulation_steps=3))
  assert not (tmp_path / 'run').exists()


def test_a_run_of_another_configuration_is_not_changed(tmp_path):
  call(tmp_path, make_config(num_steps=3))
  before = {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
  with pytest.raises(ValueError, match='training.learning_rate: 0.01 in the workdir, 0.5 now'):
    call(tmp_path, make_config(num_steps=3, learning_rate=0.5))
  assert {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()} == before


def test_more_micro_batches_on_resuming_change_only_the_rounding(uninterrupted, tmp_path):
  """The same examples in the same order, and losses to 1e-5: a run moves to a smaller slice."""
  call(tmp_path, settings(), functools.partial(stopping, at=3, how=terminate))
  call(tmp_path, settings(accumulation_steps=4))
  for row, expected in zip(rows_of(tmp_path), uninterrupted[1], strict=True):
    assert row.keys() == expected.keys()
    for key, value in expected.items():
      assert row[key] == pytest.approx(value, rel=1e-5), key
  (change,) = [json.loads(line) for line in (tmp_path / 'config_history.jsonl').read_text().splitlines()]
  assert change == {'step': 4, 'key': 'training.accumulation_steps', 'before': 1, 'after': 4}


def test_a_learning_rate_that_is_allowed_to_change_holds_from_the_step_of_resuming(tmp_path, capsys):
  config = make_config(num_steps=4, log_every=1, schedule='constant', warmup_steps=0)
  call(tmp_path, config, functools.partial(stopping, at=1, how=terminate))
  config.training.learning_rate = 0.5
  with pytest.raises(ValueError, match='--allow_change'):
    call(tmp_path, config)
  capsys.readouterr()
  call(tmp_path, config, allow_change=True)
  lines = capsys.readouterr().err.splitlines()
  assert lines[1] == 'changed at step 2: training.learning_rate: 0.01 in the workdir, 0.5 now'
  assert re.fullmatch(r'compiling the training step \(\d+ s the last time\)\.\.\.', lines[2])
  assert [row['train/learning_rate'] for row in rows_of(tmp_path)] == pytest.approx([0.01, 0.01, 0.5, 0.5])
  call(tmp_path, config)
  assert len((tmp_path / 'config_history.jsonl').read_text().splitlines()) == 1, "it is the run's own by now"


def test_a_checkpoint_that_does_not_fit_leaves_the_run_as_it_is(tmp_path):
  """The state of an optimizer may depend on its options, which only the checkpoint can tell."""
  config = make_config(num_steps=3, optimizer='sgd')
  config.training.update(beta1=0.9, beta2=0.99, weight_decay=0.0)
  config.training.optimizer_options = {}
  call(tmp_path, config)
  before = {f: f.read_bytes() for f in tmp_path.rglob('*.json*')}
  config.training.optimizer_options = {'momentum': 0.9}
  with pytest.raises(ValueError, match='does not fit the model'):
    call(tmp_path, config, allow_change=True)
  assert {f: f.read_bytes() for f in tmp_path.rglob('*.json*')} == before


@pytest.mark.parametrize('what', ['preview', 'heldout'])
def test_a_signal_during_a_preview_or_a_held_out_loss_saves_at_once(uninterrupted, tmp_path, monkeypatch, what):
  """Neither is waited for: it comes again on resuming."""
  config = settings(preview_every=3, checkpoint_every=100)
  released = threading.Event()

  def stuck(*args):
    terminate()
    released.wait(60)
    return {}

  with monkeypatch.context() as patch:
    if what == 'heldout':
      patch.setattr(loop, 'make_heldout_loss', lambda *args: stuck)
    stopped = call(tmp_path, config, preview=stuck if what == 'preview' else lambda ema, step: None)
  released.set()
  assert int(stopped.step) == 3 and checkpoints.steps(tmp_path) == [3]
  seen = []
  assert_same(call(tmp_path, config, preview=lambda ema, step: seen.append(step)), uninterrupted[0])
  assert seen == [3, 6] and rows_of(tmp_path) == uninterrupted[1]


def test_a_second_keyboard_interrupt_ends_at_once(tmp_path):
  def twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    call(tmp_path, make_config(), functools.partial(stopping, at=3, how=twice))


RUN = """
import sys
sys.path[:0] = [{folder!r}, {folder!r} + "/.."]
import time
import test_loop
from helpers import standin
def slow(start):
  for batch in standin.batches(start):
    time.sleep(0.01)
    yield batch
test_loop.call(sys.argv[1], test_loop.killed_settings({num_steps}), slow)
"""


@pytest.mark.slow
def test_killed_at_random_instants_equals_uninterrupted(tmp_path):
  """SIGKILL at any time, also during a save or a restore, loses and repeats nothing."""
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  command = [sys.executable, '-c', RUN.format(folder=str(Path(__file__).parent), num_steps=150)]
  subprocess.run([*command, tmp_path / 'whole'], env=env, check=True, capture_output=True)
  rng = random.Random(0)
  kills, steps = 0, []
  while True:
    with subprocess.Popen([*command, tmp_path / 'killed'], env=env, stderr=subprocess.PIPE, text=True) as process:
      # From its first words on, so that the instants fall into restoring, training and saving.
      process.stderr.readline()
      try:
        process.wait(rng.uniform(0.0, 4.0))
      except subprocess.TimeoutExpired:
        process.kill()
        kills += 1
        steps.append(max(checkpoints.steps(tmp_path / 'killed'), default=0))
        continue
      assert process.returncode == 0, process.stderr.read()
      break
  assert kills >= 3, kills
  assert steps == sorted(steps)
  assert rows_of(tmp_path / 'killed') == rows_of(tmp_path / 'whole')
  killed, whole = (call(tmp_path / name, killed_settings(150)) for name in ('killed', 'whole'))
  assert int(whole.step) == 150
  assert_same(killed, whole)
  leftovers = [f.name for f in (tmp_path / 'killed' / 'checkpoints').iterdir()]
  assert sorted(leftovers) == ['149', '150']


def test_a_killed_run_resumes_from_its_last_save(tmp_path):
  """One kill for the quick tests; the slow one has many."""
  code = RUN.format(folder=str(Path(__file__).parent), num_steps=100_000)
  env = dict(os.environ, PYTHONPATH=str(REPOSITORY))
  with subprocess.Popen([sys.executable, '-c', code, tmp_path], env=env, stderr=subprocess.DEVNULL) as process:
    deadline = time.monotonic() + 100
    while not checkpoints.steps(tmp_path) and time.monotonic() < deadline:
      time.sleep(0.02)
    process.kill()
  done = checkpoints.steps(tmp_path)[-1]
  state = call(tmp_path, killed_settings(done + 2))
  assert int(state.step) == done + 2


def killed_settings(num_steps):
  return make_config(
    num_steps=num_steps,
    schedule='constant',
    checkpoint_every=1,
    log_every=7,
    self_condition_rate=0.5,
    heldout_every=50,
  )
