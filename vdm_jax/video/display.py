"""From a stored frame to the picture that a player shows: transparency, cropping, pixel shape and orientation."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

# Of transparent pixels, in every format: that of a web page, and of FFmpeg's reader of GIF.
BACKGROUND = 255
_ORIENTATIONS = {1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1)}
_ORIENTATIONS |= {5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0)}
Matrix = tuple[int, int, int, int]  # a, b, c, d: a stored (x, y), y downward, is shown at (a x + c y, b x + d y)
UPRIGHT: Matrix = (1, 0, 0, 1)


class Crop(NamedTuple):
  """Numbers of stored pixels at each edge that are not shown."""

  top: int = 0
  bottom: int = 0
  left: int = 0
  right: int = 0


def composite(pixels: np.ndarray) -> np.ndarray:
  """Return uint8 `[... 4]` with straight alpha on the background, as uint8 `[... 3]`, rounded.

  >>> composite(np.uint8([[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]))
  array([[ 10,  20,  30],
         [255, 255, 255],
         [127, 127, 127]], dtype=uint8)
  """
  colors, alpha = pixels[..., :3], pixels[..., 3:].astype(np.uint16)
  return ((colors * alpha + BACKGROUND * (255 - alpha) + 127) // 255).astype(np.uint8)


def image_pixels(image: Image.Image) -> np.ndarray:
  """Return an opened image as it is shown, uint8 `[h w 3]`: upright by its EXIF data, on the background."""
  matrix = image_matrix(image)
  if image.has_transparency_data:
    return orient(composite(np.asarray(image.convert('RGBA'))), matrix)
  return orient(np.asarray(image.convert('RGB')), matrix)


def image_matrix(image: Image.Image) -> Matrix:
  """Return the orientation in the EXIF data of an opened image."""
  return _ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1), UPRIGHT)


def image_shape(image: Image.Image) -> tuple[int, int]:
  """Return the height and width at which an opened image is shown, without decoding it."""
  return (image.height, image.width) if image_matrix(image)[0] else (image.width, image.height)


def frame_matrix(frame) -> tuple[Matrix, bool]:
  """Return the orientation of a decoded frame of PyAV to the nearest quarter turn, and whether it is off by more."""
  try:
    data = frame.side_data.get('DISPLAYMATRIX')
  except ValueError:  # PyAV lists no frame with data of a kind that it does not know, such as EXIF
    turns = round(frame.rotation / 90) % 4
    return (UPRIGHT, (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns], False
  if data is None:
    return UPRIGHT, False
  a, b, _, c, d = struct.unpack_from('=5i', bytes(data))
  straight, turned = abs(a) + abs(d), abs(b) + abs(c)
  odd = min(straight, turned) > 0.02 * max(straight, turned)  # FFmpeg's players turn by angles above one degree
  if straight >= turned:
    return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1), odd
  return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0), odd


def shown_shape(height: int, width: int, crop: Crop, pixel_aspect: float) -> tuple[int, int]:
  """Return the height and width at which frames are shown, before they are turned upright.

  The height is kept, and the width is multiplied by the width of a pixel over its height (`scale=iw*sar:ih`).

  >>> shown_shape(576, 720, Crop(), 64 / 45)
  (576, 1024)
  """
  height, width = height - crop.top - crop.bottom, width - crop.left - crop.right
  return height, round(width * pixel_aspect) if pixel_aspect > 0 else width


def show(pixels: np.ndarray, crop: Crop, pixel_aspect: float, matrix: Matrix) -> np.ndarray:
  """Return a stored frame, uint8 `[h w 3]`, as it is shown: cropped, with square pixels, upright."""
  stored = pixels.shape[:2]
  height, width = shown_shape(*stored, crop, pixel_aspect)
  if any(crop):
    pixels = pixels[crop.top : stored[0] - crop.bottom, crop.left : stored[1] - crop.right]
  if width != pixels.shape[1]:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
  return orient(pixels, matrix)


def orient(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
  """Return a frame `[h w c]` turned and mirrored, a view.

  >>> orient(np.arange(6).reshape(2, 3, 1), (0, 1, -1, 0))[..., 0]  # a quarter turn clockwise
  array([[3, 0],
         [4, 1],
         [5, 2]])
  """
  a, b, c, d = matrix
  if not a:  # rows become columns
    pixels = pixels.swapaxes(0, 1)
  return pixels[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]
