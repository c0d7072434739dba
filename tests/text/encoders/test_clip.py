"""CLIP's text encoder against PyTorch's numbers; its tokens, pooling, folder and parameters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from helpers.text_encoders import TINY_CLIP, forward, listed_parameters, parameters
from safetensors.numpy import load_file, save_file

from vdm_jax import text
from vdm_jax.text.encoders import ENCODERS, encoder_folder
from vdm_jax.text.encoders.clip import CLIP, ClipConfig, end_positions, projector
from vdm_jax.text.encoders.transformer_layers import ACTIVATIONS
from vdm_jax.text.frozen import FrozenEncoder

KINDS = ('quick_gelu', 'gelu')
CAPTIONS = ['a nine left', '', 'SIX', 'six six a']
LARGE = ClipConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)


@pytest.mark.parametrize('kind', KINDS)
def test_parity_with_pytorch(write_clip, golden_clip, kind):
  """Hidden states, and the pooled and projected one, with the end token given and taken as the largest id."""
  mask, tokens, path = golden_clip['mask'], golden_clip[f'{kind}/tokens'], write_clip(kind)
  hidden = forward(path, TINY_CLIP, tokens, mask)
  np.testing.assert_allclose(hidden[mask], golden_clip[f'{kind}/hidden'][mask], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~mask], 0)
  pooled = hidden[np.arange(len(tokens)), end_positions(tokens, encoder_folder.read_config(path, TINY_CLIP))]
  projection = golden_clip[f'{kind}/weights/text_projection.weight']
  np.testing.assert_allclose(pooled @ projection.T, golden_clip[f'{kind}/projected'], atol=1e-4, rtol=0)


def test_a_caption_ends_at_its_first_end_token():
  ids = np.array([[38, 7, 12, 39, 39], [38, 39, 7, 7, 7]])
  np.testing.assert_array_equal(end_positions(ids, ClipConfig(eos_token_id=7)), [1, 2])
  np.testing.assert_array_equal(end_positions(ids, ClipConfig(eos_token_id=2)), [3, 1])


@pytest.mark.parametrize('kind', KINDS)
def test_attention_is_causal(write_clip, golden_clip, kind):
  tokens, path = golden_clip[f'{kind}/tokens'][:1], write_clip(kind)
  whole = np.ones_like(tokens, bool)
  other = np.where(np.arange(tokens.shape[1]) < 5, tokens, 11)
  ours, theirs = forward(path, TINY_CLIP, tokens, whole), forward(path, TINY_CLIP, other, whole)
  np.testing.assert_array_equal(ours[:, :5], theirs[:, :5])
  assert (np.abs(ours - theirs)[:, 5:].max(-1) > 1e-3).all()


def test_files_of_the_whole_model_and_of_the_text_encoder_agree(write_clip, golden_clip):
  path, mask, tokens = write_clip(), golden_clip['mask'], golden_clip['quick_gelu/tokens']
  expected = forward(path, TINY_CLIP, tokens, mask)
  file, config = Path(path) / 'model.safetensors', Path(path) / 'config.json'
  vision = {'vision_model.encoder.layers.0.mlp.fc1.bias': np.ones(3, np.float32), 'logit_scale': np.ones(1, np.float32)}
  save_file(load_file(file) | vision, file)
  whole = {'model_type': 'clip', 'vision_config': {}, 'text_config': json.loads(config.read_text())}
  config.write_text(json.dumps(whole))
  np.testing.assert_array_equal(forward(path, TINY_CLIP, tokens, mask), expected)
  names = {name.removeprefix('text_model.'): value for name, value in load_file(file).items()}
  save_file(names, file)
  np.testing.assert_array_equal(forward(path, TINY_CLIP, tokens, mask), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_a_caption_is_encoded_as_its_pieces_between_start_and_end(write_clip, kind):
  clip = FrozenEncoder(TINY_CLIP, write_clip(kind), 12)
  embeddings, mask = clip(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [5, 2, 3, 5])
  ids = np.zeros(mask.shape, np.int32)
  for row, caption in zip(ids, CAPTIONS, strict=True):
    row[: len(clip.ids(caption))] = clip.ids(caption)
  assert ids[3, 1] == ids[3, 2] == ids[2, 1] != ids[3, 3]
  ends = end_positions(ids, clip.config)
  assert set(ids[:, 0]) == {38} and {row[k] for row, k in zip(ids, ends, strict=True)} == {
    39 if kind == 'quick_gelu' else 7
  }
  np.testing.assert_allclose(embeddings, forward(clip.path, TINY_CLIP, ids, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', KINDS)
def test_the_last_token_is_projected(write_clip, golden_clip, kind):
  clip = FrozenEncoder(TINY_CLIP, write_clip(kind), 12)
  hidden, mask = clip(CAPTIONS)
  last = hidden[np.arange(len(CAPTIONS)), mask.sum(1) - 1]
  expected = last @ golden_clip[f'{kind}/weights/text_projection.weight'].T
  np.testing.assert_allclose(projector(clip)(CAPTIONS), expected, atol=1e-5, rtol=0)


def test_a_text_encoder_without_a_projection_has_only_hidden_states(write_clip):
  path = write_clip()
  file = Path(path) / 'model.safetensors'
  weights = load_file(file)
  projection = weights.pop('text_projection.weight')
  save_file(weights, file)
  clip = FrozenEncoder(TINY_CLIP, path, 12)
  assert clip(['a'])[1].sum() == 3
  with pytest.raises(ValueError, match=r'no tensor text_projection\.weight.* openai/clip-vit-large-patch14$'):
    projector(clip)
  save_file(weights | {'text_projection.weight': projection[:3]}, file)
  with pytest.raises(ValueError, match=r'text_projection\.weight has shape \(3, 16\), .* \(12, 16\)$'):
    projector(clip)


@pytest.mark.parametrize('length', [2, 21])
def test_invalid_lengths_are_rejected(write_clip, length):
  with pytest.raises(ValueError, match=rf'^data\.text_length={length} must be from 3 to 20 for .*clip-vit-large'):
    FrozenEncoder(TINY_CLIP, write_clip(), length)


@pytest.mark.parametrize('kind', KINDS)
def test_tensors_are_those_of_pytorch(write_clip, golden_clip, kind):
  config = encoder_folder.require(write_clip(kind), TINY_CLIP)
  start = f'{kind}/weights/text_model.'
  assert encoder_folder.tensor_shapes(config, CLIP) == {
    name.removeprefix(start): value.shape for name, value in golden_clip.items() if name.startswith(start)
  }


@pytest.mark.parametrize(('config', 'count'), [(ClipConfig(), 63_165_952), (LARGE, 123_060_480)])
def test_published_sizes_have_the_published_number_of_parameters(config, count):
  """The projection is not counted; module and tensors agree shape by shape."""
  shapes = parameters(TINY_CLIP, config)
  assert shapes == listed_parameters(TINY_CLIP, config)
  assert sum(np.prod(shape) for shape in shapes.values()) == count


def test_defaults_are_those_of_the_smallest_model(write_clip):
  file = Path(write_clip()) / 'config.json'
  file.write_text(json.dumps({'model_type': 'clip', 'text_config': {'hidden_size': 16, 'num_attention_heads': 4}}))
  config = encoder_folder.read_config(str(file.parent), TINY_CLIP)
  assert config == ClipConfig(hidden_size=16, num_attention_heads=4)


def test_the_second_section_of_the_published_files_takes_precedence(write_clip):
  """As transformers reads them: CLIPConfig(text_config={}, text_config_dict={'hidden_act': 'gelu'})."""
  file = Path(write_clip()) / 'config.json'
  second = {'hidden_act': 'gelu', 'num_attention_heads': 4}
  file.write_text(json.dumps({'text_config': {'hidden_size': 16, 'hidden_act': 'relu'}, 'text_config_dict': second}))
  config = encoder_folder.read_config(str(file.parent), TINY_CLIP)
  assert config == ClipConfig(hidden_size=16, num_attention_heads=4, hidden_act='gelu')


def test_vocabulary_and_merges_equal_tokenizer_json(write_clip):
  path = write_clip()
  expected = FrozenEncoder(TINY_CLIP, path, 12).ids('a Nine left six')
  file = Path(path) / 'tokenizer.json'
  tokenizers.Tokenizer.from_file(str(file)).model.save(path)
  file.unlink()
  assert FrozenEncoder(TINY_CLIP, path, 12).ids('a Nine left six') == expected
  (Path(path) / 'merges.txt').unlink()
  (problem,) = encoder_folder.problems(path, TINY_CLIP)
  assert f'data.text_path={path!r} lacks tokenizer.json or vocab.json + merges.txt. ' in problem


def test_published_models_are_told_apart_by_their_sizes(write_clip):
  path = write_clip()
  assert encoder_folder.problems(path, ENCODERS['clip-vit-base-patch32']) == [
    f'{path}/config.json: hidden_size is 16, data.text=clip-vit-base-patch32 needs 512',
    f'{path}/config.json: intermediate_size is 24, data.text=clip-vit-base-patch32 needs 2048',
  ]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'model_type': 'siglip_text_model'},
      "model_type='siglip_text_model' is not supported, only 'clip_text_model'; use clip-vit-large-patch14",
    ),
    ({'hidden_act': 'gelu_10'}, f"hidden_act='gelu_10' is not supported, only {', '.join(ACTIVATIONS)}"),
    ({'num_hidden_layers': 0}, 'num_hidden_layers=0 is not a positive number; download it again'),
    ({'num_attention_heads': 3}, 'hidden_size=16 is not a multiple of 3 heads'),
  ],
)
def test_other_architectures_are_rejected(write_clip, change, message):
  path = write_clip(**change)
  assert encoder_folder.problems(path, TINY_CLIP) == [f'{path}/config.json: {message}']


def test_missing_files_are_listed_with_their_source(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  (problem,) = text.check('clip-vit-base-patch32', str(tmp_path))
  assert f"data.text_path='{tmp_path}' lacks model.safetensors, tokenizer.json or vocab.json + merges.txt. " in problem
  assert 'Download them from openai/clip-vit-base-patch32 on the Hugging Face hub' in problem
  assert (
    'transformers.CLIPTextModelWithProjection.from_pretrained("openai/clip-vit-base-patch32").save_pretrained("FOLDER")'
  ) in problem
  assert problem.endswith('--config.data.text=words')
