"""Saving and restoring training state: Orbax with a checksum for every file.

`workdir/checkpoints/<step>/` is one finished checkpoint. Orbax writes it to a temporary folder and renames that, so
a killed job leaves either the old checkpoint or the new one. `manifest.json`, written before the rename, records the
length and CRC-32 of every file, so that damage is detected before training continues from it.

Hand-written on top of Orbax: the manifest, since Orbax does not detect a flipped bit or a truncated file, and the
handling of failed saves, since Orbax raises on the first one.
"""

from vdm_jax.checkpoints.integrity import CHECKPOINTS, check_step, content_hash, newest_good_step, steps
from vdm_jax.checkpoints.manager import Checkpointer
from vdm_jax.checkpoints.restore import WEIGHTS, check_shapes, named, restore_ema, restore_weights, tensor_name

__all__ = [
  'CHECKPOINTS',
  'WEIGHTS',
  'Checkpointer',
  'check_shapes',
  'check_step',
  'content_hash',
  'named',
  'newest_good_step',
  'restore_ema',
  'restore_weights',
  'steps',
  'tensor_name',
]
