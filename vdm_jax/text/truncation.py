"""The warning about captions that are longer than `data.text_length`; `inputs.caption_lengths` counts them."""

from __future__ import annotations

import warnings

_SHOWN_CHARACTERS = 80


class CaptionCut(UserWarning):
  """A caption is longer than `data.text_length`."""


class Truncation:
  """Warns about the first caption that a text function cuts, not about the thousands that may follow."""

  def __init__(self):
    self.warned = False

  def warn(self, caption: str, count: int, length: int) -> None:
    """Warn that only `length` of the `count` tokens of `caption` are used, unless one was reported already."""
    if self.warned:
      return
    self.warned = True
    shown = caption if len(caption) <= _SHOWN_CHARACTERS else f'{caption[:_SHOWN_CHARACTERS]}...'
    warnings.warn(
      f'the caption {shown!r} has {count} tokens and is cut to data.text_length={length}; raise it to keep all. Others '
      'are cut without a warning: --mode=doctor counts them',
      CaptionCut,
      stacklevel=4,
    )


def mute() -> None:
  """Turn these warnings off in this process, where captions were counted and reported already."""
  warnings.simplefilter('ignore', CaptionCut)
