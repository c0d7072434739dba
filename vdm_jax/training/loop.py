"""The training loop: the same call starts a run, resumes it after any interruption, and finishes it."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vdm_jax import partitioning, runtime
from vdm_jax.checkpoints import Checkpointer
from vdm_jax.models import Model
from vdm_jax.training import metrics, metrics_log, nonfinite, optimizer, run_folder, state
from vdm_jax.training.step import MAX_SKIPPED, jit_train_step, make_heldout_loss
from vdm_jax.types import Batch, Params

# Steps dispatched before the loop waits for the oldest: enough to hide the host, few enough for CPU
# collectives.
IN_FLIGHT = 2
PROGRESS_SECONDS = 10.0
# What asks a run to stop: schedulers, a person, SLURM before its time limit.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

# For the slowest process's compiler.
COMPILE_SECONDS = 3600.0
# What stands between steps (compiling, saving, sampling, measuring) may take this long, or training.stall_seconds.
PAUSE_SECONDS = 3600.0
SLOW = 'The same command resumes from the last checkpoint. Where a step may take so long, raise training.stall_seconds.'

Advance = Callable[[state.TrainState, Batch], tuple[state.TrainState, Any]]
Preview = Callable[[Params, int], None]
OnRow = Callable[[Mapping[str, float | None]], None]


def train(
  model: Model,
  config: Any,
  workdir: str | Path,
  *,
  mesh: Mesh,
  batches: Callable[[int], Iterator[Batch]],
  heldout: Sequence[Batch] | None = None,
  preview: Preview | None = None,
  on_row: OnRow | None = None,
  starting_point: Callable[[Params], Params] | None = None,
  ideal_step_seconds: float | None = None,
) -> state.TrainState:
  """Trains to `config.training.num_steps`, resuming from the newest good checkpoint of the workdir.

  On SIGTERM, SIGINT or SIGUSR1 it finishes the step, saves and returns early: compare the returned state's `step`. Of
  several processes any may be told; all stop after the same step. The held-out loss and preview due after it are made
  first thing on resuming.

  Args:
    model: from `models.build(config.model)`.
    config: ConfigDict with the sections `training`, `data` (for `batch_size`) and `seed`.
    workdir: the run's folder; made if absent.
    mesh: from `partitioning.make_mesh`.
    batches: start step -> iterator of this process's numpy batches, the first being that of the start step.
    heldout: numpy batches whose loss under the EMA is logged every `heldout_every` steps.
    preview: called with the EMA parameters and the step every `preview_every` steps; it must not keep them.
    on_row: called with every row of metrics.jsonl.
    starting_point: what a new run makes of its fresh parameters, such as `first_stage.starting_point`.
    ideal_step_seconds: what a step's model FLOPs take at the devices' published peak, for `time/mfu`; None: not known.

  Raises:
    ValueError: the batch does not split over the mesh, the workdir belongs to another configuration, or none
      of its checkpoints is good.
    run_folder.InUse: another job holds the workdir.
    FloatingPointError: MAX_SKIPPED steps in a row were not finite; the last can be done again with `nonfinite.replay`.
    nonfinite.Damaged: a step was not finite because the state was not; it is not saved.

  Ends the process, and all others of a company, where a step has not ended after `training.stall_seconds`; see
  `runtime.watched`.
  """
  training = config.training
  partitioning.check_batch(config.data.batch_size, mesh, training.accumulation_steps)
  rule = optimizer.build(training, model.logical_axes, model.decay_mask)
  path = run_folder.prepare(workdir)
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(run_folder.lock(path))
      run_folder.sweep(path)
      run_folder.check_same_run(path, config)
      run_folder.write_config(path, config)
      run_folder.write_environment(path)
    checkpointer = stack.enter_context(Checkpointer(path, training.keep_checkpoints))
    layout = state.abstract(model, rule, mesh)
    start = checkpointer.restore(layout, state.ADDED)
    metrics_log.say(f'{path}: ' + ('a new run' if start is None else f'resuming at step {int(start.step)}'))
    start = state.create(model, rule, mesh, config.seed, starting_point) if start is None else start
    stack.enter_context(jax.set_mesh(mesh))
    writer = metrics_log.Rows(path, resumed=int(start.step), tensorboard=training.tensorboard)
    stack.callback(writer.close)
    examples = config.data.batch_size / mesh.size
    note = stack.enter_context(runtime.watched(training.stall_seconds, SLOW))
    recorder = _Recorder(training, writer, on_row, metrics_log.Stopwatch(examples, ideal_step_seconds), note)
    heldout_loss = make_heldout_loss(model, training, heldout, mesh) if heldout else None
    step = jit_train_step(model, rule, training, mesh, layout)
    source = stack.enter_context(_closing(batches(int(start.step))))
    stop = stack.enter_context(_stop_requested())
    key = jax.device_put(jax.random.key(config.seed), partitioning.replicated(mesh))

    def compile_step(current: state.TrainState, batch: Batch) -> Advance:
      compiled = step.lower(current, partitioning.put_batch(batch, mesh), key).compile()
      # Nobody starts before all can: collectives wait for a slower compiler no longer than half a minute on CPU.
      runtime.exchange('compiled', True, seconds=COMPILE_SECONDS)
      return lambda current, batch: compiled(current, partitioning.put_batch(batch, mesh), key)

    guard = _Guard(path, config, model, mesh)
    extras = _Extras(path, training, recorder, heldout_loss, preview)
    extras.make_up(start)
    return _run(start, compile_step, source, training, recorder, checkpointer, extras, stop, guard)


def _run(
  current: state.TrainState,
  compile_step: Callable[[state.TrainState, Batch], Advance],
  source: Iterator[Batch],
  training: Any,
  recorder: _Recorder,
  checkpointer: Checkpointer,
  extras: _Extras,
  stop: Callable[[int], bool],
  guard: _Guard,
) -> state.TrainState:
  first = int(current.step) + 1
  if first > training.num_steps:
    metrics_log.say(f'nothing to do: training.num_steps={training.num_steps} are done. Raise it to train on.')
  try:
    for step in range(first, training.num_steps + 1):
      batch = recorder.next_batch(source, step)
      if step == first:
        with recorder.compiling():
          advance = compile_step(current, batch)
      recorder.note(f'handing step {step} to the devices')
      current, measured = advance(current, batch)
      recorder.push(step, batch, measured)
      recorder.settle(IN_FLIGHT)
      guard.look(recorder, current)

      stopping = stop(step)
      if stopping:  # saving comes first: the time that is granted is short
        extras.leave_out(step)
      else:
        extras.make(current.ema, step)
      if stopping or step == training.num_steps or _due(step, training.checkpoint_every):
        recorder.settle(0)  # the rows a checkpoint stands for are on disk before it
        guard.look(recorder, current)
        with recorder.paused(f'saving step {step}'):
          checkpointer.save(step, current)
      if stopping and step < training.num_steps:
        metrics_log.say(f'stopped at step {step}; the same command resumes.')
        break
    recorder.settle(0)
  except _NotFinite as end:
    recorder.note(f'keeping step {end.step} for a replay', PAUSE_SECONDS)
    folder = guard.keep(end, current)
    raise FloatingPointError(
      f'no loss or gradient of the {MAX_SKIPPED} steps up to step {end.step} was finite. {folder} holds the last of '
      f'them: --mode=replay --workdir={folder} does it again and names the first bad part. The same command goes on '
      'from the last checkpoint, but will end here again: use another --workdir with a lower training.learning_rate, a '
      "smaller training.clip_norm or model.dtype='float32', and check the data for NaN."
    ) from None
  with recorder.paused('finishing the last checkpoint'):
    checkpointer.wait()
  if int(current.step) == training.num_steps:
    extras.make_up(current)  # a signal came at the last step, and nobody will resume
  return current


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


class _Extras(NamedTuple):
  """What is made of the EMA between steps, and is no part of training: held-out losses and previews."""

  workdir: Path
  training: Any
  recorder: _Recorder
  heldout_loss: Callable[[Params], dict[str, float]] | None
  preview: Preview | None

  def make(self, ema: Params, step: int) -> None:
    """Makes what is due after a step whose row is not written yet."""
    if self._heldout_due(step):
      self.recorder.attach(step, self._measure(ema, step))
    if self._preview_due(step):
      self.recorder.settle(0)
      self._show(ema, step)

  def leave_out(self, step: int) -> None:
    """Notes that what is due after a step is yet to be made."""
    if self._heldout_due(step) or self._preview_due(step):
      run_folder.leave_out(self.workdir, step)

  def make_up(self, current: state.TrainState) -> None:
    """Makes what was left out after the step that the state is of, and adds it to its row."""
    step = int(current.step)
    if not run_folder.left_out(self.workdir, step):
      return
    if self._heldout_due(step):
      self.recorder.amend(step, self._measure(current.ema, step))
    if self._preview_due(step):
      self._show(current.ema, step)
    run_folder.made_up(self.workdir)

  def _heldout_due(self, step: int) -> bool:
    return self.heldout_loss is not None and _due(step, self.training.heldout_every)

  def _preview_due(self, step: int) -> bool:
    return self.preview is not None and _due(step, self.training.preview_every)

  def _measure(self, ema: Params, step: int) -> dict[str, float]:
    with self.recorder.paused(f'measuring the held-out loss after step {step}'):
      return self.heldout_loss(ema)

  def _show(self, ema: Params, step: int) -> None:
    with self.recorder.paused(f'making a preview after step {step}'):
      self.preview(ema, step)


class _NotFinite(Exception):
  """MAX_SKIPPED steps in a row, the last of them with this process's batch, were skipped."""

  def __init__(self, step: int, batch: Batch, measured: Any) -> None:
    self.step, self.batch, self.measured = step, batch, measured


class _Guard(NamedTuple):
  """What is done about steps that are not finite, beside skipping them."""

  workdir: Path
  config: Any
  model: Model
  mesh: Mesh

  def look(self, recorder: _Recorder, current: state.TrainState) -> None:
    """Raises Damaged where a step was not finite and the state is why: on every process, for all look at all of it."""
    if (step := recorder.not_finite) is None:
      return
    recorder.not_finite = None
    if found := nonfinite.damage(current, self.mesh):
      raise nonfinite.Damaged(
        f'step {step} was not finite because of {found[0]}. No step that was applied wrote that: the memory of a '
        'device or of its host has failed. This state is not saved; the same command goes on from the last '
        'checkpoint. If that ends so at once, move the newest folder of checkpoints/ away; if later, try without the '
        'machine that it ran on.'
      )

  def keep(self, end: _NotFinite, current: state.TrainState) -> Path:
    """Writes the bundle of the last step."""
    # Nothing but the counters has changed since the state that the last step was taken from.
    counters = {'step': end.step - 1, 'skipped_in_a_row': MAX_SKIPPED - 1}
    before = current._replace(**{name: jnp.full_like(current.step, value) for name, value in counters.items()})
    batch = partitioning.put_batch(end.batch, self.mesh)
    return nonfinite.write(self.workdir, self.config, self.model, self.mesh, before, batch, end.measured)


class _Recorder:
  """Steps in flight, and the rows they become when they finish."""

  def __init__(
    self,
    training: Any,
    writer: metrics_log.Rows,
    on_row: OnRow | None,
    watch: metrics_log.Stopwatch,
    note: Callable[..., None],
  ) -> None:
    self.note = note
    self.not_finite: int | None = None  # the last step that was not, for the guard
    self._training, self._writer, self._on_row, self._watch = training, writer, on_row, watch
    self._flight: collections.deque[tuple[int, Batch, Any]] = collections.deque()
    self._extra: dict[int, dict[str, float]] = {}
    self._spoke = time.monotonic()

  def next_batch(self, source: Iterator[Batch], step: int) -> Batch:
    self.note(f'waiting for the batch of step {step}')
    since = time.perf_counter()
    batch = next(source, None)
    self._watch.add('data', since)
    if batch is None:
      raise ValueError(f'the data ended before step {step}: training needs an endless iterator of batches.')
    return batch

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    self.note('compiling the training step', PAUSE_SECONDS)
    since = time.perf_counter()
    yield
    self._watch.compile_seconds = time.perf_counter() - since
    self._watch.reset()
    self._spoke = time.monotonic()
    metrics_log.say(f'compiled the training step in {self._watch.compile_seconds:.1f} s')

  @contextlib.contextmanager
  def paused(self, doing: str) -> Iterator[None]:
    self.note(doing, PAUSE_SECONDS)
    since = time.perf_counter()
    yield
    self._watch.add('pause', since)

  def push(self, step: int, batch: Batch, measured: Any) -> None:
    self._flight.append((step, batch, measured))

  def attach(self, step: int, values: dict[str, float]) -> None:
    """Adds values to the row of a step that is still in flight."""
    self._extra[step] = values

  def amend(self, step: int, values: dict[str, float]) -> None:
    """Adds values to the last row, if it is that of the step, else writes one."""
    self._writer.amend({'step': step} | values)
    if self._on_row:
      self._on_row({'step': step} | values)

  def settle(self, in_flight: int) -> None:
    """Waits until at most so many steps are unfinished; writes the rows of those that finished.

    Raises _NotFinite, after the row of the step at which it happens.
    """
    while len(self._flight) > in_flight:
      step, batch, measured = self._flight.popleft()
      self.note(f'waiting for the devices to finish step {step}')
      since = time.perf_counter()
      loss = jax.block_until_ready(measured['loss'])
      self._watch.add('device', since)
      self._watch.step()
      skipped = int(measured['skipped_in_a_row'])
      self.not_finite, dead = step if skipped else self.not_finite, skipped == MAX_SKIPPED
      logged = dead or step % self._training.log_every == 0 or step == self._training.num_steps
      if logged:
        self._log(step, measured['sums'])
      elif step in self._extra:
        self._write({'step': step} | self._extra.pop(step))
      if logged or time.monotonic() - self._spoke > PROGRESS_SECONDS:
        self._speak(step, loss)
      if logged:
        self._watch.reset()
      if dead:
        raise _NotFinite(step, batch, measured)

  def _log(self, step: int, sums: Any) -> None:
    row = metrics.row(jax.device_get(sums))
    self._write({'step': step} | row | self._extra.pop(step, {}) | self._watch.row() | metrics_log.memory())

  def _write(self, row: dict[str, float | None]) -> None:
    self._writer.write(row)
    if self._on_row:
      self._on_row(row)

  def _speak(self, step: int, loss: jax.Array) -> None:
    metrics_log.say(metrics_log.progress(step, self._training.num_steps, float(loss), self._watch.rate()))
    self._spoke = time.monotonic()


@contextlib.contextmanager
def _closing(source: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
  """Closes the data's workers at the end, where the iterator has any."""
  try:
    yield source
  finally:
    if hasattr(source, 'close'):
      source.close()


@contextlib.contextmanager
def _stop_requested() -> Iterator[Callable[[int], bool]]:
  """A function of the step that says whether a signal asked to stop; the same answer on every process.

  With several processes JAX watches for SIGTERM and agrees on the step; the other signals become that one. A second
  SIGINT ends at once.
  """
  together = jax.process_count() > 1
  received: list[int] = []

  def handle(number: int, frame: Any) -> None:
    if number == signal.SIGINT and number in received:
      raise KeyboardInterrupt
    received.append(number)
    if together:
      os.kill(os.getpid(), signal.SIGTERM)

  previous = {}
  with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
    for number in STOPPING:
      if not (together and number == signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
  try:
    yield multihost_utils.reached_preemption_sync_point if together else lambda step: bool(received)
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
