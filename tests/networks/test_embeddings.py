"""Noise levels, captions and labels as vectors, against their closed forms; dropped ones are nothing at all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.tiny import affine, draw, drawn, jit, normal, says, swish

from vdm_jax.networks.embeddings import ConditionEmbedding, LogsnrEmbedding, WordEncoder
from vdm_jax.types import Conditioning


@pytest.mark.parametrize('num_layers', [1, 2, 4])
def test_the_noise_level_enters_as_the_cosine_schedules_time(num_layers):
  t = np.linspace(0.01, 0.99, 7)
  logsnr = -2 * np.log(np.tan(np.pi * t / 2))
  layer = LogsnrEmbedding(8, 16, num_layers)
  variables = drawn(layer, logsnr)
  angle = 1000 * t[:, None] * 10.0 ** (-4 * np.arange(4) / 3)
  h = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
  for i in range(num_layers):
    h = affine(variables['params'][f'dense_{i}'], swish(h) if i else h)
  np.testing.assert_allclose(layer.apply(variables, logsnr), h, atol=2e-3)


def test_the_ends_of_the_noise_range_are_finite():
  layer = LogsnrEmbedding(8, 16, 2)
  logsnr = jnp.array([-300.0, -20.0, 20.0, 300.0])
  assert np.isfinite(layer.apply(drawn(layer, logsnr), logsnr)).all()


def test_words_are_vectors_at_their_positions():
  layer, ids = WordEncoder(6, 4, 8), np.array([[2, 5, 2], [0, 1, 3]])
  params = drawn(layer, ids)['params']
  found = layer.apply({'params': params}, ids)
  for b, i in np.ndindex(ids.shape):
    np.testing.assert_allclose(found[b, i], params['embedding'][ids[b, i]] + params['position_embedding'][i], atol=1e-6)


def test_captions_must_fit():
  with says('captions of 5 tokens exceed text_length=4; raise it or shorten them.'):
    WordEncoder(6, 4, 8).init(jax.random.key(0), np.zeros((1, 5), int))


EMBEDDING = ConditionEmbedding(16, takes_text=True, vocabulary_size=6, text_length=3, num_classes=4)
TEXT = np.array([[[2, 3, 4], [5, 2, 0]], [[4, 0, 0], [3, 2, 5]]])
FULL = Conditioning(text=TEXT, text_mask=TEXT != 0, label=np.array([[0, 1], [2, 3]]))


@pytest.fixture(scope='module')
def embed():
  variables = drawn(EMBEDDING, FULL)
  return jit(lambda cond: EMBEDDING.apply(variables, cond))


def test_text_and_label_add(embed):
  text, label = embed(FULL._replace(label=None)), embed(Conditioning(label=FULL.label))
  assert text.shape == (2, 2, 16) and np.abs(text).min() > 0 and np.abs(label).min() > 0
  np.testing.assert_allclose(embed(FULL), text + label, atol=1e-5)


def test_a_dropped_segment_is_zeros_and_the_others_stay(embed):
  drop = np.array([[True, False], [False, True]])
  found, whole = embed(FULL._replace(drop=drop)), embed(FULL)
  assert not np.any(found[drop])
  np.testing.assert_allclose(found[~drop], whole[~drop], atol=1e-6)


def test_nothing_given_embeds_as_nothing(embed):
  assert embed(Conditioning()) is None
  assert embed(Conditioning(drop=np.zeros((2, 2), bool))) is None


def test_the_order_of_words_matters_and_padding_does_not(embed):
  base = embed(FULL)
  assert np.abs(embed(FULL._replace(text=TEXT[..., ::-1], text_mask=TEXT[..., ::-1] != 0)) - base).max() > 1e-2
  np.testing.assert_allclose(embed(FULL._replace(text=np.where(TEXT == 0, 5, TEXT))), base, atol=1e-6)


def test_without_a_mask_every_token_counts(embed):
  np.testing.assert_allclose(
    embed(FULL._replace(text_mask=None)), embed(FULL._replace(text_mask=np.ones(TEXT.shape, bool))), atol=1e-6
  )


def test_a_frozen_encoders_embeddings_are_pooled_as_they_are():
  layer, text = ConditionEmbedding(16, takes_text=True), normal(2, 1, 3, 5)
  variables = drawn(layer, Conditioning(text=text))
  assert set(variables['params']) == {'pool'}
  assert variables['params']['pool']['key']['kernel'].shape == (5, 16, 1)
  found = layer.apply(variables, Conditioning(text=text))
  assert np.abs(layer.apply(variables, Conditioning(text=text + 1)) - found).max() > 1e-2


def test_what_the_network_was_not_built_for_is_refused():
  plain, rng = ConditionEmbedding(16, takes_text=False), jax.random.key(0)
  with says('a caption was given to a network without text: set data.text, or give no caption.'):
    plain.init(rng, Conditioning(text=TEXT))
  with says('a class label was given to a network without classes: set model.num_classes, or give no label.'):
    plain.init(rng, Conditioning(label=FULL.label))
  assert not draw(plain.init(rng, Conditioning()))
