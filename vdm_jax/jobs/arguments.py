"""Values of flags, parsed from text, and settings that depend on where the run is."""

from __future__ import annotations

import contextlib
import math
import re

from ml_collections import ConfigDict

from vdm_jax.configuration import OF_DATA
from vdm_jax.errors import InvalidInput
from vdm_jax.generation.outputs import check_formats
from vdm_jax.inputs.paths import NotLocal, local_path
from vdm_jax.runs import Run

PATHS = ('data.path', 'data.text_path', 'data.text_cache', 'training.first_stage')
LISTS = ('data.mixture', 'data.images')  # of KIND:PATH


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


def read_path(name: str, path: str) -> str:
  """Return the local path that a flag gives, with `~` expanded. Raises InvalidInput if it is not local."""
  try:
    return local_path(name, path)
  except NotLocal as error:
    raise InvalidInput(str(error)) from error


def expand_paths(config: ConfigDict) -> None:
  """Expand `~` in every setting that is a path. Raises InvalidInput, with one message for each that is not local."""
  problems, found = [], {}
  for setting in (*PATHS, *LISTS):
    section, key = setting.split('.')
    value = config[section][key]
    try:
      found[section, key] = _list(setting, value) if setting in LISTS else local_path(f'config.{setting}', value)
    except NotLocal as error:
      problems.append(str(error))
  if problems:
    raise InvalidInput(*problems)
  for (section, key), value in found.items():
    if value != config[section][key]:
      config[section][key] = value
      if section == 'data' and key in config.model:  # the same setting, unless a reference keeps them equal
        config.model[key] = value


def adopt(config: ConfigDict, run: Run) -> None:
  """Set what a configuration leaves open to what the run that it resumes, if there is one, was made with."""
  with contextlib.suppress(ValueError, OSError):  # the doctor reports a damaged workdir
    if run.exists and not config.data.word_rule:
      config.data.word_rule = config.model.word_rule = run.config['data']['word_rule']
    if run.exists and config.sampling.fps == OF_DATA:
      config.sampling.fps = run.config['sampling']['fps']


def _list(setting: str, entries: tuple) -> tuple:
  """Return the entries KIND:PATH of a mixture with paths expanded; what is none is left to the check of the mixture."""
  expanded = []
  for entry in entries:
    kind, colon, path = entry.partition(':') if isinstance(entry, str) else (entry, '', '')
    if colon:
      local_path(f'config.{setting}', entry if path.startswith('//') else path)
      entry = f'{kind}:{local_path(f"config.{setting}", path)}'
    expanded.append(entry)
  return tuple(expanded)
