"""Logs of a run: rows, events, times and the line of progress."""

from __future__ import annotations

import json
import sys
import time

import pytest

from vdm_jax.training import metrics_log


def rows_of(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def write(workdir, *rows, resumed=0, tensorboard=False):
  writer = metrics_log.MetricsWriter(workdir, resumed=resumed, tensorboard=tensorboard)
  for row in rows:
    writer.write(row)
  writer.close()


def test_rows_after_the_resumed_step_are_dropped_and_rewritten(tmp_path):
  write(tmp_path, *({'step': k, 'train/loss': 1.0} for k in (2, 4, 6)))
  write(tmp_path, {'step': 6, 'train/loss': 2.0}, resumed=5)
  assert [(row['step'], row['train/loss']) for row in rows_of(tmp_path)] == [(2, 1.0), (4, 1.0), (6, 2.0)]


@pytest.mark.parametrize('torn', ['{"step": 4, "train/lo', '{"step": 4}', 'garbage\n'])
def test_an_incomplete_row_of_a_killed_run_is_dropped(tmp_path, torn):
  write(tmp_path, {'step': 2, 'train/loss': 1.0})
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write(torn)
  write(tmp_path, {'step': 5, 'train/loss': 2.0}, resumed=4)
  assert [row['step'] for row in rows_of(tmp_path)] == ([2, 4, 5] if torn == '{"step": 4}' else [2, 5])


def test_numbers_that_are_not_finite_are_null(tmp_path):
  write(tmp_path, {'step': 1, 'a': float('nan'), 'b': float('inf'), 'c': 1.5})
  assert rows_of(tmp_path) == [{'step': 1, 'a': None, 'b': None, 'c': 1.5}]


def test_tensorboard_events_are_written_on_request(tmp_path):
  write(tmp_path, {'step': 1, 'train/loss': 0.5}, tensorboard=True)
  (events,) = (tmp_path / 'tensorboard').iterdir()
  assert b'train/loss' in events.read_bytes()


def test_tensorboard_without_its_package_is_a_clear_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ModuleNotFoundError, match='training.tensorboard=True needs tensorboardX'):
    write(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
  ('step', 'rate', 'line'),
  [
    (120, 9.87, 'step 120/1000  loss 0.1234  9.87 steps/s  1:29 left'),
    (0, 0.1, 'step 0/1000  loss 0.1234  0.10 steps/s  2:46:40 left'),
    (1000, 5.0, 'step 1000/1000  loss 0.1234  5.00 steps/s  0:00 left'),
  ],
)
def test_the_line_of_progress(step, rate, line):
  assert metrics_log.progress_line(step, 1000, 0.12341, rate) == line


def row_of_four_steps(monkeypatch, watch):
  """Return the row of four steps, each with 1 s for data, 2 s for the device, a pause of 3 s and another 0.5 s."""
  now = [100.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  watch.reset()
  for _ in range(4):
    now[0] += 6.5
    watch.step(now[0], data=1.0, device=2.0, pause=3.0)
  return watch.row()


def test_the_parts_of_the_time_sum_to_the_whole(monkeypatch):
  watch = metrics_log.Stopwatch(examples_per_device=7.0)
  assert row_of_four_steps(monkeypatch, watch) == {
    'time/steps_per_second': 4 / 14,
    'time/step_seconds': 3.5,
    'time/samples_per_second_per_device': 2.0,
    'time/mfu': None,
    'time/data_wait': 1 / 3.5,
    'time/data_seconds': 1.0,
    'time/device_seconds': 2.0,
    'time/host_seconds': 0.5,
    'time/pause_seconds': 12.0,
    'time/compile_seconds': None,
  }


def test_a_step_of_which_the_host_hears_late_takes_its_own_time(monkeypatch):
  """Three steps of 2 s, of all of which the host hears after 6 s, and a pause of 5 s before a fourth."""
  now = [100.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  watch = metrics_log.Stopwatch(examples_per_device=1.0)
  now[0] += 6.0
  for finished in (102.0, 104.0, 106.0):
    watch.step(finished)
    assert watch.row()['time/steps_per_second'] == 0.5 and watch.row()['time/step_seconds'] == 2.0
    watch.start_window()
  watch.step(113.0, device=1.5, pause=5.0)
  row = watch.row()
  assert row['time/step_seconds'] == 2.0 and row['time/pause_seconds'] == 5.0 and row['time/host_seconds'] == 0.5


def test_mfu_is_the_ideal_time_over_that_of_a_step_and_compilation_stays_in_the_rows(monkeypatch):
  watch = metrics_log.Stopwatch(examples_per_device=7.0, ideal_step_seconds=1.4)
  watch.compile_seconds = 60.0
  for _ in range(2):
    row = row_of_four_steps(monkeypatch, watch)
    assert row['time/mfu'] == pytest.approx(1.4 / 3.5)
    assert row['time/compile_seconds'] == 60.0
