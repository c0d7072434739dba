"""A BERT folder whose parts do not fit together is described tensor by tensor, without loading it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.text import bert_folder

QUERY = 'encoder.layer.1.attention.self.query.weight'


def test_a_folder_in_order_has_no_problems(write_bert, golden_weights):
  path = write_bert()
  assert bert_folder.problems(path, width=16) == []
  shapes = bert_folder.tensor_shapes(bert_folder.require(path))
  assert shapes == {name: value.shape for name, value in golden_weights.items()}


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
  found = bert_folder.problems(path)
  assert set(found) == expected and len(found) == 3
  with pytest.raises(ValueError, match=f'^{re.escape(chr(10).join(found))}$'):
    bert_folder.require(path)


def test_a_long_list_of_problems_is_cut_in_the_error_only(write_bert):
  path = write_bert(num_hidden_layers=5)
  assert len(bert_folder.problems(path)) == 2 * 16
  with pytest.raises(ValueError, match=r'(tensor encoder\.layer\.3\.\S+ is missing(.|\n)*){10}and 22 more$'):
    bert_folder.require(path)


@pytest.mark.parametrize('cut', [4, 300, 5000])
def test_half_a_download_is_refused(write_bert, cut):
  path = write_bert()
  file = Path(path) / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:cut])
  (problem,) = bert_folder.problems(path)
  assert problem.startswith(f'{file} is not a whole safetensors file (')
  assert problem.endswith('); download it again')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'roberta'}, "model_type is 'roberta', and only 'bert' is supported"),
    ({'hidden_act': 'gelu_new'}, "hidden_act is 'gelu_new', and only 'gelu' is supported"),
    ({'is_decoder': True}, 'is_decoder is True, and only False is supported'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers is 0, it must be a positive number'),
    ({'vocab_size': '40'}, "vocab_size is '40', it must be a positive number"),
    ({'num_attention_heads': 3}, 'hidden_size 16 is no multiple of 3 heads'),
  ],
)
def test_other_architectures_are_refused(write_bert, change, message):
  (problem,) = bert_folder.problems(write_bert(**change))
  assert message in problem


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{', 'is not the configuration of a model: Expecting property name'),
    ('[]', 'is not the configuration of a model: list indices must be integers'),
    ('{}', "lacks 'vocab_size', which every BERT has; download it again"),
    ('\xff\xfe', 'is not the configuration of a model:'),
  ],
)
def test_a_broken_configuration_is_refused(write_bert, content, message):
  path = write_bert()
  file = Path(path) / 'config.json'
  file.write_bytes(content.encode('latin-1'))
  (problem,) = bert_folder.problems(path)
  assert problem.startswith(f'{file} {message}')
