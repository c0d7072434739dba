"""FIT's layers against float64 numpy; their initialization, dropout and dtypes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.tiny_networks import affine, drawn, normal, softmax

from vdm_jax.networks.transformer import CrossAttention, FeedForward, LayerNorm, SelfAttention, TransformerLayer

HEAD = 4
WIDE, NARROW = normal(2, 3, 5, 24), normal(2, 3, 7, 8, seed=1)
VALID = np.arange(7) < np.array([[[7], [3], [1]], [[5], [2], [6]]])


def float64(variables):
  """Return the parameters as numpy float64; a `jax.Array` would convert everything that follows to float32."""
  return jax.tree.map(np.float64, variables['params'])


def layer_norm(params, x):
  centred = np.float64(x) - np.float64(x).mean(-1, keepdims=True)
  return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * params['scale'] + params['bias']


def gelu(x):
  """x times the cumulative distribution function of a standard normal."""
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attend(params, queries, others, valid=None):
  """`[... i c]`, `[... j e]` -> `[... i c]`; head widths are read from the parameters."""
  q, k, v = (affine(params[name], x) for name, x in (('query', queries), ('key', others), ('value', others)))
  logits = np.einsum('...ihd,...jhd->...hij', q, k) / math.sqrt(q.shape[-1])
  if valid is not None:
    logits = np.where(valid[..., None, None, :], logits, -np.inf)
  out = np.einsum('...hij,...jhd->...ihd', softmax(logits), v)
  return np.einsum('...ihd,hdc->...ic', out, params['out']['kernel']) + params['out']['bias']


def cross_attention(params, x, other, valid=None):
  return x + attend(params, layer_norm(params['norm'], x), layer_norm(params['norm_other'], other), valid)


def self_attention(params, x):
  h = layer_norm(params['norm'], x)
  return x + attend(params, h, h)


def feed_forward(params, x):
  return x + affine(params['contract'], gelu(affine(params['expand'], layer_norm(params['norm'], x))))


def transformer_layer(params, x):
  return feed_forward(params['feed_forward'], self_attention(params['attention'], x))


@pytest.mark.parametrize(
  ('module', 'reference', 'inputs'),
  [
    (CrossAttention(HEAD), cross_attention, (WIDE, NARROW)),
    (CrossAttention(HEAD), cross_attention, (WIDE, NARROW, VALID)),
    (CrossAttention(HEAD), cross_attention, (NARROW, WIDE)),
    (SelfAttention(HEAD), self_attention, (WIDE,)),
    (FeedForward(), feed_forward, (WIDE,)),
    (TransformerLayer(HEAD), transformer_layer, (WIDE,)),
  ],
  ids=['narrow keys', 'masked keys', 'wide keys', 'self', 'feed-forward', 'layer'],
)
def test_layers_are_their_equations(module, reference, inputs):
  variables = drawn(module, *inputs)
  found = jax.jit(module.apply)(variables, *inputs)
  np.testing.assert_allclose(found, reference(float64(variables), *inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('x', 'other'), [(WIDE, NARROW), (NARROW, WIDE)])
def test_the_inner_width_of_cross_attention_is_the_smaller_one(x, other):
  params = drawn(CrossAttention(HEAD), x, other)['params']
  kernels = {name: params[name]['kernel'].shape for name in ('query', 'key', 'value', 'out')}
  c, e = x.shape[-1], other.shape[-1]
  assert kernels == {'query': (c, 2, HEAD), 'key': (e, 2, HEAD), 'value': (e, 2, HEAD), 'out': (2, HEAD, c)}


def test_masked_tokens_have_no_influence():
  layer = CrossAttention(HEAD)
  variables, apply = drawn(layer, WIDE, NARROW, VALID), jax.jit(layer.apply)
  found = apply(variables, WIDE, NARROW, VALID)
  np.testing.assert_array_equal(apply(variables, WIDE, np.where(VALID[..., None], NARROW, 1e3), VALID), found)
  changed = apply(variables, WIDE, np.where(VALID[..., None], NARROW**2, NARROW), VALID)
  assert (np.abs(changed - found).max(-1) > 1e-3).all()


def test_gelu_is_the_exact_one():
  """The tanh approximation is off by up to 5e-4."""
  apply = jax.jit(FeedForward().apply)
  params = {'norm': {'scale': jnp.zeros(1), 'bias': jnp.ones(1)}}
  params['expand'] = {'kernel': jnp.array([[-2.0, -0.7, 0.5, 2.2]]), 'bias': jnp.zeros(4)}
  for i, x in enumerate((-2.0, -0.7, 0.5, 2.2)):
    params['contract'] = {'kernel': jnp.eye(4)[:, i : i + 1], 'bias': jnp.zeros(1)}
    found = apply({'params': params}, jnp.zeros((1, 1)))
    assert float(found[0, 0]) == pytest.approx(x * 0.5 * math.erfc(-x / math.sqrt(2)), abs=1e-6)


@pytest.mark.parametrize('module', [CrossAttention(8), FeedForward()])
def test_matrices_are_glorot_uniform_and_none_is_zero(module):
  inputs = (normal(1, 2, 48), normal(1, 2, 32))[: 2 if isinstance(module, CrossAttention) else 1]
  params = nn.unbox(jax.jit(module.init)(jax.random.key(0), *inputs))['params']
  fans = {'query': (48, 32), 'key': (32, 32), 'value': (32, 32), 'out': (32, 48)}
  fans |= {'expand': (48, 192), 'contract': (192, 48)}
  for name in fans.keys() & params.keys():
    bound = math.sqrt(6 / sum(fans[name]))
    kernel = np.abs(params[name]['kernel'])
    assert 0.99 * bound < kernel.max() <= bound * (1 + 1e-6), name
    assert kernel.mean() == pytest.approx(bound / 2, rel=0.05), name
    assert not params[name]['bias'].any()
  for norm in params.keys() & {'norm', 'norm_other'}:
    np.testing.assert_array_equal(params[norm]['scale'], 1)
    np.testing.assert_array_equal(params[norm]['bias'], 0)


def test_dropout_acts_between_the_two_products_of_the_feed_forward():
  """With a second product of zero there is no dropout; one that selects a hidden channel scales or drops it."""
  layer = TransformerLayer(HEAD, dropout=0.25)
  variables = drawn(layer, WIDE)
  apply = jax.jit(lambda variables, key: layer.apply(variables, WIDE, rngs={'dropout': key}))
  params, contract = float64(variables), variables['params']['feed_forward']['contract']
  before = self_attention(params['attention'], WIDE)
  hidden = gelu(affine(params['feed_forward']['expand'], layer_norm(params['feed_forward']['norm'], before)))

  def added(picked, key):
    """What the feed-forward adds to each token's first channel where only one hidden channel leads there."""
    contract['kernel'] = jnp.zeros_like(contract['kernel']).at[jnp.array(picked, int), 0].set(1.0)
    found = apply(variables, jax.random.key(key)) - before - float64(variables)['feed_forward']['contract']['bias']
    np.testing.assert_allclose(found[..., 1:], 0, atol=1e-4)
    return found[..., 0]

  np.testing.assert_allclose(added([], 0), 0, atol=1e-4)
  for channel in (0, 50, 95):
    found, scaled = added([channel], channel), hidden[..., channel] / 0.75
    kept = np.abs(found - scaled) < np.abs(found)
    np.testing.assert_allclose(found, np.where(kept, scaled, 0), atol=1e-4)
    assert 0.4 < kept.mean() < 1


def test_statistics_of_norms_are_float32_in_bfloat16():
  """The variance of channels near 100 would be lost in bfloat16."""
  x = jnp.asarray(100 + np.round(normal(4, 64) * 2) / 2, jnp.bfloat16)
  norm = LayerNorm('bfloat16')
  variables = drawn(norm, x)
  found = norm.apply(variables, x)
  assert found.dtype == jnp.bfloat16
  expected = layer_norm(float64(variables), np.float64(x))
  np.testing.assert_allclose(np.float32(found), expected, rtol=2**-7, atol=0.01)


def test_parameters_stay_float32_in_bfloat16():
  layer = TransformerLayer(HEAD, dtype='bfloat16')
  variables = drawn(layer, WIDE)
  initial = jax.eval_shape(layer.init, jax.random.key(0), WIDE)
  assert {leaf.dtype for leaf in jax.tree.leaves(initial)} == {jnp.dtype('float32')}
  found = jax.jit(layer.apply)(variables, jnp.asarray(WIDE, jnp.bfloat16))
  expected = transformer_layer(float64(variables), WIDE)
  assert found.dtype == jnp.bfloat16
  assert np.abs(np.float32(found) - expected).mean() < 0.02 * np.abs(expected).mean()


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match=r'24 channels .*head_width=5: .*\[1, 2, 3, 4, 6, 8, 12, 24\]'):
    drawn(SelfAttention(5), WIDE)
  with pytest.raises(ValueError, match=r'8 channels .*head_width=5: .*\[1, 2, 4, 8\]'):
    drawn(CrossAttention(5), WIDE, NARROW)
