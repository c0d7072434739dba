"""A closed vocabulary of words, whose embeddings the network trains."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from vdm_jax.text.truncation import warn_truncated

PADDING = 0
UNKNOWN = 1
_FIRST_WORD = 2


@dataclasses.dataclass(frozen=True)
class Words:
  """Maps captions to word ids: 0 is padding, 1 an unknown word, 2 the first word of the vocabulary.

  Captions are lower-cased and split at white space. A caption without words, such as the empty one, becomes one unknown
  word, so that every caption has something to attend to.

  Raises:
    ValueError: `vocabulary` is empty, repeats a word, or has one that no caption can contain; or `length` < 1.

  >>> Words(('a', 'nine'), length=3)(['a nine', 'A zebra'])[0].tolist()
  [[2, 3, 0], [2, 1, 0]]
  """

  vocabulary: tuple[str, ...]  # lower case, without white space
  length: int  # l, tokens per caption

  width: ClassVar[None] = None  # ids have no embedding width

  def __post_init__(self):
    if self.length < 1:
      raise ValueError(f'data.text_length={self.length} is not a valid length: it must be at least 1')
    if not self.vocabulary:
      raise ValueError("data.vocabulary is empty, but data.text='words' needs it: list the words of your captions")
    for word in self.vocabulary:
      if word.lower().split() != [word]:
        raise ValueError(f'data.vocabulary has {word!r}, which is not one lower-case word: captions never contain it')
    if len(self._ids) < len(self.vocabulary):
      repeated = next(word for i, word in enumerate(self.vocabulary) if word in self.vocabulary[:i])
      raise ValueError(f'data.vocabulary has {repeated!r} twice: list every word once')

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    return {word: _FIRST_WORD + i for i, word in enumerate(self.vocabulary)}

  @property
  def vocabulary_size(self) -> int:
    """The number of ids, including padding and the unknown word."""
    return _FIRST_WORD + len(self.vocabulary)

  def unknown_words(self, prompt: str) -> tuple[str, ...]:
    """Return the distinct words of `prompt` that are not in the vocabulary, in order."""
    return tuple(dict.fromkeys(word for word in prompt.lower().split() if word not in self._ids))

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids int32 [n l] and mask bool [n l], True on words. Warns about captions that are cut."""
    tokens = np.full((len(captions), self.length), PADDING, np.int32)
    for row, caption in zip(tokens, captions, strict=True):
      words = caption.lower().split()
      if len(words) > self.length:
        warn_truncated(caption, len(words), self.length)
      ids = [self._ids.get(word, UNKNOWN) for word in words[: self.length]] or [UNKNOWN]
      row[: len(ids)] = ids
    return tokens, tokens != PADDING
