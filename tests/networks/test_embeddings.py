"""Noise levels, numbers, captions and labels as vectors and as tokens, against their closed forms.

Pooled, a dropped condition is nothing at all; as tokens, it is a learned one.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import affine, draw, drawn, normal, swish

from vdm_jax.networks.embeddings import (
  NOISE_FEATURES,
  SCALARS,
  ConditionEmbedding,
  ConditionTokens,
  LogsnrEmbedding,
  ScalarEmbedding,
  TextTokens,
  WordEncoder,
  cosine_time,
  sinusoid_input,
)
from vdm_jax.types import Conditioning

T = np.linspace(0.01, 0.99, 7)
COSINE_LOGSNR = 2 * np.log(np.cos(np.pi * T / 2) / np.sin(np.pi * T / 2))  # of the cosine schedule at T


def sinusoids(value, features):
  half = features // 2
  angle = np.float64(value)[..., None] * 10.0 ** (-4 * np.arange(half) / (half - 1))
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def embedded_number(params, values, features):
  """`ScalarEmbedding` of `[b k]` in float64."""
  h = np.concatenate([sinusoids(value, features // values.shape[1]) for value in values.T], axis=-1)
  h = (h - h.mean(-1, keepdims=True)) / h.std(-1, keepdims=True)
  return affine(params['dense_1'], swish(affine(params['dense_0'], h)))


# ---- Noise levels and other numbers ----------------------------------------------------------------------------------


def test_cosine_time_is_that_of_the_cosine_schedule():
  np.testing.assert_allclose(cosine_time(COSINE_LOGSNR), T, atol=1e-6)
  np.testing.assert_allclose(cosine_time(np.array([-300.0, 0.0, 300.0])), [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize('num_layers', [1, 2, 4])
def test_the_noise_level_is_embedded_as_the_time_of_the_cosine_schedule(num_layers):
  layer = LogsnrEmbedding(8, 16, num_layers)
  variables = drawn(layer, COSINE_LOGSNR)
  h = sinusoids(1000 * T, 8)
  for i in range(num_layers):
    h = affine(variables['params'][f'dense_{i}'], swish(h) if i else h)
  np.testing.assert_allclose(layer.apply(variables, COSINE_LOGSNR), h, atol=2e-3)


def test_the_ends_of_the_noise_range_are_finite():
  layer = LogsnrEmbedding(8, 16, 2)
  logsnr = jnp.array([-300.0, -20.0, 20.0, 300.0])
  assert np.isfinite(layer.apply(drawn(layer, logsnr), logsnr)).all()


@pytest.mark.parametrize('values', [normal(5, 1, seed=1), 30 * normal(5, 2, seed=1)])
def test_scalars_are_embedded_as_standardized_sinusoids_in_equal_parts(values):
  layer = ScalarEmbedding(16, 12)
  params = drawn(layer, values, 5)['params']
  found = layer.apply({'params': params}, values, 5)
  np.testing.assert_allclose(found, embedded_number(params, values, 16), atol=1e-4)
  if values.shape[1] == 1:
    np.testing.assert_array_equal(layer.apply({'params': params}, values[:, 0], 5), found)


def test_an_unknown_number_is_neither_zero_nor_any_other():
  layer = ScalarEmbedding(16, 12)
  params = drawn(layer, None, 3)['params']
  found = layer.apply({'params': params}, None, 3)
  np.testing.assert_allclose(found, [affine(params['dense_1'], swish(params['dense_0']['bias']))] * 3, atol=1e-5)
  assert np.abs(layer.apply({'params': params}, np.zeros(3), 3) - found).max() > 0.1
  assert jax.tree.structure(params) == jax.tree.structure(drawn(layer, np.zeros(3), 3)['params'])


def test_each_number_has_its_scale():
  cond = Conditioning(
    frame_interval=np.array([0, 0.04]), resolution=np.array([[288, 512], [64, 64]]), augmentation_logsnr=COSINE_LOGSNR
  )
  found = {name: sinusoid_input(cond, name) for name in SCALARS}
  assert set(found) == {'frame_interval', 'resolution', 'augmentation_logsnr'}
  np.testing.assert_allclose(found['frame_interval'], [0, 40], rtol=1e-6)
  np.testing.assert_array_equal(found['resolution'], cond.resolution)
  np.testing.assert_allclose(found['augmentation_logsnr'], 1000 * T, rtol=1e-5)
  assert [sinusoid_input(Conditioning(), name) for name in SCALARS] == [None] * 3


# ---- Captions and labels as one vector -------------------------------------------------------------------------------


def test_words_are_vectors_at_their_positions():
  layer, ids = WordEncoder(6, 4, 8), np.array([[2, 5, 2], [0, 1, 3]])
  params = drawn(layer, ids)['params']
  found = layer.apply({'params': params}, ids)
  for b, i in np.ndindex(ids.shape):
    np.testing.assert_allclose(found[b, i], params['embedding'][ids[b, i]] + params['position_embedding'][i], atol=1e-6)


def test_captions_longer_than_the_table_are_an_error():
  with pytest.raises(ValueError, match='5 tokens .*text_length=4'):
    WordEncoder(6, 4, 8).init(jax.random.key(0), np.zeros((1, 5), int))


EMBEDDING = ConditionEmbedding(16, takes_text=True, vocabulary_size=6, text_length=3, num_classes=4)
TEXT = np.array([[[2, 3, 4], [5, 2, 0]], [[4, 0, 0], [3, 2, 5]]])
FULL = Conditioning(text=TEXT, text_mask=TEXT != 0, label=np.array([[0, 1], [2, 3]]))


@pytest.fixture(scope='module')
def embed():
  variables = drawn(EMBEDDING, FULL)
  return jax.jit(lambda cond: EMBEDDING.apply(variables, cond))


def test_text_and_label_add(embed):
  text, label = embed(FULL._replace(label=None)), embed(Conditioning(label=FULL.label))
  assert text.shape == (2, 2, 16) and np.abs(text).min() > 0 and np.abs(label).min() > 0
  np.testing.assert_allclose(embed(FULL), text + label, atol=1e-5)


def test_a_dropped_segment_is_zeros_and_the_others_are_unchanged(embed):
  drop = np.array([[True, False], [False, True]])
  found, whole = embed(FULL._replace(drop=drop)), embed(FULL)
  assert not np.any(found[drop])
  np.testing.assert_allclose(found[~drop], whole[~drop], atol=1e-6)


def test_no_condition_has_no_embedding(embed):
  assert embed(Conditioning()) is None
  assert embed(Conditioning(drop=np.zeros((2, 2), bool))) is None


def test_the_order_of_words_matters_and_padding_does_not(embed):
  base = embed(FULL)
  assert np.abs(embed(FULL._replace(text=TEXT[..., ::-1], text_mask=TEXT[..., ::-1] != 0)) - base).max() > 1e-2
  np.testing.assert_allclose(embed(FULL._replace(text=np.where(TEXT == 0, 5, TEXT))), base, atol=1e-6)


def test_without_a_mask_every_token_is_valid(embed):
  np.testing.assert_allclose(
    embed(FULL._replace(text_mask=None)), embed(FULL._replace(text_mask=np.ones(TEXT.shape, bool))), atol=1e-6
  )


def test_embeddings_of_a_frozen_encoder_are_pooled_unchanged():
  layer, text = ConditionEmbedding(16, takes_text=True), normal(2, 1, 3, 5)
  variables = drawn(layer, Conditioning(text=text))
  assert set(variables['params']) == {'pool'}
  assert variables['params']['pool']['key']['kernel'].shape == (5, 16, 1)
  found = layer.apply(variables, Conditioning(text=text))
  assert np.abs(layer.apply(variables, Conditioning(text=text + 1)) - found).max() > 1e-2


REFUSING = (
  ConditionEmbedding(16, takes_text=False),
  ConditionTokens(16, scalars=(), noise_features='log', takes_text=False),
)


@pytest.mark.parametrize('layer', REFUSING, ids=lambda layer: type(layer).__name__)
def test_conditions_that_the_network_does_not_take_are_errors(layer):
  noise, rng = (np.zeros(2),) if isinstance(layer, ConditionTokens) else (), jax.random.key(0)
  with pytest.raises(ValueError, match='caption .*data.text'):
    layer.init(rng, *noise, Conditioning(text=TEXT))
  with pytest.raises(ValueError, match='label .*model.num_classes'):
    layer.init(rng, *noise, Conditioning(label=FULL.label))


def test_without_text_and_classes_there_are_no_parameters():
  assert not draw(ConditionEmbedding(16, takes_text=False).init(jax.random.key(0), Conditioning()))


# ---- Captions as tokens ----------------------------------------------------------------------------------------------

CAPTION = TextTokens(16, vocabulary_size=6, text_length=3)


@pytest.fixture(scope='module')
def caption():
  params = drawn(CAPTION, FULL, 2)['params']
  return params, jax.jit(lambda cond: CAPTION.apply({'params': params}, cond, 2))


def test_every_word_is_a_token(caption):
  params, apply = caption
  tokens, valid = apply(FULL)
  words = params['words']['embedding'][TEXT] + params['words']['position_embedding']
  np.testing.assert_allclose(tokens, affine(params, words), atol=1e-5)
  np.testing.assert_array_equal(valid, FULL.text_mask)
  np.testing.assert_array_equal(apply(FULL._replace(text_mask=None))[1], np.ones(TEXT.shape, bool))


def test_the_null_caption_is_one_token(caption):
  params, apply = caption
  drop = np.array([[True, False], [True, True]])
  (tokens, valid), (whole, counted) = apply(FULL._replace(drop=drop)), apply(FULL)
  for length in (1, 3):
    shorter = Conditioning(text=TEXT[..., :length], text_mask=TEXT[..., :length] != 0, drop=drop)
    found, mask = apply(shorter)
    np.testing.assert_array_equal(found[drop][:, 0], np.broadcast_to(params['bias'], (3, 16)))
    np.testing.assert_array_equal(mask[drop], [np.arange(length) == 0] * 3)
  np.testing.assert_array_equal(tokens[~drop], whole[~drop])
  np.testing.assert_array_equal(valid[~drop], counted[~drop])


def test_an_absent_caption_is_the_null_caption(caption):
  params, apply = caption
  tokens, valid = apply(Conditioning())
  np.testing.assert_array_equal(tokens, np.broadcast_to(params['bias'], (2, 1, 1, 16)))
  assert valid.shape == (2, 1, 1) and valid.all()


def test_padding_does_not_affect_valid_tokens(caption):
  _, apply = caption
  (tokens, valid), (found, mask) = apply(FULL), apply(FULL._replace(text=np.where(TEXT == 0, 5, TEXT)))
  np.testing.assert_array_equal(mask, valid)
  np.testing.assert_array_equal(found[valid], tokens[valid])


def test_tokens_of_a_frozen_encoder_are_projected_to_the_width():
  text = normal(2, 1, 3, 5)
  params = drawn(TextTokens(16), Conditioning(text=text), 2)['params']
  assert set(params) == {'kernel', 'bias'}
  found, valid = TextTokens(16).apply({'params': params}, Conditioning(text=text), 2)
  np.testing.assert_allclose(found, affine(params, text), atol=1e-5)
  assert valid.all()


# ---- All conditions as tokens ----------------------------------------------------------------------------------------

EVERYTHING = Conditioning(
  text=TEXT[:, :1],
  text_mask=TEXT[:, :1] != 0,
  label=np.array([[1], [2]]),
  frame_interval=np.array([0.0, 0.04]),
  resolution=np.array([[288.0, 512.0], [64.0, 48.0]]),
)
LEVELS = np.array([-1.0, 1.5])
NUMBERS = ('frame_interval', 'resolution')
ORDER = ('logsnr', *NUMBERS, 'label', 'text')


@functools.cache
def condition_layer(noise_features):
  layer = ConditionTokens(32, NUMBERS, noise_features, True, vocabulary_size=6, text_length=3, num_classes=4)
  params = drawn(layer, LEVELS, EVERYTHING)['params']
  return params, jax.jit(lambda logsnr, cond: layer.apply({'params': params}, logsnr, cond))


def condition_tokens(cond=EVERYTHING, logsnr=LEVELS, noise_features='log'):
  params, apply = condition_layer(noise_features)
  return params, *map(np.asarray, apply(logsnr, cond))


def test_conditions_are_tokens_in_order():
  params, tokens, valid = condition_tokens()
  ids = EVERYTHING.text[:, 0]
  words = params['text']['words']['embedding'][ids] + params['text']['words']['position_embedding']
  expected = [
    embedded_number(params['logsnr'], -125 * LEVELS[:, None], 8),
    embedded_number(params['frame_interval'], 1000 * EVERYTHING.frame_interval[:, None], 8),
    embedded_number(params['resolution'], EVERYTHING.resolution, 8),
    params['label_embedding'][EVERYTHING.label[:, 0]],
  ]
  np.testing.assert_allclose(tokens[:, :4], np.stack(expected, axis=1), atol=1e-3)
  np.testing.assert_allclose(tokens[:, 4:], affine(params['text'], words), atol=1e-5)
  np.testing.assert_array_equal(valid, np.concatenate([np.ones((2, 4), bool), ids != 0], axis=1))


CHANGES = {
  'frame_interval': np.array([0.0, 0.08]),
  'resolution': np.array([[288.0, 512.0], [64.0, 64.0]]),
  'label': np.array([[1], [3]]),
  'text': np.where(np.arange(2)[:, None, None] == 1, 5, EVERYTHING.text),
}


@pytest.mark.parametrize('name', ORDER)
def test_a_condition_changes_only_its_own_tokens(name):
  base = condition_tokens()[1]
  changed = EVERYTHING if name == 'logsnr' else EVERYTHING._replace(**{name: CHANGES[name]})
  found = condition_tokens(changed, LEVELS + (np.array([0, 1]) if name == 'logsnr' else 0))[1]
  own = np.zeros(base.shape[:2], bool)
  own[1, ORDER.index(name) : None if name == 'text' else ORDER.index(name) + 1] = True
  np.testing.assert_array_equal(found[~own], base[~own])
  assert np.abs(found - base)[own].max(-1).min() > 1e-2


def test_dropped_and_absent_labels_are_zeros():
  drop = np.array([[False], [True]])
  (_, base, valid), (params, found, mask) = condition_tokens(), condition_tokens(EVERYTHING._replace(drop=drop))
  np.testing.assert_array_equal(found[0], base[0])
  np.testing.assert_array_equal(found[1, :3], base[1, :3])
  np.testing.assert_array_equal(found[1, 3], np.zeros(32))
  np.testing.assert_array_equal(found[1, 4], params['text']['bias'])
  np.testing.assert_array_equal(mask, [valid[0], np.arange(7) < 5])
  _, absent, counted = condition_tokens(EVERYTHING._replace(text=None, text_mask=None, label=None))
  np.testing.assert_array_equal(absent[1], found[1, :5])
  assert counted.shape == (2, 5) and counted.all()


@pytest.mark.parametrize('name', NOISE_FEATURES)
def test_features_of_the_noise_level(name):
  ratio = np.exp(-LEVELS / 2)  # sigma / alpha
  seen = {
    'log': 1000 * np.log(ratio) / 4,
    'log_unscaled': np.log(ratio) / 4,
    'angle': 1000 * np.arctan(ratio) * 2 / np.pi,
  }
  params, tokens, _ = condition_tokens(noise_features=name)
  np.testing.assert_allclose(tokens[:, 0], embedded_number(params['logsnr'], seen[name][:, None], 8), atol=1e-3)
