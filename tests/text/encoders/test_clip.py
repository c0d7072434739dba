"""The Flax CLIP against PyTorch's numbers, where its captions are pooled, and what its tokens are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdm_jax.text.encoders import clip_folder, encoder_folder
from vdm_jax.text.encoders.clip import Clip, ClipEncoder, end
from vdm_jax.text.encoders.clip_folder import ClipConfig
from vdm_jax.text.frozen import load_params

TINY = clip_folder.PUBLISHED['clip-vit-large-patch14']._replace(sizes={'hidden_size': 16})
KINDS = ('quick_gelu', 'gelu')
CAPTIONS = ['a nine left', '', 'SIX', 'six six a']


def forward(path: str, tokens, mask, dtype=jnp.float32) -> np.ndarray:
  network = ClipEncoder(encoder_folder.require(path, TINY), dtype)
  return np.asarray(jax.jit(network.apply)(load_params(path, TINY, dtype), tokens, mask))


@pytest.mark.parametrize('kind', KINDS)
def test_parity_with_pytorch(write_clip, golden_clip, kind):
  """The hidden states, and the pooled and projected one: of the token that is told, and of the largest one."""
  mask, tokens, path = golden_clip['mask'], golden_clip[f'{kind}/tokens'], write_clip(kind)
  hidden = forward(path, tokens, mask)
  np.testing.assert_allclose(hidden[mask], golden_clip[f'{kind}/hidden'][mask], atol=1e-5, rtol=0)
  np.testing.assert_array_equal(hidden[~mask], 0)
  pooled = hidden[np.arange(len(tokens)), end(tokens, encoder_folder.read_config(path, TINY))]
  projection = golden_clip[f'{kind}/weights/text_projection.weight']
  np.testing.assert_allclose(pooled @ projection.T, golden_clip[f'{kind}/projected'], atol=1e-4, rtol=0)


def test_the_end_is_the_first_token_of_the_end():
  ids = np.array([[38, 7, 12, 39, 39], [38, 39, 7, 7, 7]])
  np.testing.assert_array_equal(end(ids, ClipConfig(eos_token_id=7)), [1, 2])
  np.testing.assert_array_equal(end(ids, ClipConfig(eos_token_id=2)), [3, 1])


@pytest.mark.parametrize('kind', KINDS)
def test_no_token_sees_a_later_one(write_clip, golden_clip, kind):
  tokens, path = golden_clip[f'{kind}/tokens'][:1], write_clip(kind)
  whole = np.ones_like(tokens, bool)
  other = np.where(np.arange(tokens.shape[1]) < 5, tokens, 11)
  ours, theirs = forward(path, tokens, whole), forward(path, other, whole)
  np.testing.assert_array_equal(ours[:, :5], theirs[:, :5])
  assert (np.abs(ours - theirs)[:, 5:].max(-1) > 1e-3).all()


def test_a_file_of_the_whole_model_reads_like_one_of_its_text_encoder(write_clip, golden_clip):
  path, mask, tokens = write_clip(), golden_clip['mask'], golden_clip['quick_gelu/tokens']
  expected = forward(path, tokens, mask)
  file, config = Path(path) / 'model.safetensors', Path(path) / 'config.json'
  vision = {'vision_model.encoder.layers.0.mlp.fc1.bias': np.ones(3, np.float32), 'logit_scale': np.ones(1, np.float32)}
  save_file(load_file(file) | vision, file)
  whole = {'model_type': 'clip', 'vision_config': {}, 'text_config': json.loads(config.read_text())}
  config.write_text(json.dumps(whole))
  np.testing.assert_array_equal(forward(path, tokens, mask), expected)
  names = {name.removeprefix('text_model.'): value for name, value in load_file(file).items()}
  save_file(names, file)
  np.testing.assert_array_equal(forward(path, tokens, mask), expected)


@pytest.mark.parametrize('kind', KINDS)
def test_a_caption_is_the_encoding_of_its_pieces_between_start_and_end(write_clip, kind):
  clip = Clip(TINY, write_clip(kind), 12)
  embeddings, mask = clip(CAPTIONS)
  np.testing.assert_array_equal(mask.sum(1), [5, 2, 3, 5])
  ids = np.zeros(mask.shape, np.int32)
  for row, caption in zip(ids, CAPTIONS, strict=True):
    row[: len(clip.ids(caption))] = clip.ids(caption)
  assert ids[3, 1] == ids[3, 2] == ids[2, 1] != ids[3, 3]
  assert set(ids[:, 0]) == {38} and {row[k] for row, k in zip(ids, end(ids, clip.config), strict=True)} == {
    39 if kind == 'quick_gelu' else 7
  }
  np.testing.assert_allclose(embeddings, forward(clip.path, ids, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize('kind', KINDS)
def test_a_projection_is_of_the_last_token(write_clip, golden_clip, kind):
  clip = Clip(TINY, write_clip(kind), 12)
  hidden, mask = clip(CAPTIONS)
  last = hidden[np.arange(len(CAPTIONS)), mask.sum(1) - 1]
  expected = last @ golden_clip[f'{kind}/weights/text_projection.weight'].T
  np.testing.assert_allclose(clip.project(CAPTIONS), expected, atol=1e-5, rtol=0)


def test_a_text_encoder_without_projection_has_hidden_states_alone(write_clip):
  path = write_clip()
  file = Path(path) / 'model.safetensors'
  weights = load_file(file)
  projection = weights.pop('text_projection.weight')
  save_file(weights, file)
  clip = Clip(TINY, path, 12)
  assert clip(['a'])[1].sum() == 3
  message = (
    f'{path} has no tensor text_projection.weight: its weights are of a text encoder without the projection to the '
    'space of images; take them from openai/clip-vit-large-patch14'
  )
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    clip.project(['a'])
  save_file(weights | {'text_projection.weight': projection[:3]}, file)
  message = f'{path}: tensor text_projection.weight has shape (3, 16), config.json asks for (12, 16)'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    clip.project(['a'])


@pytest.mark.parametrize('length', [2, 21])
def test_a_length_without_room_or_positions_is_refused(write_clip, length):
  message = f'data.text_length={length} must be from 3 to 20 for data.text=clip-vit-large-patch14'
  with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
    Clip(TINY, write_clip(), length)
