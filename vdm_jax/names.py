"""Lookup by name, and the names that settings had before.

`choose` is the one lookup with "did you mean"; every table of named parts (networks, sources, encoders, metrics, ...)
is read through it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# Settings under the names that older runs stored them by: old name -> name now.
RENAMED_SETTINGS = {
  'data.still_rate': 'data.image_rate',
  'sampling.augmentation': 'sampling.noise_aug_level',
}
# Settings that did not exist in older runs, whose behavior is not the default of today.
FORMER_DEFAULTS = {'data': {'word_rule': 'whitespace'}, 'model': {'word_rule': 'whitespace'}}
# Leaves of the training state, as stored in older checkpoints: name now -> old name.
RENAMED_STATE = {'grad_norm_ema': 'usual_gradient_norm'}


def choose(setting: str, name: str, options: Mapping[str, Any] | Iterable[str]) -> Any:
  """Return `options[name]`, or `name` itself where the options are bare names.

  Args:
    setting: where the name comes from, for the message: a configuration key such as `model.network`, or a flag.
    name: the name to look up.
    options: a table by name, or the valid names.

  Raises:
    ValueError: `name` is not an option; the message lists the options and the closest one.

  >>> choose('sampling.grid', 'cosine', {'cosine': 1, 'karras': 2})
  1
  >>> choose('sampling.grid', 'karas', ('cosine', 'karras'))
  Traceback (most recent call last):
  ...
  ValueError: sampling.grid='karas' is unknown: choose one of cosine, karras. Did you mean 'karras'?
  """
  options = options if isinstance(options, Mapping) else {option: option for option in options}
  if name not in options:
    raise ValueError(unknown(setting, name, options))
  return options[name]


def unknown(setting: str, name: str, options: Iterable[str]) -> str:
  """Return the message for a name that is not among the options."""
  options = list(options)
  close = closest(name, options)
  hint = f' Did you mean {close!r}?' if close else ''
  return f'{setting}={name!r} is unknown: choose one of {", ".join(options)}.{hint}'


def closest(name: str, options: Iterable[str]) -> str | None:
  """Return the option spelled most like `name`, or None if none is close."""
  return next(iter(difflib.get_close_matches(str(name), list(options), n=1)), None)
