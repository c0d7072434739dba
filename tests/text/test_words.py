"""Word ids and masks of known, unknown, empty and long captions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from vdm_jax.text.words import Words

VOCABULARY = ('a', 'nine', 'moving', 'left')


def test_ids_decode_to_known_captions():
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


def test_a_larger_length_only_adds_padding():
  captions = ['a nine', 'left zebra a']
  short, long = Words(VOCABULARY, 3)(captions), Words(VOCABULARY, 7)(captions)
  for few, many in zip(short, long, strict=True):
    np.testing.assert_array_equal(few, many[:, :3])
    assert not many[:, 3:].any()


def test_unknown_words_share_one_id_and_are_listed_once():
  words = Words(VOCABULARY, 4)
  np.testing.assert_array_equal(words(['a zebra left Zebra'])[0], [[2, 1, 5, 1]])
  assert words.unknown_words('Zebra a yak zebra LEFT') == ('zebra', 'yak')
  assert words.unknown_words('') == ()


@pytest.mark.parametrize('caption', ['', '   '])
def test_the_empty_caption_has_something_to_attend_to(caption):
  tokens, mask = Words(VOCABULARY, 3)([caption])
  np.testing.assert_array_equal(tokens, [[1, 0, 0]])
  np.testing.assert_array_equal(mask, [[True, False, False]])


def test_cutting_a_caption_warns():
  with pytest.warns(UserWarning, match=r"caption 'a nine left' has 3 tokens and is cut to data\.text_length=2"):
    tokens, _ = Words(VOCABULARY, 2)(['a nine left'])
  np.testing.assert_array_equal(tokens, [[2, 3]])


def test_the_warning_shows_the_beginning_of_a_very_long_caption():
  with pytest.warns(UserWarning) as caught:
    Words(VOCABULARY, 2)(['nine ' * 100_000])
  assert len(str(caught[0].message)) < 250


def test_no_captions_give_no_rows():
  tokens, mask = Words(VOCABULARY, 3)([])
  assert tokens.shape == mask.shape == (0, 3)


def test_a_pickled_copy_is_equal_and_gives_the_same_ids():
  words = Words(VOCABULARY, 4)
  copy = pickle.loads(pickle.dumps(words))
  assert copy == words
  np.testing.assert_array_equal(copy(['a nine zebra'])[0], words(['a nine zebra'])[0])


@pytest.mark.parametrize(
  ('vocabulary', 'length', 'message'),
  [
    (('a',), 0, r'^data\.text_length=0 is not a valid length'),
    ((), 4, r"^data\.vocabulary is empty, but data\.text='words'"),
    (('Nine',), 4, r"^data\.vocabulary has 'Nine', which is not one lower-case word"),
    (('a b',), 4, r"^data\.vocabulary has 'a b', which is not one lower-case word"),
    (('',), 4, r"^data\.vocabulary has '', which is not one lower-case word"),
    (('a', 'b', 'a'), 4, r"^data\.vocabulary has 'a' twice"),
  ],
)
def test_invalid_settings_are_rejected(vocabulary, length, message):
  with pytest.raises(ValueError, match=message):
    Words(vocabulary, length)
