"""Saving and restoring training state."""

from vdm_jax.checkpoints.manager import (
  Checkpointer,
  export_weights,
  is_run,
  latest_step,
  load,
  named,
  read_config,
  restore_ema,
  steps,
  tensor_name,
)

__all__ = [
  'Checkpointer',
  'export_weights',
  'is_run',
  'latest_step',
  'load',
  'named',
  'read_config',
  'restore_ema',
  'steps',
  'tensor_name',
]
