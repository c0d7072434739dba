"""Words to ids and back, and what happens to the unknown, the empty and the long."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from vdm_jax.text.words import Words

VOCABULARY = ('a', 'nine', 'moving', 'left')


def test_known_captions_come_back_from_their_ids():
  words = Words(VOCABULARY, 6)
  captions = ['a nine moving left', 'left', 'nine nine a']
  tokens, mask = words(captions)
  back = [' '.join(VOCABULARY[i - 2] for i in row[keep]) for row, keep in zip(tokens, mask, strict=True)]
  assert back == captions
  assert (tokens.dtype, mask.dtype) == (np.int32, np.bool_)
  assert words.vocabulary_size == 6 == 1 + words(['left'])[0].max()


def test_the_mask_counts_the_words_and_padding_is_zero():
  tokens, mask = Words(VOCABULARY, 5)(['a nine', 'a nine moving left a', 'zebra'])
  np.testing.assert_array_equal(mask.sum(1), [2, 5, 1])
  np.testing.assert_array_equal(mask, np.sort(mask)[:, ::-1])
  np.testing.assert_array_equal(tokens[~mask], 0)
  assert (tokens[mask] > 0).all()


def test_case_and_white_space_do_not_matter():
  tokens, _ = Words(VOCABULARY, 4)(['a nine', '  A\tNiNe\n'])
  np.testing.assert_array_equal(tokens[0], tokens[1])


def test_a_longer_row_only_adds_padding():
  captions = ['a nine', 'left zebra a']
  short, long = Words(VOCABULARY, 3)(captions), Words(VOCABULARY, 7)(captions)
  for few, many in zip(short, long, strict=True):
    np.testing.assert_array_equal(few, many[:, :3])
    assert not many[:, 3:].any()


def test_unknown_words_read_as_one_and_are_named_once():
  words = Words(VOCABULARY, 4)
  np.testing.assert_array_equal(words(['a zebra left Zebra'])[0], [[2, 1, 5, 1]])
  assert words.unknown_words('Zebra a yak zebra LEFT') == ('zebra', 'yak')
  assert words.unknown_words('') == ()


@pytest.mark.parametrize('caption', ['', '   '])
def test_the_empty_caption_has_something_to_attend_to(caption):
  tokens, mask = Words(VOCABULARY, 3)([caption])
  np.testing.assert_array_equal(tokens, [[1, 0, 0]])
  np.testing.assert_array_equal(mask, [[True, False, False]])


def test_a_long_caption_is_cut_with_a_warning_that_names_it():
  message = "the caption 'a nine left' has 3 tokens and is cut to data.text_length=2; raise it to keep all"
  with pytest.warns(UserWarning, match=re.escape(message)):
    tokens, _ = Words(VOCABULARY, 2)(['a nine left'])
  np.testing.assert_array_equal(tokens, [[2, 3]])


def test_a_very_long_caption_is_named_by_its_beginning():
  with pytest.warns(UserWarning) as caught:
    Words(VOCABULARY, 2)(['nine ' * 100_000])
  assert len(str(caught[0].message)) < 250


def test_no_captions_give_no_rows():
  tokens, mask = Words(VOCABULARY, 3)([])
  assert tokens.shape == mask.shape == (0, 3)


def test_a_pickled_copy_is_equal_and_reads_the_same():
  words = Words(VOCABULARY, 4)
  copy = pickle.loads(pickle.dumps(words))
  assert copy == words
  np.testing.assert_array_equal(copy(['a nine zebra'])[0], words(['a nine zebra'])[0])


@pytest.mark.parametrize(
  ('vocabulary', 'length', 'message'),
  [
    (('a',), 0, 'data.text_length=0 holds no word; it must be at least 1'),
    ((), 4, "data.vocabulary is empty, so data.text='words' knows no word; list the words of your captions"),
    (('Nine',), 4, "data.vocabulary has 'Nine', which is not one lower-case word; captions never contain it"),
    (('a b',), 4, "data.vocabulary has 'a b', which is not one lower-case word; captions never contain it"),
    (('',), 4, "data.vocabulary has '', which is not one lower-case word; captions never contain it"),
    (('a', 'b', 'a'), 4, "data.vocabulary has 'a' twice; list every word once"),
  ],
)
def test_bad_settings_are_refused(vocabulary, length, message):
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    Words(vocabulary, length)
