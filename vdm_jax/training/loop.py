"""The training loop: the same call starts a run, resumes it after any interruption, and finishes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from vdm_jax import partitioning, runtime
from vdm_jax.checkpoints import Checkpointer
from vdm_jax.errors import ExitStatus
from vdm_jax.models import Model
from vdm_jax.runtime import progress, shutdown
from vdm_jax.training import metrics_log, nonfinite, run_folder, run_lock, state
from vdm_jax.training.metrics_log import print_status
from vdm_jax.training.optimizer import Constructor, Optimizer, build
from vdm_jax.training.periodic import Periodic, Preview, is_due
from vdm_jax.training.recorder import PAUSE_SECONDS, OnRow, Recorder, TooManySkipped
from vdm_jax.training.step import jit_train_step, make_heldout_loss
from vdm_jax.types import Batch, Params

# Steps dispatched before the loop waits for the oldest: enough to hide the host, few enough for CPU collectives.
IN_FLIGHT = 2
# Compilation timeout (slowest process).
COMPILE_SECONDS = 3600.0
STALLED = (
  'The same command resumes from the last checkpoint. If a step may take this long, raise training.stall_seconds.'
)

Advance = Callable[[state.TrainState, Batch], tuple[state.TrainState, Any]]


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
  optimizer: Constructor | optax.GradientTransformation | None = None,
  schedule: optax.Schedule | None = None,
  allow_change: bool = False,
  ideal_step_seconds: float | None = None,
) -> state.TrainState:
  """Train to `config.training.num_steps`, resuming from the newest good checkpoint of the workdir.

  SIGTERM, SIGINT or SIGUSR1 to any process makes all finish the step, save and return early: compare the returned
  state's `step`. The held-out loss and preview due at that step follow on resuming. A hang ends the process, and all
  others of its group, after `training.stall_seconds`; see `runtime.detect_hangs`.

  Args:
    model: from `models.build(config.model)`.
    config: ConfigDict with the sections `training`, `data` (for `batch_size`) and `seed`.
    workdir: the run's folder; created if absent.
    mesh: from `partitioning.make_mesh`.
    batches: start step -> iterator of this process's numpy batches, the first being that of the start step.
    heldout: numpy batches whose loss under the EMA is logged every `heldout_every` steps.
    preview: called with the EMA parameters and the step every `preview_every` steps; it must not keep them.
    on_row: called with every row of metrics.jsonl.
    starting_point: fresh parameters -> initial parameters of a new run, such as `first_stage.starting_point`.
    optimizer, schedule: for `training.optimizer` or `training.schedule` 'custom', see `training.optimizer.build`.
    allow_change: whether settings may differ from those of the run that continue the same model differently, such as
      the learning rate; see `configuration.Change`.
    ideal_step_seconds: a step's model FLOPs at the devices' published peak, for `time/mfu`; None: not known.

  Raises:
    ValueError: invalid settings, a workdir of another configuration, or no good checkpoint among those it has.
    InUse: another job holds the workdir.
    FloatingPointError: MAX_SKIPPED consecutive steps were not finite; `replay` repeats the last.
    Damaged: a step was not finite because the state was not; it is not saved.

  >>> import tempfile
  >>> from vdm_jax.training.example import tiny
  >>> model, config, batches = tiny(num_steps=2)
  >>> with tempfile.TemporaryDirectory() as workdir:
  ...   end = train(model, config, workdir, mesh=partitioning.make_mesh(config.mesh), batches=batches)
  >>> int(end.step)
  2
  """
  partitioning.check_batch(config.data.batch_size, mesh, config.training.accumulation_steps)
  rule = build(config.training, model.logical_axes, model.decay_mask, optimizer=optimizer, schedule=schedule)
  inputs = _Inputs(
    model, config, mesh, rule, batches, heldout, preview, on_row, starting_point, allow_change, ideal_step_seconds
  )
  path = run_folder.prepare(workdir)
  with contextlib.ExitStack() as stack:
    return inputs.run(path, stack)


class _Inputs(NamedTuple):
  """The arguments of `train`, checked."""

  model: Model
  config: Any
  mesh: Mesh
  rule: Optimizer
  batches: Callable[[int], Iterator[Batch]]
  heldout: Sequence[Batch] | None
  preview: Preview | None
  on_row: OnRow | None
  starting_point: Callable[[Params], Params] | None
  allow_change: bool
  ideal_step_seconds: float | None

  def run(self, path: Path, stack: contextlib.ExitStack) -> state.TrainState:
    """Train; whatever is opened is closed with the stack."""
    model, config, mesh, training = self.model, self.config, self.mesh, self.config.training
    stack.enter_context(progress.phase('training'))  # until all else is closed
    stopping = runtime.stop_requested()
    # Alone, the process may end at a signal until there is something to save; together, it must tell the others.
    stop = stack.enter_context(stopping) if jax.process_count() > 1 else None
    changed = []
    if jax.process_index() == 0:
      stack.enter_context(run_lock.hold(path))
      run_folder.sweep(path)
      changed = run_folder.check_same_run(path, config, allow_change=self.allow_change)
    checkpointer = stack.enter_context(Checkpointer(path, training.keep_checkpoints))
    layout = state.abstract(model, self.rule, mesh)
    progress.note('reading the newest checkpoint')
    start = checkpointer.restore(layout, state.ADDED)
    print_status(f'{path}: ' + ('a new run' if start is None else f'resuming at step {int(start.step)}'))
    if jax.process_index() == 0:  # not before: a checkpoint that does not fit must not change the run
      run_folder.claim(path, config, None if start is None else int(start.step), changed)
    progress.note('initializing the parameters')
    start = state.create(model, self.rule, mesh, config.seed, self.starting_point) if start is None else start
    stack.enter_context(jax.set_mesh(mesh))
    recorder = self._recorder(path, int(start.step), stack)
    heldout_loss = make_heldout_loss(model, training, self.heldout, mesh) if self.heldout else None
    step = jit_train_step(model, self.rule, training, mesh, layout)
    source = stack.enter_context(_closing(self.batches(int(start.step))))
    stop = stop or stack.enter_context(stopping)
    key = jax.device_put(jax.random.key(config.seed), partitioning.replicated(mesh))

    def compile_step(current: state.TrainState, batch: Batch) -> Advance:
      lowered = step.lower(current, partitioning.put_batch(batch, mesh), key)

      def compile_together() -> Any:
        compiled = lowered.compile()
        # All processes start together: on CPU, collectives wait half a minute at most for a slower compiler.
        runtime.exchange('compiled', True, seconds=COMPILE_SECONDS)
        return compiled

      compiled = stop.interruptible(compile_together)
      stop.return_sigterm()
      return lambda current, batch: compiled(current, partitioning.put_batch(batch, mesh), key)

    periodic = Periodic(path, training, recorder, heldout_loss, self.preview, stop)
    guard = nonfinite.Guard(path, config, model, mesh)
    periodic.catch_up(start)
    if stop.received and jax.process_count() == 1:
      return start
    return _Loop(compile_step, source, training, recorder, checkpointer, periodic, stop, guard).run(start)

  def _recorder(self, path: Path, step: int, stack: contextlib.ExitStack) -> Recorder:
    training = self.config.training
    writer = metrics_log.MetricsWriter(path, resumed=step, tensorboard=training.tensorboard)
    stack.callback(writer.close)
    watched = stack.enter_context(runtime.detect_hangs(training.stall_seconds, STALLED))

    def note(what: str, at_least: float = 0.0) -> None:
      watched(what, at_least)
      progress.note(what)

    watch = metrics_log.Stopwatch(self.config.data.batch_size / self.mesh.size, self.ideal_step_seconds)
    watch.compile_seconds = metrics_log.last_compile_seconds(path)
    recorder = Recorder(training, writer, self.on_row, watch, note)
    stack.callback(recorder.close)
    return recorder


class _Loop(NamedTuple):
  compile_step: Callable[[state.TrainState, Batch], Advance]
  source: Iterator[Batch]
  training: Any
  recorder: Recorder
  checkpointer: Checkpointer
  periodic: Periodic
  stop_requested: runtime.Stop
  guard: nonfinite.Guard

  def run(self, current: state.TrainState) -> state.TrainState:
    """Take the steps that remain; return the state after the last one, which is saved."""
    training, recorder = self.training, self.recorder
    first = int(current.step) + 1
    if first > training.num_steps:
      print_status(f'already at training.num_steps={training.num_steps}: raise it to train further.')
    try:
      for step in range(first, training.num_steps + 1):
        batch = recorder.next_batch(self.source, step)
        if step == first:
          try:
            with recorder.compiling():
              advance = self.compile_step(current, batch)
          except runtime.Stopped:
            return self._stopped_before(step, current)
        recorder.note(f'handing step {step} to the devices')
        current, measured = advance(current, batch)
        recorder.push(step, batch, measured)
        recorder.settle(IN_FLIGHT)
        self._check(current)
        stopping = self.stop_requested(step)
        if not stopping:
          stopping = not self.periodic.run(current.ema, step)
        if stopping:  # saving comes first: schedulers grant little time
          self.periodic.postpone(step)
        if stopping or step == training.num_steps or is_due(step, training.checkpoint_every):
          self._save(step, current)
        if stopping and step < training.num_steps:
          print_status(f'stopped at step {step}; the same command resumes.')
          break
      recorder.settle(0)
    except TooManySkipped as end:
      recorder.note(f'saving step {end.step} for a replay', PAUSE_SECONDS)
      raise self.guard.give_up(end.step, end.batch, end.measured, current) from None
    with recorder.paused('finishing the last checkpoint'):
      self.checkpointer.wait()
    progress.note('closing the data')
    if int(current.step) == training.num_steps:
      self.stop_requested.received.clear()  # only another signal ends what is left
      self.periodic.catch_up(current)  # a signal came at the last step, and nobody will resume
    return current

  def _stopped_before(self, step: int, current: state.TrainState) -> state.TrainState:
    """Return the state as it is, which its checkpoint holds; several processes all end here."""
    progress.note('closing the data')
    message = f'stopped while compiling, before step {step}; the same command resumes.'
    if jax.process_count() > 1:
      shutdown.end_all(ExitStatus.STOPPED, message)
    print_status(message)
    return current

  def _save(self, step: int, current: state.TrainState) -> None:
    self.recorder.settle(0)  # all rows up to a checkpoint are on disk before it
    self._check(current)
    with self.recorder.paused(f'saving step {step}'):
      self.checkpointer.save(step, current)

  def _check(self, current: state.TrainState) -> None:
    """Raise Damaged if a step was not finite because of the state. Every process checks all of it."""
    if self.recorder.not_finite is not None:
      step, self.recorder.not_finite = self.recorder.not_finite, None
      self.guard.check_state(step, current)


@contextlib.contextmanager
def _closing(source: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
  """Close the data's workers at the end, if the iterator has any."""
  try:
    yield source
  finally:
    if hasattr(source, 'close'):
      source.close()
