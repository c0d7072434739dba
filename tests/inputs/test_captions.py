"""Words of captions by each rule. The expected words follow Unicode Standard Annex 29 where it has a rule."""

from __future__ import annotations

import random
import unicodedata

import pytest
from helpers.messages import raises

from vdm_jax.inputs import captions
from vdm_jax.inputs.captions import clean, composed, variants, vocabulary, words

SPLIT = {
  'cars, taxis and bicycles.': ['cars', 'taxis', 'and', 'bicycles'],
  '"Don\'t", she said -- (softly)...': ["don't", 'she', 'said', 'softly'],
  'l’homme d’or': ["l'homme", "d'or"],  # a typographic apostrophe is an apostrophe
  "the dogs' 'toys'": ['the', 'dogs', 'toys'],
  '3.5 m, 1,000 km. In 4k; 3,': ['3.5', 'm', '1,000', 'km', 'in', '4k', '3'],
  'end.Start red_car a/b': ['end', 'start', 'red', 'car', 'a', 'b'],
  'black-and-white T-shirt – wide': ['black', 'and', 'white', 't', 'shirt', 'wide'],
  'CAFÉ cafe\u0301 café': ['café', 'café', 'café'],
  'STRASSE Straße': ['strasse', 'strasse'],
  'ΣΊΣΥΦΟΣ Σίσυφος': ['σίσυφοσ', 'σίσυφοσ'],
  'ＡＢＣ１２　ｃａｆé！': ['abc12', 'café'],
  'ﬁlm ①': ['film', '1'],
  '東京の夜、カメラー。': ['東', '京', 'の', '夜', 'カメラー'],
  '한국어 영화': ['한국어', '영화'],
  'हिन्दी में': ['हिन्दी', 'में'],  # vowel signs are marks, which belong to their letter
  'ดี มา': ['ดี', 'ม', 'า'],
  'می\u200cخواهم': ['می\u200cخواهم'],  # the non-joiner is part of Persian spelling
  'a\ufeff dog\u200bruns soft\u00adly': ['a', 'dog', 'runs', 'softly'],
  '👩🏽\u200d🚒 runs 🇫🇷🇩🇪 ❤\ufe0f ❤!': ['👩🏽\u200d🚒', 'runs', '🇫🇷', '🇩🇪', '❤', '❤'],
  '... !? —': [],
}


@pytest.mark.parametrize('caption', SPLIT)
def test_words(caption):
  assert words(caption) == SPLIT[caption]
  assert all(words(word) == [word] for word in SPLIT[caption])  # a vocabulary of them is valid
  decomposed = unicodedata.normalize('NFD', caption)
  assert words(decomposed) == SPLIT[caption]


def test_ascii_text_takes_a_fast_path_to_the_same_words():
  rng = random.Random(0)
  for _ in range(3000):
    text = ''.join(rng.choices("aB3.,'- x9_&%\n", k=12))
    slow = captions._WORD.findall(text.casefold())
    assert words(text) == slow, text


def test_the_rule_of_earlier_versions_is_unchanged():
  assert words('Cars, taxis\n3.5 CAFÉ', 'whitespace') == ['cars,', 'taxis', '3.5', 'café']
  with raises(ValueError, 'data.word_rule', "'unicod'", 'unicode, whitespace'):
    words('a', 'unicod')


def test_words_written_in_several_ways_are_listed():
  found = variants(['Cars, taxis', 'a cars café', 'cafe\u0301 cars. black-and-white', 'black'])
  assert found == {'café': ('cafe\u0301', 'café'), 'cars': ('cars', 'cars,', 'cars.')}
  assert vocabulary(['Cars, a', 'cars']) == ('a', 'cars')


def test_a_caption_has_one_form():
  assert clean('\ufeff a  dog\r\nruns\u3000') == 'a dog runs'
  assert composed('cafe\u0301') == 'caf\u00e9'
