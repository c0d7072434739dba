"""Text functions: `encode(captions) -> (tokens, mask)`, chosen by name.

`none` is no text function. `words` gives int32 word ids [n l], which the network embeds and trains. A frozen encoder
(`encoders.ENCODERS`: `bert`, `clip`, `t5` and `umt5` of any size, and published models such as `bert-large` and
`t5-11b`) gives float32 embeddings [n l c] of the width c that `width` returns; they may come from a cache, which
`python -m vdm_jax.text embed` fills.

The mask is bool [n l], False on padding. It is True at least once for every caption, the empty one included, so that
attention over a caption never divides by zero. Every text function can be pickled and called from several threads;
`count(caption)` returns the number of its tokens, also of those that are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vdm_jax.inputs.captions import UNICODE
from vdm_jax.names import choose
from vdm_jax.text import cache as embeddings
from vdm_jax.text.encoders import ENCODERS, encoder_folder
from vdm_jax.text.encoders.contract import Encoder
from vdm_jax.text.frozen import FrozenEncoder
from vdm_jax.text.words import Words

__all__ = ['Encode', 'Words', 'build', 'check', 'encoder', 'is_frozen', 'width']

Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


def is_frozen(name: str) -> bool:
  """Return whether text function `name` is a frozen encoder, which gives embeddings.

  Raises:
    ValueError: an unknown name.

  >>> is_frozen('bert'), is_frozen('words')
  (True, False)
  """
  choose('data.text', name, ('none', 'words', *ENCODERS))
  return name in ENCODERS


def width(name: str, path: str = '', cache: str = '') -> int | None:
  """Return the embedding width of text function `name`, or None if it gives no embeddings. Loads no weights.

  Args:
    name: `none`, `words` or a frozen encoder (data.text).
    path: folder of the encoder (data.text_path), whose config.json has the width of `bert`, `clip`, `t5` and `umt5`.
    cache: folder of embeddings (data.text_cache), which has it too.

  Raises:
    FileNotFoundError: the width is only in the encoder's files, and they are not there.
    ValueError: an unknown name, or an invalid configuration or cache.

  >>> width('t5-11b'), width('words')
  (1024, None)
  """
  if not is_frozen(name):
    return None
  published = ENCODERS[name]
  if published.width is not None:
    return published.width
  if cache and not encoder_folder.has_config(path):
    return embeddings.read_record(cache).width
  if not encoder_folder.has_config(path):
    raise FileNotFoundError(encoder_folder.missing(path, published))
  return getattr(encoder_folder.read_config(path, published), published.architecture.width_field)


def check(
  name: str,
  path: str = '',
  *,
  length: int = 0,
  dtype: str = 'float32',
  cache: str = '',
  captions: Sequence[str] = (),
) -> list[str]:
  """Return what keeps `build` from working, one sentence each.

  Reads file headers only: no weights are loaded, and JAX computes nothing. With a `cache`, the weights in `path` are
  hashed to compare them, and the cache must contain `captions`.

  Raises:
    ValueError: an unknown name.
  """
  if not is_frozen(name):
    return [_no_embeddings(name, cache)] if cache else []
  if cache:
    return embeddings.problems(cache, ENCODERS[name], captions, path=path, length=length, dtype=dtype)
  return encoder_folder.problems(path, ENCODERS[name])


def build(
  name: str,
  *,
  path: str = '',
  length: int,
  vocabulary: Sequence[str] = (),
  word_rule: str = '',
  dtype: str = 'float32',
  cache: str = '',
) -> Encode | None:
  """Return the text function `name`, or None for `none`.

  Args:
    name: `none`, `words` or a frozen encoder (data.text).
    path: folder with the files of a frozen encoder (data.text_path).
    length: tokens per caption, l (data.text_length). Shorter captions are padded, longer ones are cut.
    vocabulary: the known words, for `words` (data.vocabulary).
    word_rule: how `words` splits captions, a rule of `inputs.captions` (data.word_rule); '': the current one.
    dtype: type of a frozen encoder's matrix products (data.text_dtype).
    cache: folder of embeddings to read instead of computing them (data.text_cache).

  Raises:
    FileNotFoundError: files of the encoder or the cache are missing; the message lists them and where to get them.
    ValueError: an unknown name, an invalid length, dtype or vocabulary, files that do not fit together, or a cache made
      with other settings.

  >>> tokens, mask = build('words', length=3, vocabulary=('left', 'right'))(['right left'])
  >>> tokens.tolist(), mask.tolist()
  ([[3, 2, 0]], [[True, True, False]])
  """
  if is_frozen(name):
    if cache:
      return embeddings.CachedText(cache, ENCODERS[name], path=path, length=length, dtype=dtype)
    return encoder(ENCODERS[name], path, length, dtype)
  if cache:
    raise ValueError(_no_embeddings(name, cache))
  return Words(tuple(vocabulary), length, word_rule or UNICODE) if name == 'words' else None


def encoder(
  published: Encoder, path: str, length: int, dtype: str = 'float32', mesh: Mapping[str, int] | None = None
) -> FrozenEncoder:
  """Return the text function of a frozen encoder; arguments and errors are those of `FrozenEncoder`."""
  return FrozenEncoder(published, path, length=length, dtype=dtype, mesh=mesh)


def _no_embeddings(name: str, cache: str) -> str:
  return (
    f'data.text_cache={cache!r} has no effect: data.text={name!r} has no embeddings. Leave it empty, or set data.text '
    f'to one of {", ".join(ENCODERS)}'
  )
