"""Logs of a run: metrics.jsonl, TensorBoard events, and status lines on standard error."""

from __future__ import annotations

import contextlib
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


class MetricsWriter:
  """Appends rows to `workdir/metrics.jsonl` and, if requested, TensorBoard events; only on process 0.

  Rows after the step at which a run resumes are dropped; they will be rewritten.
  """

  def __init__(self, workdir: Path, *, resumed: int, tensorboard: bool):
    """Open the files. Raises ModuleNotFoundError if `tensorboard` is set and tensorboardX is not installed."""
    self._file = self._events = None
    if jax.process_index() == 0:
      self._events = _open_events(workdir, resumed) if tensorboard else None
      self._path = workdir / 'metrics.jsonl'
      _drop_rows_after(self._path, resumed)
      self._file = open(self._path, 'a')  # noqa: SIM115 (closed in close)

  def write(self, row: Mapping[str, Any]) -> None:
    """Write a row; `row['step']` is its step. None and numbers that are not finite become null."""
    if self._file is None:
      return
    values = _finite(row)
    self._file.write(json.dumps(values) + '\n')
    self._file.flush()
    self._write_events(values)

  def amend(self, row: Mapping[str, Any]) -> None:
    """Add values to the last row if it has the same step; otherwise write a new row."""
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
    """Flush and close the files."""
    for file in (self._file, self._events):
      if file is not None:
        file.close()


class Stopwatch:
  """Wall time of a window of steps: waiting for data, waiting for the devices, pauses, and the host's rest.

  A step takes the time from the end of the step before it to its own, however late the host hears of them.
  """

  def __init__(self, examples_per_device: float, ideal_step_seconds: float | None = None) -> None:
    """Start a window.

    Args:
      examples_per_device: examples per step and device.
      ideal_step_seconds: seconds of a step at the devices' published peak; None: not known.
    """
    self.compile_seconds: float | None = None
    self._examples, self._ideal = examples_per_device, ideal_step_seconds
    self.reset()

  def reset(self) -> None:
    """Start a new window now."""
    self._finished = time.perf_counter()
    self.start_window()

  def start_window(self) -> None:
    """Start a new window after the last finished step."""
    self._wall, self._steps = 0.0, 0
    self._spent = {'data': 0.0, 'device': 0.0, 'pause': 0.0}

  def step(self, finished: float, *, data: float = 0.0, device: float = 0.0, pause: float = 0.0) -> None:
    """Count a finished step.

    Args:
      finished: when it finished, as `time.perf_counter` counts.
      data: seconds for which the host waited for its batch.
      device: seconds for which the host waited for the devices to finish it.
      pause: seconds of other work between the step before it and this one.
    """
    self._wall, self._finished, self._steps = self._wall + finished - self._finished, finished, self._steps + 1
    for kind, seconds in (('data', data), ('device', device), ('pause', pause)):
      self._spent[kind] += seconds

  def rate(self) -> float:
    """Return steps per second of this window without pauses (compilation, checkpoints, previews, held-out loss)."""
    return self._steps / max(self._wall - self._spent['pause'], 1e-9)

  def row(self) -> dict[str, float | None]:
    """Return the `time/...` values of the window.

    Per step and without pauses: seconds in total and of each kind, the rate, the share of time spent waiting for data,
    and model FLOPs utilization (`mfu`, None if not known). Also the seconds of pauses and of compilation.
    """
    rate, wall, steps = self.rate(), self._wall, max(self._steps, 1)
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


def last_compile_seconds(workdir: Path) -> float | None:
  """Return how long compiling took when the run last started, from its last row; None if it is not known."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
    return float(json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])['time/compile_seconds'])
  return None


def memory() -> dict[str, float]:
  """Return the peak memory in bytes of this process and, if its runtime reports it, of the first device."""
  scale = 1 if sys.platform == 'darwin' else 1024
  row = {'memory/host_peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale}
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    row['memory/device_peak_bytes'] = stats['peak_bytes_in_use']
  return row


def print_status(message: str) -> None:
  """Print a line on standard error, only on process 0."""
  if jax.process_index() == 0:
    print(message, file=sys.stderr, flush=True)


def progress_line(step: int, num_steps: int, loss: float, rate: float) -> str:
  """Return a line of progress.

  >>> progress_line(120, 1000, 0.12341, 9.87)
  'step 120/1000  loss 0.1234  9.87 steps/s  1:29 left'
  """
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


def _drop_rows_after(path: Path, step: int) -> None:
  """Drop rows after `step`, and a last line that a killed job wrote only in part."""
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
