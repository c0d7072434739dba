"""BERT against PyTorch's numbers; its tokens, folder and parameters."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import transformers
from helpers.text_encoders import TINY_BERT, forward, listed_parameters, parameters

from vdm_jax.text.encoders import encoder_folder
from vdm_jax.text.encoders.bert import BERT, BertConfig
from vdm_jax.text.encoders.transformer_layers import ACTIVATIONS
from vdm_jax.text.frozen import FrozenEncoder

CAPTIONS = ['a nine moving left', '', 'six and nine', 'A NINE moving left', 'zebra']
IDS = [[2, 5, 6, 8, 9, 10, 3], [2, 3], [2, 7, 12, 6, 3], [2, 5, 6, 8, 9, 10, 3], [2, 1, 3]]


@pytest.fixture
def bert(write_bert) -> FrozenEncoder:
  return FrozenEncoder(TINY_BERT, write_bert(), 12)


def test_parity_with_pytorch(write_bert, golden):
  hidden = forward(write_bert(), TINY_BERT, golden['tokens'], golden['mask'])
  np.testing.assert_allclose(hidden[golden['mask']], golden['hidden'][golden['mask']], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~golden['mask']], 0)


def test_tensor_names_of_the_published_files_are_read(write_bert, golden, golden_weights):
  ours = forward(write_bert(), TINY_BERT, golden['tokens'], golden['mask'])
  published = {
    'bert.' + n.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): w
    for n, w in golden_weights.items()
  } | {'cls.predictions.bias': np.zeros(40, np.float32), 'bert.pooler.dense.bias': np.zeros(16, np.float32)}
  np.testing.assert_array_equal(forward(write_bert(published), TINY_BERT, golden['tokens'], golden['mask']), ours)


def test_padding_does_not_change_embeddings(write_bert, golden):
  """Whatever tokens the padding has, embeddings are the same to the bit."""
  mask, path = golden['mask'], write_bert()
  other = np.where(mask, golden['tokens'], 17)
  np.testing.assert_array_equal(forward(path, TINY_BERT, other, mask), forward(path, TINY_BERT, golden['tokens'], mask))


def test_a_caption_is_encoded_as_its_word_pieces(bert):
  embeddings, mask = bert(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [len(ids) for ids in IDS])
  padded = np.array([ids + [0] * (12 - len(ids)) for ids in IDS], np.int32)
  np.testing.assert_allclose(embeddings, forward(bert.path, TINY_BERT, padded, mask), atol=1e-5, rtol=0)
  np.testing.assert_array_equal(embeddings[~mask], 0)


def test_tokenizer_json_equals_vocab_txt(bert):
  expected, _ = bert(CAPTIONS)
  vocabulary = Path(bert.path) / 'vocab.txt'
  tokenizer = transformers.BertTokenizer(str(vocabulary))
  tokenizer.backend_tokenizer.save(str(vocabulary.with_name('tokenizer.json')))
  vocabulary.unlink()
  np.testing.assert_array_equal(FrozenEncoder(TINY_BERT, bert.path, 12)(CAPTIONS)[0], expected)


def test_tokenizer_json_decides_about_case(bert):
  """A folder of a cased model may have no other file that says so."""
  vocabulary = Path(bert.path) / 'vocab.txt'
  tokenizer = transformers.BertTokenizer(str(vocabulary), do_lower_case=False)
  tokenizer.backend_tokenizer.save(str(vocabulary.with_name('tokenizer.json')))
  assert FrozenEncoder(TINY_BERT, bert.path, 12).ids('A NINE moving left') == [2, 1, 1, 8, 9, 10, 3]


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('gelu', lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
    ('gelu_new', lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ('quick_gelu', lambda x: x / (1 + math.exp(-1.702 * x))),
    ('relu', lambda x: max(x, 0)),
    ('silu', lambda x: x / (1 + math.exp(-x))),
  ],
)
def test_activations_are_their_formulas(name, expected):
  x = np.linspace(-5, 5, 41, dtype=np.float32)
  np.testing.assert_allclose(ACTIVATIONS[name](x), [expected(float(value)) for value in x], atol=2e-6)


def test_the_activation_of_the_folder_is_used(write_bert, golden):
  """With weights as they are, another activation gives other embeddings; a missing one is that of the first models."""
  tokens, mask = golden['tokens'], golden['mask']
  before = forward(write_bert(), TINY_BERT, tokens, mask)
  assert np.abs(forward(write_bert(hidden_act='relu'), TINY_BERT, tokens, mask) - before).max() > 0.1
  file = Path(write_bert()) / 'config.json'
  values = json.loads(file.read_text())
  del values['hidden_act'], values['layer_norm_eps']
  file.write_text(json.dumps(values))
  np.testing.assert_array_equal(forward(str(file.parent), TINY_BERT, tokens, mask), before)


@pytest.mark.parametrize('length', [2, 21])
def test_invalid_lengths_are_rejected(write_bert, length):
  with pytest.raises(ValueError, match=rf'^data\.text_length={length} must be from 3 to 20 for data\.text=bert-large$'):
    FrozenEncoder(TINY_BERT, write_bert(), length)


def test_tensors_are_those_of_pytorch(write_bert, golden_weights):
  shapes = encoder_folder.tensor_shapes(encoder_folder.require(write_bert(), TINY_BERT), BERT)
  assert shapes == {name: value.shape for name, value in golden_weights.items()}


def test_bert_large_has_the_published_number_of_parameters():
  """335 million, less 1.05 million of the pooler (Devlin et al. 2018, section 3); module and tensors agree."""
  config = BertConfig(
    vocab_size=30522,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=512,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
  )
  shapes = parameters(TINY_BERT, config)
  assert shapes == listed_parameters(TINY_BERT, config)
  assert sum(np.prod(shape) for shape in shapes.values()) == 334_092_288


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'roberta'}, "model_type='roberta' is not supported, only 'bert'; use bert-large-uncased"),
    ({'hidden_act': 'gelu_10'}, f"hidden_act='gelu_10' is not supported, only {', '.join(ACTIVATIONS)}"),
    (
      {'position_embedding_type': 'relative_key'},
      "position_embedding_type='relative_key' is not supported, only 'absolute'; use bert-large-uncased",
    ),
    ({'is_decoder': True}, 'is_decoder=True is not supported, only False; use bert-large-uncased'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers=0 is not a positive number; download it again'),
    ({'vocab_size': '40'}, "vocab_size='40' is not a positive number; download it again"),
    ({'num_attention_heads': 3}, 'hidden_size=16 is not a multiple of 3 heads'),
  ],
)
def test_other_architectures_are_rejected(write_bert, change, message):
  path = write_bert(**change)
  assert encoder_folder.problems(path, TINY_BERT) == [f'{path}/config.json: {message}']
