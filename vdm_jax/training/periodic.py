"""Held-out losses and previews: what a run computes from the EMA between steps."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from vdm_jax import runtime
from vdm_jax.training import run_folder
from vdm_jax.training.recorder import Recorder
from vdm_jax.training.state import TrainState
from vdm_jax.types import Params

T = TypeVar('T')

POSTPONED = 'left_out.json'

Preview = Callable[[Params, int], None]


def is_due(step: int, every: int) -> bool:
  """Return whether something is due after a step; `every` 0: never."""
  return every > 0 and step % every == 0


class Periodic(NamedTuple):
  """Held-out losses and previews of a run.

  Those due at the step at which a signal stops the run are postponed, because schedulers grant little time to save;
  `workdir/left_out.json` notes the step, and the next start catches up.
  """

  workdir: Path
  training: Any
  recorder: Recorder
  heldout_loss: Callable[[Params], dict[str, float]] | None
  preview: Preview | None
  stop: runtime.Stop

  def run(self, ema: Params, step: int) -> bool:
    """Compute what is due after a step whose row is not written yet; return False if a signal asks to stop first."""
    try:
      if self._heldout_due(step):
        self.recorder.attach(step, self._measure(ema, step))
      if self._preview_due(step):
        self.recorder.settle(0)
        self._show(ema, step)
    except runtime.Stopped:
      return False
    return True

  def postpone(self, step: int) -> None:
    """Note that what is due after a step is still missing."""
    if (self._heldout_due(step) or self._preview_due(step)) and jax.process_index() == 0:
      run_folder.write_json(self.workdir / POSTPONED, {'step': step})

  def catch_up(self, current: TrainState) -> None:
    """Compute what was postponed at the step of this state, and add it to the step's row."""
    step = int(current.step)
    if not self._postponed(step):
      return
    try:
      if self._heldout_due(step):
        self.recorder.amend(step, self._measure(current.ema, step))
      if self._preview_due(step):
        self._show(current.ema, step)
    except runtime.Stopped:
      return
    if jax.process_index() == 0:
      (self.workdir / POSTPONED).unlink(missing_ok=True)

  def _postponed(self, step: int) -> bool:
    """Whether something was postponed at this step; the same answer on every process."""
    found = None
    if jax.process_index() == 0:
      with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        found = json.loads((self.workdir / POSTPONED).read_text())['step']
    return runtime.exchange('left out', found)[0] == step

  def _heldout_due(self, step: int) -> bool:
    return self.heldout_loss is not None and is_due(step, self.training.heldout_every)

  def _preview_due(self, step: int) -> bool:
    return self.preview is not None and is_due(step, self.training.preview_every)

  def _measure(self, ema: Params, step: int) -> dict[str, float]:
    with self.recorder.paused(f'measuring the held-out loss after step {step}'):
      return self._run(functools.partial(self.heldout_loss, ema))

  def _show(self, ema: Params, step: int) -> None:
    with self.recorder.paused(f'making a preview after step {step}'):
      self._run(functools.partial(self.preview, ema, step))

  def _run(self, work: Callable[[], T]) -> T:
    """Run work that a signal may end; not with several processes, whose collectives would wait for this one."""
    return work() if jax.process_count() > 1 else self.stop.interruptible(work)
