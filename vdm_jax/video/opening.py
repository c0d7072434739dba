"""Opening files that strangers made: local files in known containers alone, bounded in pixels, frames and time."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator

from PIL import Image

from vdm_jax.video.headers import check_claims

CONTAINERS = ('mov', 'matroska', 'avi', 'gif', 'mpeg', 'mpegts')
PICTURES = ('png_pipe', 'jpeg_pipe', 'webp_pipe', 'bmp_pipe')
# Playlists, lists of files and patterns of names would read other files, protocols other machines.
_OPTIONS = {'protocol_whitelist': 'file', 'format_whitelist': ','.join(CONTAINERS + PICTURES)}
MAX_PIXELS = 2**25  # of one frame: 8K video
MAX_FRAMES = 2**20  # of one file: twelve hours
MAX_BYTES = 2**31  # of the frames of one read
MAX_SECONDS = 60.0  # of computing for one read, which a slow disk and a loaded machine do not use up


@contextlib.contextmanager
def open_video(path: str | os.PathLike) -> Iterator:
  """A PyAV container of a local file. Raises ValueError unless its format is known and its frames are of bounded size.

  FFmpeg decodes a picture while it opens it, so the size of pictures is read before.
  """
  import av

  _check_picture(path)
  try:
    check_claims(path, MAX_FRAMES)
  except OSError as error:
    raise ValueError(f'{path}: cannot be opened ({error.strerror}); check its permissions, or remove it.') from error
  try:
    container = av.open(os.path.abspath(path), container_options=_OPTIONS)
  except av.error.ArgumentError as error:
    raise ValueError(
      f'{path}: is not in a container that is read ({", ".join(CONTAINERS)}); playlists and lists of files are not '
      'followed. Re-encode or remove the file.'
    ) from error
  with container:
    for stream in container.streams.video:
      check_size(path, stream.codec_context.height, stream.codec_context.width)
      stream.codec_context.options = {'max_pixels': str(MAX_PIXELS)}  # for frames that are larger than the header says
    yield container


def check_size(path: str | os.PathLike, height: int, width: int) -> None:
  """Raises ValueError if a frame has more than MAX_PIXELS, or none, as FFmpeg says of absurd sizes."""
  if not height * width:
    raise ValueError(f'{path}: does not tell the size of its frames; re-encode or remove the file.')
  if height * width > MAX_PIXELS:
    raise ValueError(
      f'{path}: the frames are {height}x{width}, but at most {MAX_PIXELS:,} pixels are read; resize or remove the file.'
    )


def check_bytes(path: str | os.PathLike, num_frames: int, height: int, width: int, max_bytes: int) -> None:
  """Raises ValueError if so many RGB frames exceed `max_bytes`."""
  if num_frames * height * width * 3 > max_bytes:
    raise ValueError(
      f'{path}: {num_frames} frames of {height}x{width} take {num_frames * height * width * 3 / 1e9:.1f} GB, but at '
      f'most {max_bytes / 1e9:.1f} GB are read at once; resize the file, or lower data.num_frames.'
    )


class Clock:
  """Seconds of computing of this thread since it was made; waiting for a disk or for other processes is free."""

  def __init__(self, path: str | os.PathLike, limit: float):
    self._path, self._limit, self._since = path, limit, time.thread_time()

  def check(self) -> None:
    """Raises ValueError once the limit is passed."""
    if time.thread_time() - self._since > self._limit:
      raise ValueError(f'{self._path}: takes more than {self._limit:g} s to decode; re-encode or remove the file.')


@contextlib.contextmanager
def open_picture(path: str | os.PathLike, content: bytes | None = None) -> Iterator[Image.Image]:
  """A picture, of a file or of its `content`, of which only the header has been read.

  Raises ValueError if it is too large, OSError if it is none.
  """
  with open(path, 'rb') if content is None else io.BytesIO(content) as file:
    try:
      image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
      raise ValueError(f'{path}: {error} Resize or remove the file.') from error
    check_size(path, image.height, image.width)
    yield image


def _check_picture(path: str | os.PathLike) -> None:
  """Raises ValueError if the file is a picture that is too large; other files pass."""
  with contextlib.suppress(OSError), open_picture(path):
    pass
