"""The door of the text room: names, widths, and errors before anything is loaded."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from vdm_jax import text
from vdm_jax.text.encoders import encoder_folder, t5_folder

NO_FILES = (
  'data.text=bert-large needs a folder with model.safetensors, config.json and tokenizer.json or vocab.txt '
  'of bert-large-uncased, and {}. Download them from google-bert/bert-large-uncased on the Hugging Face hub '
  'into one folder and pass --config.data.text_path=FOLDER, or train word embeddings instead, which need no '
  'files: --config.data.text=words'
)
NO_T5_FILES = (
  'data.text=t5-11b needs a folder with model.safetensors, config.json and tokenizer.json of t5-11b, and '
  'data.text_path is empty. Where PyTorch is installed, '
  'transformers.T5EncoderModel.from_pretrained("google-t5/t5-11b", dtype="bfloat16").save_pretrained("FOLDER") '
  'writes the first two; download tokenizer.json, which all T5 share, from google-t5/t5-base on the Hugging Face '
  'hub into the same folder and pass --config.data.text_path=FOLDER, or train word embeddings instead, which need '
  'no files: --config.data.text=words'
)
ALL_FILES = 'model.safetensors, config.json, tokenizer.json or vocab.txt'


def test_none_has_no_text_function():
  assert text.build('none', length=4) is None


def test_words_are_built_from_the_vocabulary():
  encode = text.build('words', length=3, vocabulary=['left', 'right'])
  np.testing.assert_array_equal(encode(['right left up'])[0], [[3, 2, 1]])


def test_the_width_is_known_before_anything_is_loaded():
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
  config = encoder_folder.read_config(write_t5(**small), t5_folder.PUBLISHED['t5-base'])
  rng = np.random.default_rng(0)
  shapes = encoder_folder.tensor_shapes(config, t5_folder.T5)
  path = write_t5(weights={n: 0.02 * rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}, **small)
  assert text.check('t5-base', path) == []
  encode = text.build('t5-base', path=path, length=6)
  embeddings, mask = encode(['a nine', ''])
  assert embeddings.shape == (2, 6, encode.width) == (2, 6, 768)
  np.testing.assert_array_equal(mask.sum(1), [3, 1])
  assert text.check('t5-large', path) == [
    f'{path}/config.json: d_model is 768, data.text=t5-large needs 1024',
    f'{path}/config.json: d_ff is 3072, data.text=t5-large needs 4096',
  ]


def test_another_width_is_refused_by_name(write_bert):
  path = write_bert()
  message = f'{path}/config.json: hidden_size is 16, data.text=bert-large needs 1024'
  assert text.check('bert-large', path) == [message]
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    text.build('bert-large', path=path, length=6)


@pytest.mark.parametrize('call', [text.width, text.check, lambda name: text.build(name, length=4)])
@pytest.mark.parametrize(('name', 'nearest'), [('bert', 'bert-large'), ('t5-xxl', 't5-v1_1-xxl')])
def test_an_unknown_name_gets_the_nearest_one(call, name, nearest):
  message = (
    f'data.text={name!r} is unknown; the nearest of none, words, bert-large, clip-vit-base-patch32, '
    f'clip-vit-large-patch14, t5-base, t5-large, t5-11b, t5-v1_1-xxl is {nearest!r}'
  )
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
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
def test_missing_files_are_listed_with_the_remedy(tmp_path, present, lacks):
  for name in present:
    (tmp_path / name).write_text(json.dumps({}))
  message = NO_FILES.format(f'data.text_path={str(tmp_path)!r} lacks {lacks}')
  assert text.check('bert-large', str(tmp_path)) == [message]
  with pytest.raises(FileNotFoundError, match=f'^{re.escape(message)}$'):
    text.build('bert-large', path=str(tmp_path), length=8)


def test_an_empty_path_is_not_the_working_directory():
  message = NO_FILES.format('data.text_path is empty')
  with pytest.raises(FileNotFoundError, match=f'^{re.escape(message)}$'):
    text.build('bert-large', length=8)


def test_t5_says_how_to_make_its_files():
  assert text.check('t5-11b') == [NO_T5_FILES]
  with pytest.raises(FileNotFoundError, match=f'^{re.escape(NO_T5_FILES)}$'):
    text.build('t5-11b', length=8)
