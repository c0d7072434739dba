"""One form for names, captions and prompts, and the words of a caption.

Rules for splitting a caption into words (`data.word_rule`):

`unicode`: letters, digits and marks are words; punctuation only separates them. Case, compatibility forms (full-width
letters, ligatures) and the composition of accents do not matter (Unicode NFKC and case folding). As in Unicode Standard
Annex 29, an apostrophe inside a word (don't) and a point or comma inside a number (3.5) belong to it, hyphens separate,
and in scripts without spaces every ideograph, kana or letter is a word. An emoji is a word.

`whitespace`: what white space separates, in lower case, punctuation included. Runs of earlier versions keep it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import regex

from vdm_jax.names import choose

UNICODE, WHITESPACE = 'unicode', 'whitespace'

# Characters without width that are no part of a word; the zero-width space separates words of Thai and Khmer.
_INVISIBLE = dict.fromkeys(
  [0xAD, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFE0E, 0xFE0F, 0xFEFF]
) | {0x200B: ' ', 0x2019: "'", 0x2BC: "'"}
_UNSPACED = r'[\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]'
_LETTER = rf'(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}][\p{{M}}\u200C\u200D]*)'
_INSIDE = r"(?:(?<=\p{N})[.,](?=\p{N})|(?<=[\p{L}\p{M}])'(?=\p{L}))"
_WORD = regex.compile(rf'{_UNSPACED}\p{{M}}*|{_LETTER}+(?:{_INSIDE}{_LETTER}+)*|(?=\p{{So}})\X')
# The same words for ASCII text, which most captions are, a hundred times faster.
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:(?:(?<=[0-9])[.,](?=[0-9])|(?<=[a-z])'(?=[a-z]))[a-z0-9]+)*")


def composed(text: str) -> str:
  """Return text in Unicode normal form C: macOS stores é in names as two characters, other systems as one.

  >>> len('cafe\u0301'), len(composed('cafe\u0301'))
  (5, 4)
  """
  return text if text.isascii() else unicodedata.normalize('NFC', text)


def clean(text: str) -> str:
  """Return a caption or prompt as it is stored: composed, without a byte-order mark, with single spaces.

  >>> clean(' a  dog\\truns ')
  'a dog runs'
  """
  return ' '.join(composed(text).replace('\ufeff', '').split())


def words(caption: str, rule: str = UNICODE) -> list[str]:
  """Return the words of a caption in order, by a rule of this module.

  Raises:
    ValueError: the rule is unknown.

  >>> words("Cars, taxis and 3.5 t of bicycles. Don't stop!")
  ['cars', 'taxis', 'and', '3.5', 't', 'of', 'bicycles', "don't", 'stop']
  >>> words('Cars, taxis', 'whitespace')
  ['cars,', 'taxis']
  """
  return choose('data.word_rule', rule, _RULES)(caption)


def vocabulary(captions: Iterable[str], rule: str = UNICODE) -> tuple[str, ...]:
  """Return the distinct words of captions, sorted.

  >>> vocabulary(['a dog', 'A dog.'])
  ('a', 'dog')
  """
  split = choose('data.word_rule', rule, _RULES)
  return tuple(sorted({word for caption in captions for word in split(caption)}))


def variants(captions: Iterable[str]) -> dict[str, tuple[str, ...]]:
  """Return the words that are written in several ways, by their word: in another case, Unicode form or punctuation.

  >>> variants(['Cars, taxis', 'a car and cars'])
  {'cars': ('cars', 'cars,')}
  """
  found = defaultdict(set)
  for written in vocabulary(captions, WHITESPACE):
    if len(split := _unicode_words(written)) == 1:  # not a compound, such as black-and-white
      found[split[0]].add(written)
  return {word: tuple(sorted(forms)) for word, forms in sorted(found.items()) if len(forms) > 1}


def _unicode_words(caption: str) -> list[str]:
  if caption.isascii():
    return _ASCII_WORD.findall(caption.lower())
  folded = unicodedata.normalize('NFKC', caption).casefold()
  return _WORD.findall(unicodedata.normalize('NFKC', folded).translate(_INVISIBLE))


def _split_at_white_space(caption: str) -> list[str]:
  return caption.lower().split()


_RULES = {UNICODE: _unicode_words, WHITESPACE: _split_at_white_space}
