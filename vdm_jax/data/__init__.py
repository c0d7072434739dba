"""Where videos come from and go to: sources, transforms, the pipeline that makes batches, and video files.

`build` makes batches, `read_video` and `write_mp4` read and write files, `contact_sheet` shows them.
No JAX arrays here: everything is NumPy, uint8 inside and float32 in [-1, 1] in batches.
"""

from vdm_jax.data.clip import Clip
from vdm_jax.data.digits import Digits
from vdm_jax.data.folder import Folder
from vdm_jax.data.pipeline import build, held_out
from vdm_jax.data.sheets import contact_sheet, enlarge, tile
from vdm_jax.data.sources import examples, num_classes, vocabulary
from vdm_jax.data.transforms import to_float, to_uint8
from vdm_jax.data.video_io import probe, read_video, write_gif, write_mp4, write_png

__all__ = [
  'Clip',
  'Digits',
  'Folder',
  'build',
  'contact_sheet',
  'enlarge',
  'examples',
  'held_out',
  'num_classes',
  'probe',
  'read_video',
  'tile',
  'to_float',
  'to_uint8',
  'vocabulary',
  'write_gif',
  'write_mp4',
  'write_png',
]
