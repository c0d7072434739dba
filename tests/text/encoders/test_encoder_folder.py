"""A folder whose parts do not fit together is described tensor by tensor, without loading it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.text.encoders import bert_folder, encoder_folder, t5_folder

BERT = bert_folder.PUBLISHED['bert-large']._replace(sizes={'hidden_size': 16})
T5 = t5_folder.PUBLISHED['t5-11b']._replace(sizes={'d_model': 16})
QUERY = 'encoder.layer.1.attention.self.query.weight'


def test_a_folder_in_order_has_no_problems(write_bert, write_t5):
  assert encoder_folder.problems(write_bert(), BERT) == []
  assert encoder_folder.problems(write_t5(), T5) == []


def test_wrong_tensors_are_named_one_by_one(write_bert, golden_weights):
  weights = dict(golden_weights)
  weights.pop('embeddings.LayerNorm.bias')
  weights[QUERY] = np.zeros((16, 8), np.float32)
  weights['encoder.layer.2.output.dense.bias'] = np.zeros(16, np.int64)
  path = write_bert(weights)
  file = f'{path}/model.safetensors'
  expected = {
    f'{file}: tensor embeddings.LayerNorm.bias is missing, config.json asks for it',
    f'{file}: tensor {QUERY} has shape (16, 8), config.json asks for (16, 16)',
    f'{file}: tensor encoder.layer.2.output.dense.bias holds I64, it must be one of F64, F32, F16, BF16',
  }
  found = encoder_folder.problems(path, BERT)
  assert set(found) == expected and len(found) == 3
  with pytest.raises(ValueError, match=f'^{re.escape(chr(10).join(found))}$'):
    encoder_folder.require(path, BERT)


def test_a_long_list_of_problems_is_cut_in_the_error_only(write_bert):
  path = write_bert(num_hidden_layers=5)
  assert len(encoder_folder.problems(path, BERT)) == 2 * 16
  with pytest.raises(ValueError, match=r'(tensor encoder\.layer\.[34]\.\S+ is missing(.|\n)*){10}and 22 more$'):
    encoder_folder.require(path, BERT)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'is not the configuration of a model: Expecting property name'),
    ('[]', 'is not the configuration of a model: it holds no table of names; download it again'),
    ('{}', "lacks 'vocab_size', which every BERT has; download it again"),
    ('\xff\xfe', 'is not the configuration of a model:'),
  ],
)
def test_a_broken_configuration_is_refused(write_bert, content, message):
  path = write_bert()
  file = Path(path) / 'config.json'
  file.write_bytes(content.encode('latin-1'))
  (problem,) = encoder_folder.problems(path, BERT)
  assert problem.startswith(f'{file} {message}')
  assert problem.endswith('; download it again')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', ' is not a tokenizer: Expecting value: line 1 column 1 (char 0); download it again'),
    (
      json.dumps({'model': {'type': 'WordPiece'}}),
      ": the model is 'WordPiece', data.text=t5-11b needs 'Unigram'; download it again",
    ),
    ('{}', ": the model is None, data.text=t5-11b needs 'Unigram'; download it again"),
  ],
)
def test_the_tokenizer_of_another_family_is_refused(write_t5, content, message):
  path = write_t5()
  file = Path(path) / 'tokenizer.json'
  file.write_text(content)
  assert encoder_folder.problems(path, T5) == [f'{file}{message}']
