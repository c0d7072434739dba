"""Training data: sources of clips, and the pipeline that makes batches of them.

`build` makes batches; files and frames themselves are the business of `vdm_jax.video`. NumPy only, no JAX: uint8 inside,
float32 in [-1, 1] in batches.
"""

from vdm_jax.data.arrays import Array
from vdm_jax.data.clip import Clip
from vdm_jax.data.conversion import convert
from vdm_jax.data.digits import Digits
from vdm_jax.data.example_clips import ExampleClips, examples
from vdm_jax.data.folder import Folder
from vdm_jax.data.pictures import Pictures
from vdm_jax.data.pipeline import build, check, held_out, trained_on
from vdm_jax.data.quarantine import TooManyBadClips
from vdm_jax.data.records import Records
from vdm_jax.data.sources import captions, num_classes, vocabulary
from vdm_jax.data.tfds import Tfds

__all__ = [
  'Array',
  'Clip',
  'Digits',
  'ExampleClips',
  'Folder',
  'Pictures',
  'Records',
  'Tfds',
  'TooManyBadClips',
  'build',
  'check',
  'captions',
  'convert',
  'examples',
  'held_out',
  'num_classes',
  'trained_on',
  'vocabulary',
]
