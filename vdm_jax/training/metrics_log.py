"""The record of a run: metrics.jsonl, TensorBoard events, and a line of progress on standard error."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from vdm_jax.runtime.atomic_files import write_text


class Rows:
  """Appends rows to `workdir/metrics.jsonl` and, if asked, to TensorBoard events; on process 0 alone.

  Rows after the step a run resumes from are cut, for they come again.
  """

  def __init__(self, workdir: Path, *, resumed: int, tensorboard: bool):
    """Raises ModuleNotFoundError when `tensorboard` is asked for and tensorboardX is not installed."""
    self._file = self._events = None
    if jax.process_index() == 0:
      self._events = _open_events(workdir, resumed) if tensorboard else None
      self._path = workdir / 'metrics.jsonl'
      _cut(self._path, resumed)
      self._file = open(self._path, 'a')  # noqa: SIM115 (closed in close)

  def write(self, row: Mapping[str, Any]) -> None:
    """One row; `row['step']` is its step, and numbers that are not finite become null, as None does."""
    if self._file is None:
      return
    values = _finite(row)
    self._file.write(json.dumps(values) + '\n')
    self._file.flush()
    self._write_events(values)

  def amend(self, row: Mapping[str, Any]) -> None:
    """Writes a row whose step may be that of the last one, which it is then added to."""
    if self._file is None:
      return
    lines = self._path.read_text().splitlines()
    if not lines or _step(lines[-1]) != row['step']:
      self.write(row)
      return
    values = _finite(row)
    self._file.close()
    lines[-1] = json.dumps(json.loads(lines[-1]) | values)
    write_text(self._path, ''.join(f'{line}\n' for line in lines))
    self._file = open(self._path, 'a')  # noqa: SIM115 (closed in close)
    self._write_events(values)

  def _write_events(self, values: Mapping[str, Any]) -> None:
    if self._events is not None:
      for key, value in values.items():
        if key != 'step' and value is not None:
          self._events.add_scalar(key, value, values['step'])

  def close(self) -> None:
    """Flushes and closes the files."""
    for file in (self._file, self._events):
      if file is not None:
        file.close()


class Stopwatch:
  """Where the wall time of a window of steps goes: `data`, `device` (waiting for it) and `host`, the rest."""

  def __init__(self, examples_per_device: float, ideal_step_seconds: float | None = None) -> None:
    """`examples_per_device` a step; `ideal_step_seconds` is its time at the published peak, None where not known."""
    self.compile_seconds: float | None = None
    self._examples, self._ideal = examples_per_device, ideal_step_seconds
    self.reset()

  def reset(self) -> None:
    """Starts a window."""
    self._start = time.perf_counter()
    self._spent = {'data': 0.0, 'device': 0.0, 'pause': 0.0}
    self._steps = 0

  def step(self) -> None:
    """Counts a finished step."""
    self._steps += 1

  def add(self, kind: str, since: float) -> None:
    """Adds the time since `since` (of `time.perf_counter`) to 'data', 'device' or 'pause'."""
    self._spent[kind] += time.perf_counter() - since

  def rate(self) -> float:
    """Steps per second of this window, without pauses: compilation, checkpoints, previews, held-out loss."""
    return self._steps / max(time.perf_counter() - self._start - self._spent['pause'], 1e-9)

  def row(self) -> dict[str, float | None]:
    """`time/...` keys: of a step, pauses left out, its seconds in all and of each kind, what share of them waits for
    data, the rate, the share of the published peak (`mfu`, None where not known); the window's pauses; the compilation.
    """
    rate, wall, steps = self.rate(), time.perf_counter() - self._start, max(self._steps, 1)
    working = max(wall - self._spent['pause'], 1e-9)
    return {
      'time/steps_per_second': rate,
      'time/step_seconds': working / steps,
      'time/samples_per_second_per_device': rate * self._examples,
      'time/mfu': None if self._ideal is None else rate * self._ideal,
      'time/data_wait': self._spent['data'] / working,
      'time/data_seconds': self._spent['data'] / steps,
      'time/device_seconds': self._spent['device'] / steps,
      'time/host_seconds': max(wall - sum(self._spent.values()), 0.0) / steps,
      'time/pause_seconds': self._spent['pause'],
      'time/compile_seconds': self.compile_seconds,
    }


def memory() -> dict[str, float]:
  """`memory/...` keys: the process's peak, and the first device's where its runtime tells."""
  scale = 1 if sys.platform == 'darwin' else 1024
  row = {'memory/host_peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    row['memory/device_peak_bytes'] = stats['peak_bytes_in_use']
  return row


def say(message: str) -> None:
  """A line on standard error, from process 0 alone."""
  if jax.process_index() == 0:
    print(message, file=sys.stderr, flush=True)


def progress(step: int, num_steps: int, loss: float, rate: float) -> str:
  """`step 120/1000  loss 0.1234  9.87 steps/s  1:29 left`."""
  left = round((num_steps - step) / max(rate, 1e-9))
  hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
  clock = f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
  return f'step {step}/{num_steps}  loss {loss:.4f}  {rate:.2f} steps/s  {clock} left'


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value if value is not None and math.isfinite(value) else None for key, value in row.items()}


def _open_events(workdir: Path, resumed: int) -> Any:
  try:
    from tensorboardX import SummaryWriter
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      'training.tensorboard=True needs tensorboardX: pip install tensorboardX, or set it to False '
      '(metrics.jsonl holds the same numbers).'
    ) from error
  return SummaryWriter(str(workdir / 'tensorboard'), purge_step=resumed + 1)


def _cut(path: Path, step: int) -> None:
  """Drops rows after `step`, and a line that a killed job left half written."""
  if not path.exists():
    return
  lines = path.read_text().splitlines()
  kept = [line for line in lines if _step(line) <= step]
  if kept != lines or (lines and not path.read_text().endswith('\n')):
    write_text(path, ''.join(f'{line}\n' for line in kept))


def _step(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    return math.inf
