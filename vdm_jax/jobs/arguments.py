"""Values of flags, parsed from text."""

from __future__ import annotations

import math
import re

from vdm_jax.errors import InvalidInput
from vdm_jax.generation.outputs import check_formats


def read_frame_rate(text: str | None) -> float | None:
  """Return the frame rate of --fps: `24`, or `image`, an infinite frame rate.

  >>> read_frame_rate('24'), read_frame_rate('image'), read_frame_rate(None)
  (24.0, inf, None)
  """
  if text is None:
    return None
  try:
    rate = math.inf if text == 'image' else float(text)
  except ValueError:
    rate = 0.0
  if not rate > 0:
    raise InvalidInput(f'--fps={text} is not a valid frame rate: give frames per second, such as 24, or image.')
  return rate


def read_size(text: str | None) -> tuple[int, int] | None:
  """Return (height, width) of --original_size.

  >>> read_size('720x1280')
  (720, 1280)
  """
  if text is None:
    return None
  if not (match := re.fullmatch('([1-9][0-9]*)x([1-9][0-9]*)', text)):
    raise InvalidInput(f'--original_size={text} is not a valid size: give height and width in pixels, as 720x1280.')
  return int(match[1]), int(match[2])


def read_frame_rates(text: str | None) -> tuple[float, ...]:
  """Return the frame rates of --frame_rates, lowest first; () if it is not given.

  >>> read_frame_rates('2,8,24')
  (2.0, 8.0, 24.0)
  """
  if text is None:
    return ()
  try:
    rates = tuple(float(part) for part in text.split(','))
  except ValueError:
    rates = ()
  if not rates or not all(0 < rate < math.inf for rate in rates):
    raise InvalidInput(f'--frame_rates={text} is not a valid list of frame rates: give the lowest first, as 2,8,24.')
  return rates


def read_seeds(text: str | None) -> tuple[int, ...]:
  """Return the seeds of --seeds; () if it is not given.

  >>> read_seeds('1,5,9')
  (1, 5, 9)
  """
  if text is None:
    return ()
  if not re.fullmatch(r'-?\d{1,18}(,-?\d{1,18})*', text):
    raise InvalidInput(f'--seeds={text} is not a valid list of seeds: give whole numbers, as 1,5,9.')
  seeds = tuple(int(part) for part in text.split(','))
  if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
    raise InvalidInput(f'--seeds={text} has {repeated[0]} twice, which would make the same video twice: give it once.')
  return seeds


def read_formats(text: str) -> tuple[str, ...]:
  """Return the formats of --format, each once.

  >>> read_formats('mp4,webm')
  ('mp4', 'webm')
  """
  formats = tuple(dict.fromkeys(part.strip() for part in text.split(',')))
  check_formats(formats)
  return formats
