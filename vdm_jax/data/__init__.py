"""Training data: sources of clips, and the pipeline that makes batches of them.

`build` makes batches; `vdm_jax.video` reads and writes files. A new kind of data is a `Source` and an entry of
`sources.catalog.KINDS`. NumPy only, no JAX: uint8 inside, float32 in [-1, 1] in batches.
"""

from vdm_jax.data.conversion import convert
from vdm_jax.data.example_clips import ExampleClips, examples
from vdm_jax.data.pipeline import build, check, held_out, trained_on
from vdm_jax.data.quarantine import TooManyBadClips
from vdm_jax.data.sources.archives.parquet import Parquet
from vdm_jax.data.sources.archives.webdataset import WebDataset
from vdm_jax.data.sources.array import Array
from vdm_jax.data.sources.catalog import Overview, captions, locate, num_classes, overview, vocabulary
from vdm_jax.data.sources.contract import Clip, Clips, EmptySplit, Source
from vdm_jax.data.sources.digits import Digits
from vdm_jax.data.sources.folder import Folder
from vdm_jax.data.sources.pictures import Pictures
from vdm_jax.data.sources.records import Records
from vdm_jax.data.sources.stored_clips import StoredClips
from vdm_jax.data.sources.tfds import Tfds

__all__ = [
  'Array',
  'Clip',
  'Clips',
  'Digits',
  'EmptySplit',
  'ExampleClips',
  'Folder',
  'Parquet',
  'Overview',
  'Pictures',
  'Records',
  'Source',
  'StoredClips',
  'Tfds',
  'TooManyBadClips',
  'WebDataset',
  'build',
  'captions',
  'check',
  'convert',
  'examples',
  'held_out',
  'locate',
  'num_classes',
  'overview',
  'trained_on',
  'vocabulary',
]
