"""A closed vocabulary of words, whose embeddings the network trains."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from vdm_jax.inputs import captions as rules
from vdm_jax.text.truncation import Truncation

PADDING = 0
UNKNOWN = 1
_FIRST_WORD = 2


@dataclasses.dataclass(frozen=True)
class Words:
  """Maps captions to word ids: 0 is padding, 1 an unknown word, 2 the first word of the vocabulary.

  Captions are split by a rule of `inputs.captions`. A caption without words, such as the empty one, becomes one unknown
  word, so that every caption has something to attend to.

  Raises:
    ValueError: `vocabulary` is empty, repeats a word, or has one that no caption can contain; `length` < 1; or the rule
      is unknown.

  >>> Words(('a', 'nine'), length=3)(['a nine', 'A zebra!'])[0].tolist()
  [[2, 3, 0], [2, 1, 0]]
  """

  vocabulary: tuple[str, ...]  # words as the rule gives them
  length: int  # l, tokens per caption
  rule: str = rules.UNICODE  # data.word_rule

  _truncation: Truncation = dataclasses.field(default_factory=Truncation, init=False, repr=False, compare=False)

  width: ClassVar[None] = None  # ids have no embedding width
  unit: ClassVar[str] = 'words'  # what `count` counts

  def __post_init__(self):
    if self.length < 1:
      raise ValueError(f'data.text_length={self.length} is not a valid length: it must be at least 1')
    if not self.vocabulary:
      raise ValueError("data.vocabulary is empty, but data.text='words' needs it: list the words of your captions")
    for word in self.vocabulary:
      if self._split(word) != [word]:
        raise ValueError(
          f'data.vocabulary has {word!r}, which is not one lower-case word: captions never contain it '
          f'(data.word_rule={self.rule!r})'
        )
    if len(set(self.vocabulary)) < len(self.vocabulary):
      repeated = next(word for i, word in enumerate(self.vocabulary) if word in self.vocabulary[:i])
      raise ValueError(f'data.vocabulary has {repeated!r} twice: list every word once')

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    ids = {word: _FIRST_WORD + i for i, word in enumerate(self.vocabulary)}
    for word, number in list(ids.items()):  # an old vocabulary may have decomposed words, but captions are composed now
      ids.setdefault(rules.composed(word), number)
    return ids

  @property
  def vocabulary_size(self) -> int:
    """The number of ids, including padding and the unknown word."""
    return _FIRST_WORD + len(self.vocabulary)

  def unknown_words(self, prompt: str) -> tuple[str, ...]:
    """Return the distinct words of `prompt` that are not in the vocabulary, in order."""
    return tuple(dict.fromkeys(word for word in self._split(prompt) if word not in self._ids))

  def count(self, caption: str) -> int:
    """Return the number of words of a caption, also beyond `length`."""
    return len(self._split(caption))

  def __call__(self, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids int32 [n l] and mask bool [n l], True on words. Warns about the first caption that is cut."""
    tokens = np.full((len(captions), self.length), PADDING, np.int32)
    for row, caption in zip(tokens, captions, strict=True):
      words = self._split(caption)
      if len(words) > self.length:
        self._truncation.warn(caption, len(words), self.length)
      ids = [self._ids.get(word, UNKNOWN) for word in words[: self.length]] or [UNKNOWN]
      row[: len(ids)] = ids
    return tokens, tokens != PADDING

  def _split(self, caption: str) -> list[str]:
    return rules.words(caption, self.rule)
