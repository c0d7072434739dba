"""Text functions by name: widths, and errors before anything is loaded."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.text_encoders import random_weights

from vdm_jax import text
from vdm_jax.text.encoders import ENCODERS

ALL_FILES = 'model.safetensors, config.json, tokenizer.json or vocab.txt'


def missing_files(where: str) -> str:
  """The pattern of the message that files of BERT-large are missing."""
  return (
    '^data.text=bert-large needs a folder with model.safetensors, config.json and tokenizer.json or vocab.txt of '
    f'bert-large-uncased, but {re.escape(where)}. Download them from google-bert/bert-large-uncased on the Hugging '
    'Face hub .*--config.data.text_path=FOLDER.*--config.data.text=words$'
  )


def test_none_has_no_text_function():
  assert text.build('none', length=4) is None


def test_words_are_built_from_the_vocabulary():
  encode = text.build('words', length=3, vocabulary=['left', 'right'])
  np.testing.assert_array_equal(encode(['right left up'])[0], [[3, 2, 1]])


def test_the_width_is_known_without_files():
  assert [text.width(name) for name in ('none', 'words', 'bert-large')] == [None, None, 1024]
  widths = {'t5-base': 768, 't5-large': 1024, 't5-11b': 1024, 't5-v1_1-xxl': 4096}
  assert {name: text.width(name) for name in widths} == widths
  assert text.build('words', length=3, vocabulary=('a',)).width is None


def test_bert_large_is_built_from_a_folder_of_its_width(small_bert_large):
  assert text.check('bert-large', small_bert_large) == []
  encode = text.build('bert-large', path=small_bert_large, length=6)
  embeddings, mask = encode(['a nine', ''])
  assert embeddings.shape == (2, 6, encode.width) == (2, 6, 1024)
  np.testing.assert_array_equal(mask.sum(1), [4, 2])


def test_t5_base_is_built_from_a_folder_of_its_sizes(write_t5):
  small = {'num_layers': 1, 'd_kv': 2, 'd_model': 768, 'd_ff': 3072}
  path = write_t5(weights=random_weights(write_t5(**small), ENCODERS['t5-base']), **small)
  assert text.check('t5-base', path) == []
  encode = text.build('t5-base', path=path, length=6)
  embeddings, mask = encode(['a nine', ''])
  assert embeddings.shape == (2, 6, encode.width) == (2, 6, 768)
  np.testing.assert_array_equal(mask.sum(1), [3, 1])
  assert text.check('t5-large', path) == [
    f'{path}/config.json: d_model is 768, data.text=t5-large needs 1024',
    f'{path}/config.json: d_ff is 3072, data.text=t5-large needs 4096',
  ]


def test_another_width_is_rejected(write_bert):
  path = write_bert()
  message = f'{path}/config.json: hidden_size is 16, data.text=bert-large needs 1024'
  assert text.check('bert-large', path) == [message]
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    text.build('bert-large', path=path, length=6)


@pytest.mark.parametrize('call', [text.width, text.check, lambda name: text.build(name, length=4)])
@pytest.mark.parametrize(('name', 'closest'), [('bert_large', 'bert-large'), ('t5-xxl', 't5-v1_1-xxl')])
def test_unknown_names_are_answered_with_the_closest(call, name, closest):
  names = re.escape(', '.join(('none', 'words', *ENCODERS)))
  with pytest.raises(ValueError, match=rf"^data\.text='{name}' is unknown: .*{names}.*'{closest}'"):
    call(name)


@pytest.mark.parametrize(
  ('present', 'lacks'),
  [
    ([], ALL_FILES),
    (['model.safetensors'], 'config.json, tokenizer.json or vocab.txt'),
    (['model.safetensors', 'config.json'], 'tokenizer.json or vocab.txt'),
    (['vocab.txt', 'config.json'], 'model.safetensors'),
    (['tokenizer.json'], 'model.safetensors, config.json'),
  ],
)
def test_missing_files_are_listed(tmp_path, present, lacks):
  for name in present:
    (tmp_path / name).write_text(json.dumps({}))
  message = missing_files(f'data.text_path={str(tmp_path)!r} lacks {lacks}')
  (problem,) = text.check('bert-large', str(tmp_path))
  assert re.match(message, problem)
  with pytest.raises(FileNotFoundError, match=message):
    text.build('bert-large', path=str(tmp_path), length=8)


def test_an_empty_path_is_not_the_working_directory():
  with pytest.raises(FileNotFoundError, match=missing_files('data.text_path is empty')):
    text.build('bert-large', length=8)


def test_t5_explains_how_to_make_its_files():
  (problem,) = text.check('t5-11b')
  assert problem.startswith('data.text=t5-11b needs a folder with model.safetensors, config.json and tokenizer.json')
  assert (
    'transformers.T5EncoderModel.from_pretrained("google-t5/t5-11b", dtype="bfloat16").save_pretrained("FOLDER")'
  ) in problem
  assert 'download tokenizer.json, which all T5 models share, from google-t5/t5-base' in problem
  with pytest.raises(FileNotFoundError, match=f'^{re.escape(problem)}$'):
    text.build('t5-11b', length=8)
