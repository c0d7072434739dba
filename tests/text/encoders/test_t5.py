"""T5's encoder against PyTorch's numbers; its relative positions, tokens, folder and parameters."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers.text_encoders import TINY_T5, forward, listed_parameters, parameters

from vdm_jax.text.encoders import ENCODERS, encoder_folder
from vdm_jax.text.encoders.t5 import T5, T5Config, relative_buckets
from vdm_jax.text.frozen import FrozenEncoder

CAPTIONS = ['a nine moving left', '', 'six and nine', 'zebra']
IDS = [[3, 4, 6, 7, 8, 1], [1], [5, 10, 4, 1], [2, 1]]
KINDS = ('relu', 'gated-gelu')
T5_11B = T5Config(
  vocab_size=32128,
  d_model=1024,
  d_kv=128,
  d_ff=65536,
  num_layers=24,
  num_heads=128,
  relative_attention_num_buckets=32,
  layer_norm_epsilon=1e-6,
)
T5_V1_1_XXL = dataclasses.replace(
  T5_11B, d_model=4096, d_kv=64, d_ff=10240, num_heads=64, feed_forward_proj='gated-gelu'
)


def weights_of(golden_t5, kind: str) -> dict[str, np.ndarray]:
  start = f'{kind}/weights/'
  return {name.removeprefix(start): value for name, value in golden_t5.items() if name.startswith(start)}


@pytest.mark.parametrize('kind', KINDS)
def test_parity_with_pytorch(write_t5, golden_t5, kind):
  mask = golden_t5['mask']
  hidden = forward(write_t5(kind), TINY_T5, golden_t5['tokens'], mask)
  np.testing.assert_allclose(hidden[mask], golden_t5[f'{kind}/hidden'][mask], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~mask], 0)


def test_buckets_are_those_of_pytorch(golden_t5):
  """Row 300 of 601 positions has the distances -300 to 300."""
  np.testing.assert_array_equal(golden_t5['distances'], np.arange(-300, 301))
  buckets = relative_buckets(601, buckets=32, max_distance=128)
  np.testing.assert_array_equal(buckets[300], golden_t5['buckets'])


@pytest.mark.parametrize(('length', 'buckets', 'farthest'), [(150, 32, 128), (30, 8, 20), (7, 4, 3), (1, 32, 128)])
def test_buckets_follow_their_definition(length, buckets, farthest):
  half, exact = buckets // 2, buckets // 4
  for query, row in enumerate(relative_buckets(length, buckets=buckets, max_distance=farthest)):
    for key, bucket in enumerate(row):
      far = abs(key - query)
      if far >= exact:
        octaves = math.log(far / exact) / math.log(farthest / exact) * (half - exact)
        far = min(exact + math.floor(octaves + 1e-9), half - 1)
      assert bucket == far + (half if key > query else 0)


@pytest.mark.parametrize('kind', KINDS)
def test_padding_does_not_change_embeddings(write_t5, golden_t5, kind):
  """Whatever tokens the padding has, embeddings are the same to the bit."""
  mask, path = golden_t5['mask'], write_t5(kind)
  other = np.where(mask, golden_t5['tokens'], 17)
  np.testing.assert_array_equal(forward(path, TINY_T5, other, mask), forward(path, TINY_T5, golden_t5['tokens'], mask))


def test_embeddings_depend_on_distances_only(write_t5, golden_t5):
  """A caption shifted right behind padding has the same embeddings: T5 has no absolute positions."""
  tokens, mask, path = golden_t5['tokens'][1:2], golden_t5['mask'][1:2], write_t5()
  moved = forward(path, TINY_T5, np.roll(tokens, 5, 1), np.roll(mask, 5, 1))
  np.testing.assert_allclose(np.roll(moved, -5, 1), forward(path, TINY_T5, tokens, mask), atol=1e-5, rtol=0)


def test_a_caption_is_encoded_as_its_pieces_and_its_end(write_t5):
  t5 = FrozenEncoder(TINY_T5, write_t5(), 12)
  embeddings, mask = t5(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [len(ids) for ids in IDS])
  padded = np.array([ids + [0] * (12 - len(ids)) for ids in IDS], np.int32)
  np.testing.assert_allclose(embeddings, forward(t5.path, TINY_T5, padded, mask), atol=1e-5, rtol=0)
  np.testing.assert_array_equal(embeddings[~mask], 0)


def test_any_length_of_two_or_more_is_valid(write_t5):
  path = write_t5()
  assert FrozenEncoder(TINY_T5, path, 600)(['a nine'])[1].sum() == 3
  with pytest.raises(ValueError, match=r'^data\.text_length=1 must be at least 2 for data\.text=t5-11b$'):
    FrozenEncoder(TINY_T5, path, 1)


def test_truncation_and_padding_settings_of_the_tokenizer_are_ignored(write_t5):
  """Published tokenizer files may carry the settings that were active when they were saved."""
  path = write_t5()
  file = f'{path}/tokenizer.json'
  expected = FrozenEncoder(TINY_T5, path, 12)(CAPTIONS)
  tokenizer = tokenizers.Tokenizer.from_file(file)
  tokenizer.enable_truncation(3)
  tokenizer.enable_padding(length=9, pad_token='<pad>', pad_id=0)
  tokenizer.save(file)
  for ours, theirs in zip(FrozenEncoder(TINY_T5, path, 12)(CAPTIONS), expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('kind', KINDS)
def test_tensors_are_those_of_pytorch(write_t5, golden_t5, kind):
  config = encoder_folder.require(write_t5(kind), TINY_T5)
  assert encoder_folder.tensor_shapes(config, T5) == {
    name: value.shape for name, value in weights_of(golden_t5, kind).items()
  }


def test_the_embedding_table_is_read_under_both_names(write_t5, golden_t5):
  weights = weights_of(golden_t5, 'relu')
  weights['encoder.embed_tokens.weight'] = weights.pop('shared.weight')
  assert encoder_folder.problems(write_t5(weights=weights), TINY_T5) == []


def test_configurations_older_than_v1_1_get_defaults(write_t5):
  """The first files have neither `feed_forward_proj` nor `relative_attention_max_distance`."""
  file = Path(write_t5(relative_attention_max_distance=128)) / 'config.json'
  new, values = encoder_folder.require(str(file.parent), TINY_T5), json.loads(file.read_text())
  del values['feed_forward_proj'], values['relative_attention_max_distance']
  file.write_text(json.dumps(values))
  assert encoder_folder.require(str(file.parent), TINY_T5) == new


@pytest.mark.parametrize(('config', 'count'), [(T5_11B, 4_864_791_552), (T5_V1_1_XXL, 4_762_310_656)])
def test_published_sizes_have_the_published_number_of_parameters(config, count):
  """Module and tensors agree shape by shape."""
  shapes = parameters(TINY_T5, config)
  assert shapes == listed_parameters(TINY_T5, config)
  assert sum(np.prod(shape) for shape in shapes.values()) == count


def test_another_model_of_the_same_width_is_rejected(write_t5):
  """T5-large and T5-11B both have width 1024; the width of the MLP distinguishes them."""
  path = write_t5()
  published = ENCODERS['t5-11b']
  assert encoder_folder.problems(path, published) == [
    f'{path}/config.json: d_model is 16, data.text=t5-11b needs 1024',
    f'{path}/config.json: d_ff is 24, data.text=t5-11b needs 65536',
  ]
  sizes = [
    tuple(encoder.sizes.values()) for encoder in ENCODERS.values() if encoder.architecture is T5 and encoder.sizes
  ]
  assert len(sizes) == 4 and len(set(sizes)) == len(sizes)
  assert published.sizes.items() <= dataclasses.asdict(T5_11B).items()
  assert ENCODERS['t5-v1_1-xxl'].sizes.items() <= dataclasses.asdict(T5_V1_1_XXL).items()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model_type': 'umt5'}, "model_type='umt5' is not supported, only 't5'; use t5-11b"),
    ({'is_decoder': True}, 'is_decoder=True is not supported, only False; use t5-11b'),
    ({'num_layers': 0}, 'num_layers=0 is not a positive number; download it again'),
    (
      {'feed_forward_proj': 'gated-mish'},
      "feed_forward_proj='mish' is not supported, only gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, "
      'quick_gelu, relu, silu, swish',
    ),
    (
      {'relative_attention_max_distance': 2},
      'relative_attention_num_buckets=8 must be a multiple of 4, and less than four times '
      'relative_attention_max_distance=2; download it again',
    ),
  ],
)
def test_other_architectures_are_rejected(write_t5, change, message):
  path = write_t5(**change)
  assert encoder_folder.problems(path, TINY_T5) == [f'{path}/config.json: {message}']


def test_gated_weights_without_a_gated_configuration_are_rejected(write_t5):
  path = write_t5('gated-gelu', feed_forward_proj='relu')
  name = 'encoder.block.{}.layer.1.DenseReluDense.wi.weight'
  found = encoder_folder.problems(path, TINY_T5)
  assert len(found) == 3
  for i, problem in enumerate(found):
    assert problem.startswith(f'{path}/model.safetensors: tensor {name.format(i)} is missing')
