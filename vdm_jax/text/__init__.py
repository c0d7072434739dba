"""Text functions: `encode(captions) -> (tokens, mask)`, chosen by name.

`none` has no text. `words` gives int32 word ids [n l], which the network embeds and trains. `bert-large`, the
`clip-...` and the `t5-...` give float32 embeddings [n l c] of a frozen encoder, whose width c says `width`; they
may come from a cache, which `python -m vdm_jax.text embed` fills. The mask is bool
[n l], False on padding, and True at least once for every caption, also for the empty one, so that attention
over a caption never divides by zero. Every text function is picklable and may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vdm_jax.names import choose
from vdm_jax.text import cache as embeddings
from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.published import PUBLISHED, encoder
from vdm_jax.text.words import Words

__all__ = ['Encode', 'Words', 'build', 'check', 'width']

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]

_NAMES = ('none', 'words', *PUBLISHED)


def width(name: str) -> int | None:
  """Returns the width of the embeddings of text function `name`, None where it gives no embeddings.

  Loads nothing. Raises ValueError for an unknown name.
  """
  choose('data.text', name, _NAMES)
  return PUBLISHED[name].width if name in PUBLISHED else None


def check(
  name: str,
  path: str = '',
  *,
  length: int = 0,
  dtype: str = 'float32',
  cache: str = '',
  captions: Sequence[str] = (),
) -> list[str]:
  """Returns what keeps `build` from working, one sentence each; empty where nothing does.

  Reads file headers only: no weights are loaded, and JAX does nothing. With a `cache` the weights in `path` are hashed
  to compare them, and `captions` are those it must have. Raises ValueError for an unknown name.
  """
  if width(name) is None:
    return [_no_embeddings(name, cache)] if cache else []
  if cache:
    return embeddings.problems(cache, PUBLISHED[name], path, length, dtype, captions)
  return encoder_folder.problems(path, PUBLISHED[name])


def build(
  name: str,
  *,
  path: str = '',
  length: int,
  vocabulary: Sequence[str] = (),
  dtype: str = 'float32',
  cache: str = '',
) -> Encode | None:
  """Returns the text function `name`, None for `none`.

  `path` is the folder of the files of a frozen encoder (data.text_path), and `dtype` what it computes in
  (data.text_dtype); `cache` a folder of embeddings that are read instead (data.text_cache); `vocabulary` the known
  words, for `words` (data.vocabulary); `length` the tokens per caption, l (data.text_length): shorter captions are
  padded, longer ones cut with a warning.

  Raises:
    FileNotFoundError: files of the encoder or the cache are missing; the message lists them and where they come from.
    ValueError: an unknown name, a bad length, dtype or vocabulary, files that do not fit together, or a cache of
      something else.
  """
  if width(name) is not None:
    if cache:
      return embeddings.CachedText(cache, PUBLISHED[name], path, length, dtype)
    return encoder(PUBLISHED[name], path, length, dtype)
  if cache:
    raise ValueError(_no_embeddings(name, cache))
  return Words(tuple(vocabulary), length) if name == 'words' else None


def _no_embeddings(name: str, cache: str) -> str:
  return (
    f'data.text_cache={cache!r} has no effect on data.text={name!r}, which has no embeddings to keep: leave it empty, '
    f'or choose data.text of {", ".join(PUBLISHED)}'
  )
