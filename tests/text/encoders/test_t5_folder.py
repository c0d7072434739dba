"""What the folder of a T5 is asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from vdm_jax.text.encoders import encoder_folder, t5_folder
from vdm_jax.text.encoders.t5 import T5Encoder

TINY = t5_folder.PUBLISHED['t5-11b']._replace(sizes={'d_model': 16})
T5_11B = t5_folder.T5Config(32128, 1024, 128, 65536, 24, 128, 32, 1e-6)
T5_V1_1_XXL = t5_folder.T5Config(32128, 4096, 64, 10240, 24, 64, 32, 1e-6, feed_forward_proj='gated-gelu')


@pytest.mark.parametrize('kind', ['relu', 'gated-gelu'])
def test_the_table_of_tensors_is_the_file_of_pytorch(write_t5, golden_t5, kind):
  config = encoder_folder.require(write_t5(kind), TINY)
  start = f'{kind}/weights/'
  assert encoder_folder.tensor_shapes(config, t5_folder.T5) == {
    name.removeprefix(start): value.shape for name, value in golden_t5.items() if name.startswith(start)
  }


def test_the_table_of_words_may_go_by_its_other_name(write_t5, golden_t5):
  start = 'relu/weights/'
  weights = {name.removeprefix(start): value for name, value in golden_t5.items() if name.startswith(start)}
  weights['encoder.embed_tokens.weight'] = weights.pop('shared.weight')
  assert encoder_folder.problems(write_t5(weights=weights), TINY) == []


def test_a_configuration_from_before_v1_1_is_one_with_relu(write_t5):
  """The first files say neither `feed_forward_proj` nor `relative_attention_max_distance`."""
  file = Path(write_t5(relative_attention_max_distance=128)) / 'config.json'
  new, values = encoder_folder.require(str(file.parent), TINY), json.loads(file.read_text())
  del values['feed_forward_proj'], values['relative_attention_max_distance']
  file.write_text(json.dumps(values))
  assert encoder_folder.require(str(file.parent), TINY) == new


@pytest.mark.parametrize(('config', 'count'), [(T5_11B, 4_864_791_552), (T5_V1_1_XXL, 4_762_310_656)])
def test_the_published_sizes_have_the_published_number_of_parameters(config, count):
  """The table of tensors and the network agree on it, shape by shape."""
  tokens = jax.ShapeDtypeStruct((1, 4), 'int32')
  params = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, tokens)['params']
  ours = {'/'.join(k.key for k in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
  table = {}
  for tensor in t5_folder.T5.tensors(config):
    shape = tensor.shape[::-1] if tensor.ours.endswith('/kernel') else tensor.shape
    table[tensor.ours] = (len(tensor.names), *shape) if tensor.ours.startswith('layers/') else shape
  assert ours == table
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_a_sister_of_the_same_width_is_refused(write_t5):
  """T5-large and T5-11B both have width 1024: only the width of the MLP tells them apart."""
  path = write_t5()
  published = t5_folder.PUBLISHED['t5-11b']
  assert encoder_folder.problems(path, published) == [
    f'{path}/config.json: d_model is 16, data.text=t5-11b needs 1024',
    f'{path}/config.json: d_ff is 24, data.text=t5-11b needs 65536',
  ]
  sizes = [tuple(sister.sizes.values()) for sister in t5_folder.PUBLISHED.values()]
  assert len(set(sizes)) == len(sizes)
  assert published.sizes.items() <= dataclasses.asdict(T5_11B).items()
  assert t5_folder.PUBLISHED['t5-v1_1-xxl'].sizes.items() <= dataclasses.asdict(T5_V1_1_XXL).items()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'umt5'}, "model_type is 'umt5', and only 't5' is supported; use t5-11b"),
    ({'is_decoder': True}, 'is_decoder is True, and only False is supported; use t5-11b'),
    ({'num_layers': 0}, 'num_layers is 0, it must be a positive number; download it again'),
    (
      {'feed_forward_proj': 'gated-silu'},
      "feed_forward_proj is 'gated-silu', and only 'relu' and 'gated-gelu' are supported",
    ),
    (
      {'relative_attention_max_distance': 2},
      'relative_attention_num_buckets 8 must be a multiple of 4, and less than four times '
      'relative_attention_max_distance 2; download it again',
    ),
  ],
)
def test_other_architectures_are_refused(write_t5, change, message):
  path = write_t5(**change)
  assert encoder_folder.problems(path, TINY) == [f'{path}/config.json: {message}']


def test_gates_that_the_configuration_does_not_tell_of_are_refused(write_t5):
  path = write_t5('gated-gelu', feed_forward_proj='relu')
  name = 'encoder.block.{}.layer.1.DenseReluDense.wi.weight'
  assert encoder_folder.problems(path, TINY) == [
    f'{path}/model.safetensors: tensor {name.format(i)} is missing, config.json asks for it' for i in range(3)
  ]
