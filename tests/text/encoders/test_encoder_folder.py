"""Folders whose files do not fit together are described tensor by tensor, without loading weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.text_encoders import TINY_BERT, TINY_T5

from vdm_jax.text.encoders import encoder_folder

QUERY = 'encoder.layer.1.attention.self.query.weight'


def test_valid_folders_have_no_problems(write_bert, write_t5):
  assert encoder_folder.problems(write_bert(), TINY_BERT) == []
  assert encoder_folder.problems(write_t5(), TINY_T5) == []


def test_wrong_tensors_are_listed(write_bert, golden_weights):
  weights = dict(golden_weights)
  weights.pop('embeddings.LayerNorm.bias')
  weights[QUERY] = np.zeros((16, 8), np.float32)
  weights['encoder.layer.2.output.dense.bias'] = np.zeros(16, np.int64)
  path = write_bert(weights)
  file = f'{path}/model.safetensors'
  found = encoder_folder.problems(path, TINY_BERT)
  expected = [
    rf'{file}: tensor embeddings\.LayerNorm\.bias is missing',
    rf'{file}: tensor {re.escape(QUERY)} has shape \(16, 8\), .* \(16, 16\)',
    rf'{file}: tensor encoder\.layer\.2\.output\.dense\.bias has type I64, .* F64, F32, F16, BF16',
  ]
  assert len(found) == 3
  assert all(any(re.match(pattern, problem) for problem in found) for pattern in expected)
  with pytest.raises(ValueError, match=f'^{re.escape(chr(10).join(found))}$'):
    encoder_folder.require(path, TINY_BERT)


def test_only_the_error_truncates_a_long_list_of_problems(write_bert):
  path = write_bert(num_hidden_layers=5)
  assert len(encoder_folder.problems(path, TINY_BERT)) == 2 * 16
  with pytest.raises(ValueError, match=r'(tensor encoder\.layer\.[34]\.\S+ is missing(.|\n)*){10}and 22 more$'):
    encoder_folder.require(path, TINY_BERT)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'is not the configuration of a model: Expecting property name'),
    ('[]', 'is not the configuration of a model: '),
    ('{}', "lacks 'vocab_size', which every BERT has"),
    ('\xff\xfe', 'is not the configuration of a model:'),
  ],
)
def test_invalid_configurations_are_rejected(write_bert, content, message):
  path = write_bert()
  file = Path(path) / 'config.json'
  file.write_bytes(content.encode('latin-1'))
  (problem,) = encoder_folder.problems(path, TINY_BERT)
  assert problem.startswith(f'{file} {message}')
  assert problem.endswith('; download it again')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', ' is not a tokenizer: Expecting value: line 1 column 1 (char 0)'),
    (json.dumps({'model': {'type': 'WordPiece'}}), ": the model is 'WordPiece', data.text=t5-11b needs 'Unigram'"),
    ('{}', ": the model is None, data.text=t5-11b needs 'Unigram'"),
  ],
)
def test_the_tokenizer_of_another_architecture_is_rejected(write_t5, content, message):
  path = write_t5()
  file = Path(path) / 'tokenizer.json'
  file.write_text(content)
  assert encoder_folder.problems(path, TINY_T5) == [f'{file}{message}; download it again']
