"""What the folder of a BERT is asked for."""

from __future__ import annotations

import jax
import pytest

from vdm_jax.text.encoders import bert_folder, encoder_folder
from vdm_jax.text.encoders.bert import BertEncoder

TINY = bert_folder.PUBLISHED['bert-large']._replace(sizes={'hidden_size': 16})


def test_the_table_of_tensors_is_the_file_of_pytorch(write_bert, golden_weights):
  config = encoder_folder.require(write_bert(), TINY)
  shapes = encoder_folder.tensor_shapes(config, bert_folder.BERT)
  assert shapes == {name: value.shape for name, value in golden_weights.items()}


def test_bert_large_has_as_many_parameters_as_its_table():
  """335 million, less 1.05 million of the pooler (Devlin et al. 2018, section 3)."""
  config = bert_folder.BertConfig(30522, 1024, 24, 16, 4096, 512, 2, 1e-12)
  tokens = jax.ShapeDtypeStruct((1, 4), 'int32')
  params = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), tokens, tokens)['params']
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 334_092_288


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'roberta'}, "model_type is 'roberta', and only 'bert' is supported; use bert-large-uncased"),
    ({'hidden_act': 'gelu_new'}, "hidden_act is 'gelu_new', and only 'gelu' is supported; use bert-large-uncased"),
    ({'is_decoder': True}, 'is_decoder is True, and only False is supported; use bert-large-uncased'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers is 0, it must be a positive number; download it again'),
    ({'vocab_size': '40'}, "vocab_size is '40', it must be a positive number; download it again"),
    ({'num_attention_heads': 3}, 'hidden_size 16 is no multiple of 3 heads'),
  ],
)
def test_other_architectures_are_refused(write_bert, change, message):
  path = write_bert(**change)
  assert encoder_folder.problems(path, TINY) == [f'{path}/config.json: {message}']
