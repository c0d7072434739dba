"""Video files and frames: codecs, safe opening, transforms, contact sheets. NumPy only, no JAX.

`read_video` and `write_mp4` read and write files, `read_given` checks a file that a user gives, and `contact_sheet`
shows several videos in one picture. Videos are uint8 `[t h w c]`; `to_float` and `to_uint8` convert to and from
float32 in [-1, 1].
"""

from vdm_jax.video.codecs import probe, read_video, write_gif, write_mp4, write_png
from vdm_jax.video.contact_sheets import contact_sheet, enlarge, enlarge_frames, tile
from vdm_jax.video.frame_store import FrameStore
from vdm_jax.video.input_video import Given, check_frame_rate, read_given
from vdm_jax.video.transforms import to_float, to_uint8

__all__ = [
  'FrameStore',
  'Given',
  'check_frame_rate',
  'contact_sheet',
  'enlarge',
  'enlarge_frames',
  'probe',
  'read_given',
  'read_video',
  'tile',
  'to_float',
  'to_uint8',
  'write_gif',
  'write_mp4',
  'write_png',
]
