"""Text functions: `encode(captions) -> (tokens, mask)`, chosen by name.

`none` has no text. `words` gives int32 word ids [n l], which the network embeds and trains. `bert-large` and
the `t5-...` give float32 embeddings [n l c] of a frozen encoder, whose width c says `width`. The mask is bool
[n l], False on padding, and True at least once for every caption, also for the empty one, so that attention
over a caption never divides by zero. Every text function is picklable and may be called from several threads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from vdm_jax.text import bert_folder, encoder_folder, t5_folder
from vdm_jax.text.words import Words

__all__ = ['Encode', 'Words', 'build', 'check', 'width']

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

_PUBLISHED = bert_folder.PUBLISHED | t5_folder.PUBLISHED
_NAMES = ('none', 'words', *_PUBLISHED)


def width(name: str) -> int | None:
  """Returns the width of the embeddings of text function `name`, None where it gives no embeddings.

  Loads nothing. Raises ValueError for an unknown name.
  """
  if name not in _NAMES:
    nearest = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)[0]
    raise ValueError(f'data.text={name!r} is unknown; the nearest of {", ".join(_NAMES)} is {nearest!r}')
  return _PUBLISHED[name].width if name in _PUBLISHED else None


def check(name: str, path: str = '') -> list[str]:
  """Returns what keeps `build(name, path=path)` from working, one sentence each; empty where nothing does.

  Reads file headers only: no weights are loaded, and JAX does nothing. Raises ValueError for an unknown name.
  """
  if width(name) is None:
    return []
  return encoder_folder.problems(path, _PUBLISHED[name])


def build(name: str, *, path: str = '', length: int, vocabulary: Sequence[str] = ()) -> Encode | None:
  """Returns the text function `name`, None for `none`.

  `path` is the folder of the files of a frozen encoder (data.text_path); `vocabulary` the known words, for
  `words` (data.vocabulary); `length` the tokens per caption, l (data.text_length): shorter captions are
  padded, longer ones cut with a warning.

  Raises:
    FileNotFoundError: files of the encoder are missing; the message lists them and where they come from.
    ValueError: an unknown name, a bad length or vocabulary, or files that do not fit together.
  """
  if width(name) is not None:
    return _frozen(_PUBLISHED[name], path, length)
  return Words(tuple(vocabulary), length) if name == 'words' else None


def _frozen(published: encoder_folder.Published, path: str, length: int) -> Encode:
  from vdm_jax.text import bert, t5  # flax is not needed by data workers that only look up words

  return {'bert': bert.Bert, 't5': t5.T5}[published.family.model_type](published, path, length)
