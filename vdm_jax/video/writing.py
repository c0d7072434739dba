"""Atomic writing of video files and images, with PyAV (FFmpeg) and Pillow.

Pixels are converted to full-range BT.709 here rather than by swscale, whose fast paths are off by up to 5/255; a flat
patch is reproduced within 2/255.
"""

from __future__ import annotations

import fractions
import itertools
import math
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vdm_jax.runtime.atomic_files import atomic_write
from vdm_jax.video.transforms import to_channels, to_uint8

MIN_FPS, MAX_FPS = 0.01, 1000.0  # of the files; FFmpeg reads no frames from an mp4 of 5000 frames per second
MAX_GIF_FPS = 50  # players show frames of less than 2/100 s for 10/100 s
# Without mbtree, which reads uninitialized memory: equal frames would sometimes be encoded as different bytes.
_X264 = {'crf': '4', 'g': '16', 'x264-params': 'no-psy=1:no-mbtree=1:chroma-qp-offset=-6'}
_VP9 = {'crf': '8', 'b': '0', 'deadline': 'good', 'cpu-used': '4', 'row-mt': '1'}
_YUV = np.array(  # BT.709, full range: luma, blue and red difference
  [
    [0.2126, 0.7152, 0.0722],
    [-0.2126 / 1.8556, -0.7152 / 1.8556, 0.5],
    [0.5, -0.7152 / 1.5748, -0.0722 / 1.5748],
  ],
  np.float32,
)


def write_mp4(path: str | os.PathLike, video, fps: float) -> None:
  """Write a video as H.264; odd sides grow by one pixel.

  Frames are converted and encoded one at a time, so memory does not grow with their number.

  Args:
    path: the file, replaced atomically: after an error it is as before.
    video: an array `[t h w c]` or an iterable of frames `[h w c]`, uint8 or float in [-1, 1], 1 or 3 channels.
    fps: frames per second.

  Raises:
    ValueError: other shapes, no frames, frames of different sizes, NaN or infinite pixels, or an fps outside
      [0.01, 1000].
  """
  _encode(path, _even(_each_frame(path, video)), fps, 'mp4', 'libx264', 'yuv420p', _yuv420, _X264)


def write_webm(path: str | os.PathLike, video, fps: float) -> None:
  """Write a video as VP9 in WebM; see `write_mp4`.

  Raises:
    ValueError: as `write_mp4` and `check_webm`.
  """
  check_webm()
  _encode(path, _even(_each_frame(path, video)), fps, 'webm', 'libvpx-vp9', 'yuv420p', _yuv420, _VP9)


def check_webm() -> None:
  """Raise ValueError unless FFmpeg has an encoder of VP9."""
  import av

  try:
    av.Codec('libvpx-vp9', 'w')
  except av.codec.codec.UnknownCodecError:
    raise ValueError('webm: the installed FFmpeg has no VP9 encoder (libvpx-vp9); write mp4 or gif instead.') from None


def check_fps(fps: float, name: str) -> None:
  """Raise ValueError unless videos can be written at this frame rate, or it is infinite, that of images."""
  if fps != math.inf and not MIN_FPS <= fps <= MAX_FPS:
    raise ValueError(f'{name}={fps:g} is not a valid frame rate: use {MIN_FPS:g} to {MAX_FPS:g} frames per second.')


def write_gif(path: str | os.PathLike, video, fps: float) -> None:
  """Write a video as an endlessly repeating GIF, exact if a frame has at most 256 colors; see `write_mp4`.

  GIF stores durations in hundredths of a second: at 24 frames per second, frames last 4, 4, 5, ... hundredths. Above 50
  frames per second only the frames nearest in time to 50 are written, since players slow down shorter ones.
  """
  frames = _each_frame(path, video)
  if MAX_GIF_FPS < fps <= MAX_FPS:
    frames, fps = _every(frames, fps / MAX_GIF_FPS), MAX_GIF_FPS
  _encode(path, frames, fps, 'gif', 'gif', 'pal8', _paletted, {})


def write_png(path: str | os.PathLike, image) -> None:
  """Write an image `[h w c]`, uint8 or float in [-1, 1], 1 or 3 channels."""
  (frame,) = as_frames(np.asarray(image)[None])
  with atomic_write(path) as temporary:
    Image.fromarray(frame).save(temporary, format='PNG')


def as_frames(video) -> np.ndarray:
  """Convert a video `[t h w 1 or 3]` of uint8 or of float in [-1, 1] to uint8 `[t h w 3]`.

  Raises ValueError for other shapes.
  """
  video = np.asarray(video)
  _check_shape(video.shape)
  return np.ascontiguousarray(to_channels(video if video.dtype == np.uint8 else to_uint8(video), 3))


def _check_shape(shape: tuple[int, ...]) -> None:
  if len(shape) != 4 or shape[-1] not in (1, 3) or 0 in shape:
    raise ValueError(
      f'video: {shape} is not a valid shape; pass one video [frames, height, width, 1 or 3 channels] at a time.'
    )


def _each_frame(path: str | os.PathLike, video) -> Iterator[np.ndarray]:
  """Yield each frame of an array or an iterable as uint8 [h w 3], converted lazily."""
  if hasattr(video, 'shape'):
    _check_shape(video.shape)
    video = np.asarray(video)  # a memory-mapped file stays memory-mapped
  size = None
  for number, frame in enumerate(video):
    (converted,) = as_frames(np.asarray(frame)[None])
    size = size or converted.shape[:2]
    if converted.shape[:2] != size:
      raise ValueError(
        f'{path}: frame {number} is {converted.shape[0]}x{converted.shape[1]}, but the frames before it are '
        f'{size[0]}x{size[1]}; pass frames of one size.'
      )
    yield converted


def _even(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  """Repeat the last row and column of frames with odd sides."""
  for frame in frames:
    yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), 'edge')


def _every(frames: Iterator[np.ndarray], skip: float) -> Iterator[np.ndarray]:
  """Yield frames 0, skip, 2 skip, ..., rounded as `frame_numbers` does."""
  count = 0
  for number, frame in enumerate(frames):
    if number == math.floor(count * skip + 0.5):
      yield frame
      count += 1


def _encode(path, frames: Iterator[np.ndarray], fps: float, container_format, codec, pixel_format, to_frame, options):
  import av

  if not MIN_FPS <= fps <= MAX_FPS:
    raise ValueError(f'{path}: fps={fps} is not a valid frame rate; use {MIN_FPS:g} to {MAX_FPS:g} frames per second.')
  if (first := next(frames, None)) is None:
    raise ValueError(f'{path}: the video has no frames; pass one or more.')
  rate = fractions.Fraction(fps).limit_denominator(1001)
  with atomic_write(path) as temporary, av.open(str(temporary), 'w', format=container_format) as container:
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pixel_format
    if pixel_format == 'yuv420p':
      context = stream.codec_context
      context.color_range, context.colorspace, context.color_primaries, context.color_trc = 2, 1, 1, 1
    for frame in itertools.chain([first], frames):
      container.mux(stream.encode(to_frame(frame)))
    container.mux(stream.encode())


def _yuv420(frame: np.ndarray):
  """Convert uint8 [h w 3] with even sides to a full-range BT.709 frame; chroma is the mean of four pixels."""
  import av

  height, width, _ = frame.shape
  yuv = frame.astype(np.float32) @ _YUV.T
  chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3)) + 128
  planes = np.concatenate([yuv[..., 0].ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()])
  planes = np.clip(np.rint(planes), 0, 255).astype(np.uint8).reshape(height * 3 // 2, width)
  result = av.VideoFrame.from_ndarray(planes, 'yuv420p')
  result.color_range, result.colorspace = 2, 1
  return result


def _paletted(frame: np.ndarray):
  import av

  image = Image.fromarray(frame).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
  colors = np.array(image.getpalette('RGB'), np.uint8).reshape(-1, 3)
  palette = np.zeros((256, 4), np.uint8)
  palette[:, 0], palette[: len(colors), 1:] = 255, colors  # alpha first
  return av.VideoFrame.from_ndarray((np.asarray(image), palette), 'pal8')
