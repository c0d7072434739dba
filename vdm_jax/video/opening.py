"""Safe opening of untrusted files: only local files in known formats, bounded in pixels, frames and time."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator

from PIL import Image

from vdm_jax.video.headers import check_frame_count

CONTAINERS = ('mov', 'matroska', 'avi', 'gif', 'mpeg', 'mpegts')
IMAGES = ('png_pipe', 'jpeg_pipe', 'webp_pipe', 'bmp_pipe')
# Playlists, lists of files and patterns of names would read other files; protocols would read other machines.
_OPTIONS = {'protocol_whitelist': 'file', 'format_whitelist': ','.join(CONTAINERS + IMAGES)}
MAX_PIXELS = 2**25  # of a frame: 8K video
MAX_FRAMES = 2**20  # of a file: twelve hours
MAX_BYTES = 2**31  # of the frames of one read
MAX_SECONDS = 60.0  # of CPU time for one read, which a slow disk or a loaded machine does not consume


@contextlib.contextmanager
def open_video(path: str | os.PathLike) -> Iterator:
  """Open a PyAV container of a local file. Raises ValueError if its format is unknown or its frames are too large.

  FFmpeg decodes an image while opening it, so the size of images is checked before.
  """
  import av

  _check_image(path)
  try:
    check_frame_count(path, MAX_FRAMES)
  except OSError as error:
    raise ValueError(f'{path}: cannot be opened ({error.strerror}); check its permissions, or remove it.') from error
  try:
    container = av.open(os.path.abspath(path), container_options=_OPTIONS)
  except av.error.ArgumentError as error:
    raise ValueError(
      f'{path}: is not in a supported container ({", ".join(CONTAINERS)}); playlists and lists of files are not '
      'followed. Re-encode or remove the file.'
    ) from error
  with container:
    for stream in container.streams.video:
      check_size(path, stream.codec_context.height, stream.codec_context.width)
      stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}  # for frames larger than the header claims
    yield container


def check_size(path: str | os.PathLike, height: int, width: int) -> None:
  """Raise ValueError if a frame has more than MAX_PIXELS, or none, which is how FFmpeg reports absurd sizes."""
  if not height * width:
    raise ValueError(f'{path}: has no valid frame size; re-encode or remove the file.')
  if height * width > MAX_PIXELS:
    raise ValueError(
      f'{path}: the frames are {height}x{width}, above the limit of {MAX_PIXELS:,} pixels; resize or remove the file.'
    )


def check_bytes(path: str | os.PathLike, num_frames: int, height: int, width: int, max_bytes: int) -> None:
  """Raise ValueError if this number of RGB frames exceeds `max_bytes`."""
  if num_frames * height * width * 3 > max_bytes:
    raise ValueError(
      f'{path}: {num_frames} frames of {height}x{width} take {num_frames * height * width * 3 / 1e9:.1f} GB, above the '
      f'limit of {max_bytes / 1e9:.1f} GB for one read; resize the file, or lower data.num_frames.'
    )


class Clock:
  """A limit of the CPU time that this thread uses from now on; waiting for a disk or other processes is free."""

  def __init__(self, path: str | os.PathLike, limit: float):
    self._path, self._limit, self._since = path, limit, time.thread_time()

  def check(self) -> None:
    """Raise ValueError if the limit is exceeded."""
    if time.thread_time() - self._since > self._limit:
      raise ValueError(f'{self._path}: takes more than {self._limit:g} s to decode; re-encode or remove the file.')


@contextlib.contextmanager
def open_image(path: str | os.PathLike, content: bytes | None = None) -> Iterator[Image.Image]:
  """Open an image file, or its `content`, and read only its header.

  Raises ValueError if the image is too large, OSError if it is not an image.
  """
  with open(path, 'rb') if content is None else io.BytesIO(content) as file:
    try:
      image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
      raise ValueError(f'{path}: {error} Resize or remove the file.') from error
    check_size(path, image.height, image.width)
    yield image


def _check_image(path: str | os.PathLike) -> None:
  """Raise ValueError if the file is an image that is too large; other files pass."""
  with contextlib.suppress(OSError), open_image(path):
    pass
