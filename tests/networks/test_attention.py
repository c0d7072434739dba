"""Attention against explicit loops in float64: among pixels, among frames beside images, to captions and pooled."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import FRAMES, SETTINGS, affine, drawn, group_norm, normal, softmax

from vdm_jax.networks import FIT, UNet3D
from vdm_jax.networks.attention import (
  RELATIVE_POSITIONS,
  AttentionPool,
  SpatialAttention,
  TemporalAttention,
  TextAttention,
  per_frame,
)
from vdm_jax.types import Conditioning

HEAD_WIDTH, GROUPS, TABLE_FRAMES = 4, 2, 4


def tiny_fit(**settings):
  """Return the shapes of a FIT's parameters."""
  fit = FIT(
    num_frames=2,
    height=8,
    width=8,
    patch_size=(1, 4, 4),
    group_size=(2, 2, 1),
    patch_width=16,
    latent_width=16,
    condition_width=16,
    num_latents=4,
    num_blocks=1,
    num_global_layers=1,
    num_local_layers=1,
    patch_head_width=4,
    latent_head_width=8,
    scalars=(),
    **settings,
  )
  return traced(fit, 2)


def tiny_unet(**settings):
  return traced(UNet3D(**SETTINGS | settings), FRAMES)


def traced(network, frames):
  x = jnp.zeros((1, frames, 8, 8, 3))
  return jax.eval_shape(lambda rng: network.init(rng, x, jnp.zeros(1), Conditioning()), jax.random.key(0))


def queries_keys_values(params, x):
  """Return queries, keys and values `[3 frames pixels heads width]` of normalized frames `[n h w c]`."""
  normed = group_norm(params['norm'], x, GROUPS)
  qkv = affine(params['qkv'], normed.reshape(len(x), -1, x.shape[-1]))
  return np.moveaxis(qkv, 2, 0)


def leave(params, out, x):
  """Apply the output projection to `[... heads width]` and add the residual."""
  projected = np.einsum('...nd,ndc->...c', out, np.float64(params['out']['kernel'])) + params['out']['bias']
  return x + projected.reshape(x.shape)


def attend_in_time(params, x, num_video):
  """Attention among all frames `[f h w c]` with a block diagonal mask, where images attend only to themselves."""
  q, k, v = queries_keys_values(params, x)
  frames, pixels, heads, _ = q.shape
  mask = np.eye(frames, dtype=bool)
  mask[:num_video, :num_video] = True
  out = np.zeros_like(q)
  for i, p, n in itertools.product(range(frames), range(pixels), range(heads)):
    logits, values = np.full(frames, -np.inf), np.zeros((frames, HEAD_WIDTH))
    for j in range(frames):
      if mask[i, j]:
        distance = j - i + TABLE_FRAMES - 1
        key, values[j] = k[j, p, n].copy(), v[j, p, n]
        if 'relative_keys' in params:
          key += params['relative_keys'][distance]
        if 'relative_values' in params:
          values[j] += params['relative_values'][distance]
        logits[j] = q[i, p, n] @ key / np.sqrt(HEAD_WIDTH)
        if 'relative_bias' in params:
          logits[j] += params['relative_bias'][distance, n]
    out[i, p, n] = softmax(logits) @ values
  return leave(params, out, x)


@pytest.mark.parametrize(('num_video', 'num_images'), [(4, 0), (3, 2)])
@pytest.mark.parametrize('kind', RELATIVE_POSITIONS)
def test_temporal_attention_is_masked_relative_attention(kind, num_video, num_images):
  x = normal(2, num_video + num_images, 2, 2, 8)
  layer = TemporalAttention(TABLE_FRAMES, HEAD_WIDTH, GROUPS, kind)
  variables = drawn(layer, x, num_video)
  expected = [attend_in_time(variables['params'], example, num_video) for example in x]
  found = jax.jit(lambda variables, x: layer.apply(variables, x, num_video))(variables, x)
  np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(
  ('kind', 'tables'),
  [
    ('keys_values', {'relative_keys': (7, 4), 'relative_values': (7, 4)}),
    ('keys', {'relative_keys': (7, 4)}),
    ('bias', {'relative_bias': (7, 2)}),
    ('none', {}),
  ],
)
def test_relative_tables_have_unit_variance(kind, tables):
  layer = TemporalAttention(TABLE_FRAMES, HEAD_WIDTH, GROUPS, kind)
  params = layer.init(jax.random.key(0), normal(1, 4, 2, 2, 8), 4)['params']
  found = {name: value.unbox() for name, value in params.items() if name.startswith('relative')}
  assert {name: value.shape for name, value in found.items()} == tables
  assert all(0.7 < np.std(value) < 1.4 for value in found.values())


def test_spatial_attention_is_within_frames():
  x = normal(3, 2, 4, 8)
  layer = SpatialAttention(HEAD_WIDTH, GROUPS)
  variables = drawn(layer, x)
  q, k, v = queries_keys_values(variables['params'], x)
  attention = softmax(np.einsum('fpnd,fqnd->fnpq', q, k) / np.sqrt(HEAD_WIDTH))
  expected = leave(variables['params'], np.einsum('fnpq,fqnd->fpnd', attention, v), x)
  np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, atol=2e-5)


CAPTIONS = normal(2, 3, 5, 6)  # two examples, each of a video and two images; tokens of width 6
VALID = np.arange(5) < np.array([[[5], [3], [1]], [[2], [1], [4]]])
SEGMENTS = np.array([0, 0, 1, 2])


def test_pixels_attend_to_the_caption_of_their_segment():
  x, layer = normal(2 * len(SEGMENTS), 2, 4, 8, seed=1), TextAttention(HEAD_WIDTH, GROUPS)
  variables = drawn(layer, x, CAPTIONS, VALID, SEGMENTS)
  params = variables['params']
  out = np.zeros((*x.shape[:3], 2, HEAD_WIDTH))
  for n, (example, segment) in enumerate(itertools.product(range(2), SEGMENTS)):
    caption = CAPTIONS[example, segment][VALID[example, segment]]  # not normed
    q = affine(params['query'], group_norm(params['norm'], x[n : n + 1], GROUPS)[0])
    k, v = np.moveaxis(affine(params['key_value'], caption), 1, 0)
    for i, j, head in np.ndindex(out.shape[1:4]):
      out[n, i, j, head] = softmax(k[:, head] @ q[i, j, head] / np.sqrt(HEAD_WIDTH)) @ v[:, head]
  found = jax.jit(layer.apply)(variables, x, CAPTIONS, VALID, SEGMENTS)
  np.testing.assert_allclose(found, leave(params, out, x), atol=2e-5)


def test_all_frames_share_a_single_segment():
  values, segments = normal(2, 3, 5), np.array([0, 0, 1, 2])
  np.testing.assert_array_equal(per_frame(values, segments), [row[s] for row in values for s in segments])
  np.testing.assert_array_equal(per_frame(values[:, :1], segments), [row[0] for row in values for _ in segments])


@pytest.fixture
def fused(monkeypatch):
  """Record the arguments of JAX's attention, which computes with XLA, as if on a GPU."""
  asked, attention = [], jax.nn.dot_product_attention

  def dot_product_attention(*inputs, implementation=None, **settings):
    asked.append((implementation, settings.get('mask') is not None, inputs[0].dtype.name, inputs[0].shape[-1]))
    return attention(*inputs, implementation='xla', **settings)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', dot_product_attention)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  return asked


def test_fused_attention_is_requested_among_pixels(fused):
  x, plain = normal(3, 2, 4, 8), SpatialAttention(HEAD_WIDTH, GROUPS)
  variables = drawn(plain, x)
  expected = jax.jit(plain.apply)(variables, x)
  assert fused == [], 'XLA uses its own implementation'
  layer = SpatialAttention(HEAD_WIDTH, GROUPS, implementation='cudnn')
  np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, atol=2e-5)
  assert fused == [('cudnn', False, 'float32', HEAD_WIDTH)]


@pytest.mark.parametrize(
  ('network', 'calls'),
  [
    # Implementation, masked, dtype, head width: only attention to the condition, which is masked, is left to XLA.
    (tiny_fit, {('xla', True, 'bfloat16', 4), ('cudnn', False, 'bfloat16', 4), ('cudnn', False, 'bfloat16', 8)}),
    (tiny_unet, {('cudnn', False, 'bfloat16', 4)}),
  ],
)
def test_the_setting_reaches_every_attention_without_a_mask(fused, network, calls):
  network(attention='cudnn', dtype='bfloat16')
  assert set(fused) == calls


@pytest.mark.parametrize('network', [tiny_fit, tiny_unet])
@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'attention': 'cudnn'}, "model.attention='cudnn' .*bfloat16, but model.dtype='float32'"),
    ({'attention': 'cudnn', 'dtype': 'bfloat16'}, "model.attention='cudnn' .*NVIDIA GPU.* cpu"),
    ({'attention': 'flash'}, "model.attention='flash' .*xla, cudnn"),
  ],
)
def test_fused_attention_that_cannot_run_is_an_error(network, settings, message):
  with pytest.raises(ValueError, match=message):
    network(**settings)


TO_TEXT = (normal(3, 2, 4, 8), normal(1, 1, 5, 6), np.ones((1, 1, 5), bool), np.zeros(3, int))


@pytest.mark.parametrize(
  ('layer', 'inputs'),
  [
    (SpatialAttention(HEAD_WIDTH, GROUPS), (normal(3, 2, 4, 8),)),
    (TextAttention(HEAD_WIDTH, GROUPS), TO_TEXT),
    (TemporalAttention(TABLE_FRAMES, HEAD_WIDTH, GROUPS), (normal(1, 5, 2, 2, 8), 3)),
  ],
)
def test_attention_is_initialized_to_the_identity(layer, inputs):
  out, _ = layer.init_with_output(jax.random.key(0), *inputs)
  np.testing.assert_array_equal(out, inputs[0])


def test_heads_must_divide_the_channels():
  message = r'8 channels .*head_width=5: .*\[1, 2, 4, 8\]'
  for layer, inputs in (
    (SpatialAttention(5, GROUPS), (normal(1, 2, 2, 8),)),
    (TextAttention(5, GROUPS), TO_TEXT),
    (TemporalAttention(TABLE_FRAMES, 5, GROUPS), (normal(1, 4, 2, 2, 8), 4)),
  ):
    with pytest.raises(ValueError, match=message):
      layer.init(jax.random.key(0), *inputs)


POOL = AttentionPool(16, heads=2)
TOKENS = normal(2, 3, 5, 6)
MASK = np.arange(5) < np.array([[[5], [3], [1]], [[2], [0], [4]]])


@pytest.fixture(scope='module')
def pool():
  variables = drawn(POOL, TOKENS, MASK)
  return variables['params'], jax.jit(lambda tokens, mask: POOL.apply(variables, tokens, mask))


def test_pooling_attends_from_the_mean_to_valid_tokens(pool):
  params, apply = pool
  found = apply(TOKENS, MASK)
  assert found.shape == (2, 3, 16)
  for b, s in np.ndindex(2, 3):
    tokens = TOKENS[b, s][MASK[b, s]]
    if len(tokens):
      q, (k, v) = affine(params['query'], tokens.mean(0)), (affine(params[name], tokens) for name in ('key', 'value'))
      attention = softmax(np.einsum('nd,lnd->nl', q, k) / np.sqrt(8))
      pooled = np.einsum('nl,lnd->nd', attention, v)
      expected = np.einsum('nd,ndc->c', pooled, params['out']['kernel']) + params['out']['bias']
      np.testing.assert_allclose(found[b, s], expected, atol=1e-5)


def test_pooling_no_valid_tokens_gives_zeros(pool):
  found = pool[1](TOKENS, MASK)
  assert not found[1, 1].any()
  assert not pool[1](TOKENS, np.zeros_like(MASK)).any()


def test_padding_does_not_affect_the_pool(pool):
  found = pool[1](TOKENS, MASK)
  np.testing.assert_array_equal(pool[1](np.where(MASK[..., None], TOKENS, 1e3), MASK), found)
  longer = np.concatenate([TOKENS, normal(2, 3, 4, 6, seed=1)], axis=2)
  padded = np.concatenate([MASK, np.zeros((2, 3, 4), bool)], axis=2)
  np.testing.assert_allclose(pool[1](longer, padded), found, atol=1e-6)


def test_gradients_of_an_empty_caption_are_finite():
  def total(tokens):
    variables = drawn(POOL, TOKENS, MASK)
    return POOL.apply(variables, tokens, jnp.zeros(MASK.shape, bool)).sum()

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(TOKENS), 0)


def test_the_heads_of_the_pool_must_divide_its_width():
  with pytest.raises(ValueError, match='embedding_width=24 .*16'):
    AttentionPool(24).init(jax.random.key(0), TOKENS, MASK)
