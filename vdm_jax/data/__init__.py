"""Where videos come from and go to: sources, transforms, the pipeline that makes batches, and video files.

`build` makes batches, `read_video` and `write_mp4` read and write files, `read_given` checks what a user gives,
`contact_sheet` shows videos.
No JAX arrays here: everything is NumPy, uint8 inside and float32 in [-1, 1] in batches.
"""

from vdm_jax.data.arrays import Array
from vdm_jax.data.clip import Clip
from vdm_jax.data.conversion import convert
from vdm_jax.data.digits import Digits
from vdm_jax.data.example_clips import ExampleClips, examples
from vdm_jax.data.folder import Folder
from vdm_jax.data.frame_store import FrameStore
from vdm_jax.data.given import Given, check_frame_rate, read_given
from vdm_jax.data.pictures import Pictures
from vdm_jax.data.pipeline import build, check, held_out, trained_on
from vdm_jax.data.quarantine import TooManyBadClips
from vdm_jax.data.records import Records
from vdm_jax.data.sheets import contact_sheet, enlarge, enlarge_frames, tile
from vdm_jax.data.sources import captions, num_classes, vocabulary
from vdm_jax.data.tfds import Tfds
from vdm_jax.data.transforms import to_float, to_uint8
from vdm_jax.data.video_io import probe, read_video, write_gif, write_mp4, write_png

__all__ = [
  'Array',
  'Clip',
  'Digits',
  'ExampleClips',
  'Folder',
  'FrameStore',
  'Given',
  'Pictures',
  'Records',
  'Tfds',
  'TooManyBadClips',
  'build',
  'check',
  'captions',
  'check_frame_rate',
  'contact_sheet',
  'convert',
  'enlarge',
  'enlarge_frames',
  'examples',
  'held_out',
  'num_classes',
  'probe',
  'read_given',
  'read_video',
  'tile',
  'to_float',
  'to_uint8',
  'trained_on',
  'vocabulary',
  'write_gif',
  'write_mp4',
  'write_png',
]
