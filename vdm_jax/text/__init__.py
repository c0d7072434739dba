"""Text functions: `encode(captions) -> (tokens, mask)`, chosen by name.

`none` has no text. `words` gives int32 word ids [n l], which the network embeds and trains. `bert-large`
gives float32 embeddings [n l 1024] of a frozen BERT. The mask is bool [n l], False on padding, and True at
least once for every caption, also for the empty one, so that attention over a caption never divides by zero.
Every text function is picklable and may be called from several threads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from vdm_jax.text import bert_folder
from vdm_jax.text.words import Words

__all__ = ['Encode', 'Words', 'build', 'check', 'width']

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def _words(path: str, length: int, vocabulary: Sequence[str]) -> Encode:
  return Words(tuple(vocabulary), length)


def _bert_large(path: str, length: int, vocabulary: Sequence[str]) -> Encode:
  from vdm_jax.text.bert import Bert  # flax is not needed by data workers that only look up words

  return Bert(path, length, width=_WIDTHS['bert-large'])


_WIDTHS = {'none': None, 'words': None, 'bert-large': 1024}
_BUILDERS = {'none': lambda path, length, vocabulary: None, 'words': _words, 'bert-large': _bert_large}


def width(name: str) -> int | None:
  """Returns the width of the embeddings of text function `name`, None where it gives no embeddings.

  Loads nothing. Raises ValueError for an unknown name.
  """
  if name not in _WIDTHS:
    nearest = difflib.get_close_matches(name, _WIDTHS, n=1, cutoff=0.0)[0]
    raise ValueError(f'data.text={name!r} is unknown; the nearest of {", ".join(_WIDTHS)} is {nearest!r}')
  return _WIDTHS[name]


def check(name: str, path: str = '') -> list[str]:
  """Returns what keeps `build(name, path=path)` from working, one sentence each; empty where nothing does.

  Reads file headers only: no weights are loaded, and JAX does nothing. Raises ValueError for an unknown name.
  """
  expected = width(name)
  return [] if expected is None else bert_folder.problems(path, expected)


def build(name: str, *, path: str = '', length: int, vocabulary: Sequence[str] = ()) -> Encode | None:
  """Returns the text function `name`, None for `none`.

  `path` is the folder of the encoder's files, for `bert-large` (data.text_path); `vocabulary` the known
  words, for `words` (data.vocabulary); `length` the tokens per caption, l (data.text_length): shorter
  captions are padded, longer ones cut with a warning.

  Raises:
    FileNotFoundError: files of the encoder are missing; the message lists them and where they come from.
    ValueError: an unknown name, a bad length or vocabulary, or files that do not fit together.
  """
  width(name)
  return _BUILDERS[name](path, length, vocabulary)
