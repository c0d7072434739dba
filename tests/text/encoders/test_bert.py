"""The Flax BERT against PyTorch's numbers, and what its tokens are."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from vdm_jax.text.encoders import bert_folder, encoder_folder
from vdm_jax.text.encoders.bert import Bert, BertEncoder
from vdm_jax.text.frozen import load_params

TINY = bert_folder.PUBLISHED['bert-large']._replace(sizes={'hidden_size': 16})
CAPTIONS = ['a nine moving left', '', 'six and nine', 'A NINE moving left', 'zebra']
IDS = [[2, 5, 6, 8, 9, 10, 3], [2, 3], [2, 7, 12, 6, 3], [2, 5, 6, 8, 9, 10, 3], [2, 1, 3]]


@pytest.fixture
def bert(write_bert) -> Bert:
  return Bert(TINY, write_bert(), 12)


def forward(path: str, tokens, mask, dtype=jnp.float32) -> np.ndarray:
  network = BertEncoder(encoder_folder.require(path, TINY), dtype)
  return np.asarray(jax.jit(network.apply)(load_params(path, TINY, dtype), tokens, mask))


def test_parity_with_pytorch(write_bert, golden):
  hidden = forward(write_bert(), golden['tokens'], golden['mask'])
  np.testing.assert_allclose(hidden[golden['mask']], golden['hidden'][golden['mask']], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~golden['mask']], 0)


def test_the_names_of_the_published_files_are_read_too(write_bert, golden, golden_weights):
  ours = forward(write_bert(), golden['tokens'], golden['mask'])
  published = {
    'bert.' + n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): w
    for n, w in golden_weights.items()
  } | {'cls.predictions.bias': np.zeros(40, np.float32), 'bert.pooler.dense.bias': np.zeros(16, np.float32)}
  np.testing.assert_array_equal(forward(write_bert(published), golden['tokens'], golden['mask']), ours)


def test_the_mask_masks(write_bert, golden):
  """Whatever stands in the padding leaves the embeddings as they are, to the bit."""
  mask, path = golden['mask'], write_bert()
  other = np.where(mask, golden['tokens'], 17)
  np.testing.assert_array_equal(forward(path, other, mask), forward(path, golden['tokens'], mask))


def test_a_caption_is_the_encoding_of_its_word_pieces(bert):
  embeddings, mask = bert(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [len(ids) for ids in IDS])
  padded = np.array([ids + [0] * (12 - len(ids)) for ids in IDS], np.int32)
  np.testing.assert_allclose(embeddings, forward(bert.path, padded, mask), atol=1e-5, rtol=0)
  np.testing.assert_array_equal(embeddings[~mask], 0)


def test_tokenizer_json_reads_like_vocab_txt(bert):
  expected, _ = bert(CAPTIONS)
  vocabulary = Path(bert.path) / 'vocab.txt'
  tokenizer = transformers.BertTokenizer(str(vocabulary))
  tokenizer.backend_tokenizer.save(str(vocabulary.with_name('tokenizer.json')))
  vocabulary.unlink()
  np.testing.assert_array_equal(Bert(TINY, bert.path, 12)(CAPTIONS)[0], expected)


@pytest.mark.parametrize('length', [2, 21])
def test_a_length_without_room_or_positions_is_refused(write_bert, length):
  message = f'data.text_length={length} must be from 3 to 20 for data.text=bert-large'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    Bert(TINY, write_bert(), length)
