"""Training: optimizer, learning-rate schedule, state, one step, the loop, and the folder of a run."""

from vdm_jax.training.first_stage import starting_point
from vdm_jax.training.loop import train
from vdm_jax.training.nonfinite import Damaged, Replay, replay
from vdm_jax.training.run_lock import InUse
from vdm_jax.training.step import jit_train_step, make_gradient, make_heldout_loss, make_train_step

__all__ = [
  'Damaged',
  'InUse',
  'Replay',
  'jit_train_step',
  'make_gradient',
  'make_heldout_loss',
  'make_train_step',
  'replay',
  'starting_point',
  'train',
]
