"""The recorder of a run: steps in flight on the devices, and the rows of metrics they become."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import jax

from vdm_jax.runtime import progress
from vdm_jax.training import metrics, metrics_log
from vdm_jax.training.step import MAX_SKIPPED
from vdm_jax.types import Batch

PROGRESS_SECONDS = 4.0
# Bound on work between steps (compilation, checkpoints, previews), unless training.stall_seconds is longer.
PAUSE_SECONDS = 3600.0

OnRow = Callable[[Mapping[str, float | None]], None]


class TooManySkipped(Exception):
  """MAX_SKIPPED consecutive steps were not finite; `batch` is this process's part of the last one's."""

  def __init__(self, step: int, batch: Batch, measured: Any) -> None:
    self.step, self.batch, self.measured = step, batch, measured


@dataclasses.dataclass
class _InFlight:
  """A step that was dispatched to the devices."""

  step: int
  batch: Batch
  measured: Any
  data_seconds: float  # waiting for the batch
  pause_seconds: float  # of other work before it
  device_seconds: float = 0.0  # waiting for the devices
  end: futures.Future[float] = dataclasses.field(default_factory=futures.Future)  # when it finished


def _note_ends(dispatched: queue.SimpleQueue[_InFlight | None]) -> None:
  """Note when steps finish: the host, at work on later ones, would hear of it late."""
  while (step := dispatched.get()) is not None:
    try:
      jax.block_until_ready(step.measured['loss'])
      step.end.set_result(time.perf_counter())
    except Exception as error:  # raised where the step is waited for
      step.end.set_exception(error)


class Recorder:
  """Steps in flight, and the rows they become when they finish."""

  def __init__(
    self,
    training: Any,
    writer: metrics_log.MetricsWriter,
    on_row: OnRow | None,
    watch: metrics_log.Stopwatch,
    note: Callable[..., None],
  ) -> None:
    """Record steps.

    Args:
      training: the configuration's section.
      writer: writes the rows.
      on_row: called with every row, too.
      watch: measures the wall time.
      note: tells the hang detection what comes next: `note(what, at_least=0)`, see `runtime.detect_hangs`.
    """
    self.note = note
    self.not_finite: int | None = None  # the last step that was not finite, until the guard has looked
    self._training, self._writer, self._on_row, self._watch = training, writer, on_row, watch
    self._flight: collections.deque[_InFlight] = collections.deque()
    self._data_seconds = self._pause_seconds = 0.0
    self._dispatched: queue.SimpleQueue[_InFlight | None] = queue.SimpleQueue()
    threading.Thread(target=_note_ends, args=(self._dispatched,), daemon=True).start()
    self._extra: dict[int, dict[str, float]] = {}
    self._last_progress = time.monotonic()

  def close(self) -> None:
    """End the thread that notes when steps finish."""
    self._dispatched.put(None)

  def next_batch(self, source: Iterator[Batch], step: int) -> Batch:
    """Return the batch of a step. Raises ValueError if the iterator ends."""
    self.note(f'waiting for the batch of step {step}')
    since = time.perf_counter()
    batch = next(source, None)
    self._data_seconds = time.perf_counter() - since
    if batch is None:
      raise ValueError(f'batches ended before step {step}: training needs an endless iterator.')
    return batch

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Measure the compilation of the training step."""
    self.note('compiling the training step', PAUSE_SECONDS)
    usual = self._watch.compile_seconds
    known = '' if usual is None else f' ({progress.clock(usual)} the last time)'
    metrics_log.print_status(f'compiling the training step{known}...')
    progress.note('compiling the training step', usual)
    since = time.perf_counter()
    yield
    self._watch.compile_seconds = time.perf_counter() - since
    self._watch.reset()
    self._last_progress = time.monotonic()
    metrics_log.print_status(f'compiled the training step in {self._watch.compile_seconds:.1f} s')

  @contextlib.contextmanager
  def paused(self, doing: str) -> Iterator[None]:
    """Keep work between steps out of the steps' time; it begins when those in flight are finished."""
    for step in self._flight:
      self._wait(step)
    self.note(doing, PAUSE_SECONDS)
    since = time.perf_counter()
    yield
    self._pause_seconds += time.perf_counter() - since

  def push(self, step: int, batch: Batch, measured: Any) -> None:
    """Add a step that was dispatched to the devices."""
    self._flight.append(_InFlight(step, batch, measured, self._data_seconds, self._pause_seconds))
    self._pause_seconds = 0.0
    self._dispatched.put(self._flight[-1])

  def attach(self, step: int, values: dict[str, float]) -> None:
    """Add values to the row of a step that is still in flight."""
    self._extra[step] = values

  def amend(self, step: int, values: dict[str, float]) -> None:
    """Add values to the last row if it belongs to the step; otherwise write a new row."""
    self._writer.amend({'step': step} | values)
    if self._on_row:
      self._on_row({'step': step} | values)

  def settle(self, in_flight: int) -> None:
    """Wait until at most `in_flight` steps are unfinished, and write the rows of those that finished.

    Raises:
      TooManySkipped: after the row of the step at which it happens.
    """
    while len(self._flight) > in_flight:
      self._wait(done := self._flight.popleft())
      step, measured = done.step, done.measured
      waits = {'data': done.data_seconds, 'device': done.device_seconds, 'pause': done.pause_seconds}
      self._watch.step(done.end.result(), **waits)
      skipped = int(measured['skipped_in_a_row'])
      self.not_finite, ended = step if skipped else self.not_finite, skipped == MAX_SKIPPED
      logged = ended or step % self._training.log_every == 0 or step == self._training.num_steps
      if logged:
        self._log(step, measured['sums'])
      elif step in self._extra:
        self._write({'step': step} | self._extra.pop(step))
      if logged or time.monotonic() - self._last_progress > PROGRESS_SECONDS:
        self._print_progress(step, measured['loss'])
      if logged:
        self._watch.start_window()
      if ended:
        raise TooManySkipped(step, done.batch, measured)

  def _wait(self, step: _InFlight) -> None:
    """Wait for the devices to finish a step."""
    self.note(f'waiting for the devices to finish step {step.step}')
    since = time.perf_counter()
    step.end.result()
    step.device_seconds += time.perf_counter() - since

  def _log(self, step: int, sums: Any) -> None:
    row = metrics.row(jax.device_get(sums))
    self._write({'step': step} | row | self._extra.pop(step, {}) | self._watch.row() | metrics_log.memory())

  def _write(self, row: dict[str, float | None]) -> None:
    self._writer.write(row)
    if self._on_row:
      self._on_row(row)

  def _print_progress(self, step: int, loss: jax.Array) -> None:
    line = metrics_log.progress_line(step, self._training.num_steps, float(loss), self._watch.rate())
    metrics_log.print_status(line)
    self._last_progress = time.monotonic()
