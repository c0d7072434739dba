"""The warning about captions that are longer than `data.text_length`."""

from __future__ import annotations

import warnings

_SHOWN_CHARACTERS = 80


def warn_truncated(caption: str, count: int, length: int):
  """Warn that only `length` of the `count` tokens of `caption` are used. Python shows each warning once."""
  shown = caption if len(caption) <= _SHOWN_CHARACTERS else f'{caption[:_SHOWN_CHARACTERS]}...'
  warnings.warn(
    f'the caption {shown!r} has {count} tokens and is cut to data.text_length={length}; raise it to keep all',
    stacklevel=3,
  )
