"""Video files and frames: reading, writing, safe opening, transforms, contact sheets. NumPy only, no JAX.

`read_video` and `write_mp4` read and write files, `read_input_video` reads and checks a video of the user, and
`contact_sheet` shows several videos in one image. Videos are uint8 `[t h w c]`; `to_float` and `to_uint8` convert to
and from float32 in [-1, 1].
"""

from vdm_jax.video.contact_sheets import MAX_ROWS, contact_sheet, enlarge, enlarge_frames, tile
from vdm_jax.video.frame_store import FrameStore
from vdm_jax.video.input_video import (
  FITS,
  InputVideo,
  Measured,
  TooFewFrames,
  check_frame_rate,
  measure_input_video,
  read_input_video,
)
from vdm_jax.video.reading import VideoInfo, probe, read_video
from vdm_jax.video.transforms import to_float, to_uint8
from vdm_jax.video.writing import check_fps, check_webm, write_gif, write_mp4, write_png, write_webm

__all__ = [
  'FITS',
  'MAX_ROWS',
  'FrameStore',
  'InputVideo',
  'Measured',
  'TooFewFrames',
  'VideoInfo',
  'check_fps',
  'check_frame_rate',
  'check_webm',
  'contact_sheet',
  'enlarge',
  'enlarge_frames',
  'measure_input_video',
  'probe',
  'read_input_video',
  'read_video',
  'tile',
  'to_float',
  'to_uint8',
  'write_gif',
  'write_mp4',
  'write_png',
  'write_webm',
]
