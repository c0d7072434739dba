"""FIT against Snap section 3.4 and appendix A: counts, layout, the forward pass in float64 numpy, invariances."""

from __future__ import annotations

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.tiny_networks import affine, drawn, normal
from networks.test_transformer import cross_attention, feed_forward, float64, layer_norm, transformer_layer

from vdm_jax.networks import FIT
from vdm_jax.networks.embeddings import ConditionTokens
from vdm_jax.networks.fit import REMAT
from vdm_jax.networks.patches import Layout
from vdm_jax.tools.compilation import model_flops
from vdm_jax.types import Conditioning

# Snap's networks (Table 8).
BASE = {'num_frames': 16, 'height': 40, 'width': 64, 'takes_text': True}
LARGE = BASE | {
  'patch_width': 1024,
  'latent_width': 3072,
  'condition_width': 1024,
  'num_latents': 768,
  'patch_head_width': 64,
  'latent_head_width': 128,
}
UPSAMPLER = LARGE | {
  'height': 288,
  'width': 512,
  'group_size': (16, 18, 16),
  'takes_low_resolution': True,
  'positions': 'axial',
}
ALL_SCALARS = ('frame_interval', 'resolution', 'augmentation_logsnr')
LETTERS, TEXT_WIDTH = 77, 1024

# Two frames of 4 x 6 patches in 2 x 2 groups of 2 x 3.
TINY = {
  'num_frames': 2,
  'height': 8,
  'width': 12,
  'patch_size': (1, 2, 2),
  'group_size': (2, 2, 3),
  'patch_width': 16,
  'latent_width': 24,
  'condition_width': 16,
  'num_latents': 8,
  'num_blocks': 2,
  'num_global_layers': 2,
  'patch_head_width': 8,
  'latent_head_width': 12,
}
CASES = {
  'snap': FIT(**TINY, takes_text=True),
  'vanilla': FIT(
    **TINY, condition_read='after', cross_feed_forward=False, num_local_layers=1, positions='group', num_classes=3
  ),
  'second stage': FIT(**TINY, takes_low_resolution=True, positions='axial', scalars=ALL_SCALARS),
  'narrow latents': FIT(**TINY | {'latent_width': 12, 'patch_head_width': 4, 'latent_head_width': 6, 'num_blocks': 1}),
  'groups in time': FIT(
    **TINY | {'num_frames': 4, 'patch_size': (2, 2, 2), 'group_size': (1, 4, 3)},
    self_conditioning=False,
    num_local_layers=2,
    positions='group',
  ),
}
SMALLEST = TINY | {'scalars': (), 'self_conditioning': False}


def inputs(fit):
  """Return a batch of two with every condition that the network takes: `(x, logsnr, cond)`."""
  shape = (2, fit.num_frames, fit.height, fit.width, fit.channels)
  cond = Conditioning(
    text=normal(2, 1, 5, 6, seed=1) if fit.takes_text else None,
    text_mask=np.arange(5) < np.array([[[3]], [[5]]]) if fit.takes_text else None,
    label=np.array([[2], [0]]) if fit.num_classes else None,
    frame_interval=np.array([0.25, 0.0], np.float32),
    resolution=np.array([[288.0, 512.0], [36.0, 64.0]], np.float32),
    low_resolution=normal(*shape, seed=2) if fit.takes_low_resolution else None,
    augmentation_logsnr=np.array([3.0, 0.5], np.float32),
  )
  return normal(*shape), np.array([-1.0, 2.0], np.float32), cond


def previous(fit):
  """Return latents of an earlier evaluation, of typical magnitude."""
  return 3 * normal(2, fit.num_latents, fit.latent_width, seed=3) if fit.self_conditioning else None


@functools.cache
def variables_of(fit):
  return drawn(fit, *inputs(fit))


@functools.cache
def forward(fit):
  """The network, compiled: (variables, x, logsnr, cond, carry) -> (output, carry)."""
  return jax.jit(fit.apply)


def patches_of(fit):
  """Return the grid position of each token of each group: `[groups][tokens] -> (t, h, w)`."""
  sizes = (fit.num_frames, fit.height, fit.width)
  counts = [range(n // p // g) for n, p, g in zip(sizes, fit.patch_size, fit.group_size, strict=True)]
  return [
    [tuple(np.add(np.multiply(block, fit.group_size), offset)) for offset in np.ndindex(fit.group_size)]
    for block in itertools.product(*counts)
  ]


def pixels_of(fit, place):
  return tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, fit.patch_size, strict=True))


def position_of(fit, params, place):
  if fit.positions == 'token':
    return params['position_embedding'][place]
  if fit.positions == 'group':
    return params['position_embedding'][tuple(np.mod(place, fit.group_size))]
  t, h, w = place
  return (
    params['frame_position_embedding'][t]
    + params['row_position_embedding'][h]
    + (params['column_position_embedding'][w])
  )


@functools.cache
def condition_tokens(fit):
  x, logsnr, cond = inputs(fit)
  module = ConditionTokens(
    fit.condition_width, fit.scalars, fit.noise_features, fit.takes_text, num_classes=fit.num_classes
  )
  return jax.jit(module.apply)({'params': variables_of(fit)['params']['condition']}, logsnr, cond)


def reference(fit, params, carry):
  """Compute the forward pass token by token and group by group, in float64."""
  (x, _, cond), (condition, valid) = inputs(fit), condition_tokens(fit)
  sources = [x] if cond.low_resolution is None else [x, cond.low_resolution]
  places, batch = patches_of(fit), len(x)

  def layers(params, name, number, x):
    for i in range(number):
      x = transformer_layer(jax.tree.map(lambda leaf: leaf[i], params[name]['layer']), x)  # noqa: B023
    return x

  def cross(params, x, *other):
    x = cross_attention(params['attention'], x, *other)
    return feed_forward(params['feed_forward'], x) if fit.cross_feed_forward else x

  tokens = np.zeros((batch, len(places), len(places[0]), fit.patch_width))
  for g, group in enumerate(places):
    for n, place in enumerate(group):
      pixels = [source[:, *pixels_of(fit, place)].reshape(batch, -1) for source in sources]
      embedded = affine(params['patch'], np.concatenate(pixels, -1))
      tokens[:, g, n] = layer_norm(params['patch_norm'], embedded) + position_of(fit, params, place)

  latents = np.tile(params['latents'], (batch, 1, 1))
  if fit.self_conditioning:
    latents += layer_norm(params['self_condition_norm'], feed_forward(params['self_condition'], carry))
  each = fit.num_latents // len(places)
  share = [slice(g * each, (g + 1) * each) for g in range(len(places))]
  for i in range(fit.num_blocks):
    block = jax.tree.map(lambda leaf: leaf[i], params['blocks'])  # noqa: B023
    tokens = layers(block, 'local_layers', fit.num_local_layers, tokens)
    if fit.condition_read == 'before':
      latents = cross(block['condition_read'], latents, condition, valid)
    latents = np.concatenate([cross(block['read'], latents[:, own], tokens[:, g]) for g, own in enumerate(share)], 1)
    if fit.condition_read == 'after':
      latents = cross(block['condition_read'], latents, condition, valid)
    latents = layers(block, 'global_layers', fit.num_global_layers, latents)
    tokens = np.stack([cross(block['write'], tokens[:, g], latents[:, own]) for g, own in enumerate(share)], 1)
  tokens = layers(params, 'final_layers', fit.num_local_layers, tokens)

  out = np.zeros(x.shape)
  for g, group in enumerate(places):
    for n, place in enumerate(group):
      pixels = affine(params['head'], layer_norm(params['head_norm'], tokens[:, g, n]))
      out[:, *pixels_of(fit, place)] = pixels.reshape(batch, *fit.patch_size, fit.channels)
  return out, latents


@pytest.mark.parametrize('name', CASES)
def test_the_forward_pass_follows_its_specification(name):
  fit = CASES[name]
  variables, carry = variables_of(fit), previous(fit)
  found, latents = forward(fit)(variables, *inputs(fit), carry)
  expected, expected_latents = reference(fit, float64(variables), carry)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
  if fit.self_conditioning:
    np.testing.assert_allclose(latents, expected_latents, rtol=0, atol=1e-5 * np.abs(expected_latents).max())
  else:
    assert latents is None


# Counts, by abstract evaluation.


def abstract_inputs(fit):
  def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)

  video = spec(1, fit.num_frames, fit.height, fit.width, fit.channels)
  cond = Conditioning(text=spec(1, 1, LETTERS, TEXT_WIDTH), low_resolution=video if fit.takes_low_resolution else None)
  return video, spec(1), cond


@functools.cache
def abstract(fit):
  return jax.eval_shape(fit.init, jax.random.key(0), *abstract_inputs(fit))


def count(fit):
  return sum(leaf.size for leaf in jax.tree.leaves(abstract(fit)))


@pytest.mark.parametrize(
  ('settings', 'parameters'),
  [
    (BASE, 495_040_048),
    (LARGE, 3_912_307_760),
    (UPSAMPLER, 3_909_956_656),
    (UPSAMPLER | {'scalars': ALL_SCALARS}, 3_909_956_656 + 1_312_768),
    (UPSAMPLER | {'positions': 'token'}, 4_060_730_416),
  ],
)
def test_parameters_of_the_papers_networks(settings, parameters):
  assert count(FIT(**settings)) == parameters


@pytest.mark.parametrize(
  ('change', 'millions', 'large_millions'),
  [
    ({'self_conditioning': False}, 486.6, 3837),
    ({'cross_feed_forward': False}, 365.9, 2956),
    ({'positions': 'group'}, 493.3, 3910),
    ({'positions': 'axial'}, 493.1, 3910),
    ({'condition_read': 'after', 'remat': 'block', 'dtype': 'bfloat16', 'dropout': 0.1}, 495.0, 3912),
  ],
)
def test_parameters_of_variants_of_the_papers_networks(change, millions, large_millions):
  assert round(count(FIT(**BASE | change)) / 1e6, 1) == millions
  assert round(count(FIT(**LARGE | change)) / 1e6) == large_millions


def test_tokens_and_groups_of_the_papers_networks():
  base, upsampler = FIT(**BASE).layout(), FIT(**UPSAMPLER).layout()
  assert base == FIT(**LARGE).layout() == Layout((1, 4, 4), (16, 5, 4), (1, 2, 4))
  assert upsampler == Layout((1, 4, 4), (16, 18, 16), (1, 4, 8))
  assert (base.grid, math.prod(base.grid)) == ((16, 10, 16), 2_560)
  assert (upsampler.grid, math.prod(upsampler.grid)) == ((16, 72, 128), 147_456)
  assert (10 % 5, 16 % 4, 72 % 18, 128 % 16) == (0, 0, 0, 0)


def closed_form(fit):
  """Return the FLOPs of a forward pass in closed form, and those of embeddings and projections."""
  latents, d, big, width = fit.num_latents, fit.patch_width, fit.latent_width, fit.condition_width
  tokens, groups = math.prod(fit.layout().grid), math.prod(fit.layout().groups)
  n, m, keys = tokens // groups, latents // groups, 1 + len(fit.scalars) + LETTERS
  a, a_c, blocks = min(big, d), min(big, width), fit.num_blocks
  trunk = blocks * fit.num_global_layers * (24 * latents * big**2 + 4 * latents**2 * big)
  condition = 4 * latents * big * a_c + 4 * keys * width * a_c + 4 * latents * keys * a_c + 16 * latents * big**2
  read = 4 * latents * big * a + 4 * tokens * d * a + 4 * latents * n * a + 16 * latents * big**2
  write = 4 * tokens * d * a + 4 * latents * big * a + 4 * tokens * m * a + 16 * tokens * d**2
  self_conditioning = 16 * latents * big**2
  values = math.prod(fit.patch_size) * fit.channels
  patches = 2 * tokens * d * values * (2 + fit.takes_low_resolution)
  scalars = (1 + len(fit.scalars)) * 2 * (width // 4 * width + width**2)
  text = 2 * LETTERS * TEXT_WIDTH * width
  return trunk + blocks * (condition + read + write) + self_conditioning, patches + scalars + text


@pytest.mark.parametrize(('settings', 'tera'), [(BASE, 0.702), (LARGE, 6.433), (UPSAMPLER, 28.52)])
def test_flops_match_their_closed_form(settings, tera):
  fit = FIT(**settings)
  work, rest = closed_form(fit)
  assert model_flops(lambda *args: fit.apply(*args)[0], abstract(fit), *abstract_inputs(fit)) == work + rest
  assert work + rest == pytest.approx(tera * 1e12, rel=0.001)


# Layout.


@pytest.mark.parametrize('settings', [BASE, UPSAMPLER], ids=['base', 'upsampler'])
def test_groups_are_contiguous_blocks_of_patches_of_one_frame(settings):
  """Every pixel has a unique value; every token must contain those of its position, and the round trip is exact."""
  fit = FIT(**settings | {'channels': 1})
  layout, (t, h, w) = fit.layout(), fit.group_size
  rows, columns = fit.height // 4 // h, fit.width // 4 // w
  video = np.arange(fit.num_frames * fit.height * fit.width).reshape(1, fit.num_frames, fit.height, fit.width, 1)
  grid = layout.patchify(video)
  groups = layout.split(grid)
  assert groups.shape == (1, rows * columns, t * h * w, 16)
  for row, column in np.ndindex(rows, columns):
    block = video[0, :, row * 4 * h : (row + 1) * 4 * h, column * 4 * w : (column + 1) * 4 * w, 0]
    group = groups[0, row * columns + column].reshape(t, h, w, 4, 4)
    for i, j in np.ndindex(h, w):
      np.testing.assert_array_equal(group[:, i, j], block[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4])
  np.testing.assert_array_equal(layout.join(groups), grid)
  np.testing.assert_array_equal(layout.unpatchify(layout.join(groups)), video)


def test_patches_and_groups_may_span_frames():
  fit = FIT(num_frames=8, height=4, width=4, patch_size=(2, 2, 1), group_size=(2, 1, 2), num_latents=8)
  video = normal(2, 8, 4, 4, 3)
  groups = fit.layout().split(fit.layout().patchify(video))
  for g, group in enumerate(patches_of(fit)):
    for n, place in enumerate(group):
      np.testing.assert_array_equal(groups[:, g, n], video[:, *pixels_of(fit, place)].reshape(2, -1))
  np.testing.assert_array_equal(fit.layout().unpatchify(fit.layout().join(groups)), video)


# Invariances.


def permute(grid, order, rows, columns):
  """Permute the blocks of rows x columns of `[... h w c]`."""
  down, across = grid.shape[-3] // rows, grid.shape[-2] // columns
  blocks = [
    grid[..., j * rows : (j + 1) * rows, k * columns : (k + 1) * columns, :] for j, k in np.ndindex(down, across)
  ]
  moved = [blocks[i] for i in order]
  return np.concatenate([np.concatenate(moved[j * across : (j + 1) * across], axis=-2) for j in range(down)], axis=-3)


@pytest.mark.parametrize(
  ('name', 'order'), [('snap', (2, 0, 3, 1)), ('vanilla', (2, 0, 3, 1)), ('second stage', (1, 0, 3, 2))]
)
def test_only_latents_and_positions_distinguish_groups(name, order):
  """Permuting them with the groups permutes the output; otherwise the output changes."""
  fit, order = CASES[name], np.array(order)
  (x, logsnr, cond), carry, variables = inputs(fit), previous(fit), variables_of(fit)
  plain, _ = forward(fit)(variables, x, logsnr, cond, carry)

  def shuffled(video):
    return None if video is None else permute(np.asarray(video), order, 4, 6)

  def in_groups(latents):
    """`[... latents width]` by group."""
    return latents.reshape(*latents.shape[:-2], 4, 2, -1)[..., order, :, :].reshape(latents.shape)

  moved = dict(variables['params'])
  if fit.positions == 'token':
    moved['position_embedding'] = permute(np.asarray(moved['position_embedding']), order, 2, 3)
  if fit.positions == 'axial':  # adjacent groups are swapped
    moved['column_position_embedding'] = jnp.roll(moved['column_position_embedding'], 3, axis=0)
  args = shuffled(x), logsnr, cond._replace(low_resolution=shuffled(cond.low_resolution)), in_groups(carry)
  unlike, _ = forward(fit)({'params': moved}, *args)
  moved['latents'] = in_groups(moved['latents'])
  found, _ = forward(fit)({'params': moved}, *args)
  size = np.abs(plain).max()
  np.testing.assert_allclose(found, shuffled(plain), rtol=0, atol=1e-5 * size)
  assert np.abs(unlike - shuffled(plain)).max() > 0.01 * size


@pytest.mark.parametrize('name', ['snap', 'vanilla', 'second stage'])
def test_the_order_of_frames_matters(name):
  fit = CASES[name]
  (x, logsnr, cond), carry, variables = inputs(fit), previous(fit), variables_of(fit)
  reverse = cond if cond.low_resolution is None else cond._replace(low_resolution=cond.low_resolution[:, ::-1])

  def compare(variables):
    plain, _ = forward(fit)(variables, x, logsnr, cond, carry)
    found, _ = forward(fit)(variables, x[:, ::-1], logsnr, reverse, carry)
    return np.abs(found[:, ::-1] - plain).max() / np.abs(plain).max()

  assert compare(variables) > 0.01
  if fit.positions == 'axial':  # only positions distinguish frames
    params = variables['params']
    params = params | {'frame_position_embedding': jnp.zeros_like(params['frame_position_embedding'])}
    assert compare({'params': params}) < 1e-5


def test_captions_have_an_influence_and_their_padding_has_none():
  fit = CASES['snap']
  (x, logsnr, cond), carry, variables = inputs(fit), previous(fit), variables_of(fit)
  plain, _ = forward(fit)(variables, x, logsnr, cond, carry)
  valid = cond.text_mask[..., None]
  padded, _ = forward(fit)(variables, x, logsnr, cond._replace(text=np.where(valid, cond.text, 9)), carry)
  np.testing.assert_array_equal(padded, plain)
  other, _ = forward(fit)(variables, x, logsnr, cond._replace(text=np.where(valid, -cond.text, 0)), carry)
  assert (np.abs(other - plain).max((1, 2, 3, 4)) > 1e-3).all()


def test_videos_of_a_batch_do_not_mix():
  fit = CASES['snap']
  (x, logsnr, cond), carry, variables = inputs(fit), previous(fit), variables_of(fit)
  plain, _ = forward(fit)(variables, x, logsnr, cond, carry)
  x, carry = x.copy(), carry.copy()
  x[1], carry[1], logsnr = 0, 0, logsnr + np.array([0, 1], np.float32)
  found, _ = forward(fit)(variables, x, logsnr, cond, carry)
  np.testing.assert_allclose(found[0], plain[0], rtol=0, atol=1e-5 * np.abs(plain).max())


# Initialization and self-conditioning.


@functools.cache
def initial(fit):
  return nn.unbox(jax.jit(fit.init)(jax.random.key(0), *inputs(fit)))


def test_no_carry_equals_a_carry_of_zeros():
  fit = CASES['snap']
  outputs = [forward(fit)(variables_of(fit), *inputs(fit), carry) for carry in (None, 0 * previous(fit))]
  jax.tree.map(np.testing.assert_array_equal, *outputs)


def test_at_initialization_the_carry_has_no_influence():
  """The tests of LAMB check that its norm still learns."""
  fit = CASES['snap']
  variables, args, carry = initial(fit), inputs(fit), previous(fit)
  plain = forward(fit)(variables, *args, 0 * carry)
  jax.tree.map(np.testing.assert_array_equal, forward(fit)(variables, *args, carry), plain)
  norm = variables['params']['self_condition_norm']
  variables = {'params': variables['params'] | {'self_condition_norm': norm | {'scale': 0.1 + norm['scale']}}}
  assert np.abs(forward(fit)(variables, *args, carry)[0] - plain[0]).max() > 1e-3


def test_everything_else_is_initialized_as_in_snap():
  """Matrices are Glorot uniform, tables are small; only biases and the scale of the carry's norm are zero."""
  fit = CASES['snap']
  names = nn.get_partition_spec(jax.eval_shape(fit.init, jax.random.key(0), *inputs(fit)))
  axes = {jax.tree_util.keystr(path): axes for path, axes in jax.tree_util.tree_leaves_with_path(names)}
  for path, leaf in jax.tree_util.tree_leaves_with_path(initial(fit)):
    parent, name, where = path[-2].key, path[-1].key, jax.tree_util.keystr(path)
    stacked = axes[where].count('layers')
    assert stacked == ('blocks' in where) + ('global_layers' in where)
    assert axes[where][:stacked] == ('layers',) * stacked
    layers = np.abs(leaf).reshape(-1, *leaf.shape[stacked:])
    if name == 'bias' or (parent, name) == ('self_condition_norm', 'scale'):
      assert not layers.any(), where
    elif name == 'scale':
      np.testing.assert_array_equal(layers, 1, err_msg=where)
    elif name == 'kernel':
      summed = 2 if parent == 'out' else 1
      fan_in, fan_out = math.prod(layers.shape[1 : 1 + summed]), math.prod(layers.shape[1 + summed :])
      bound = math.sqrt(6 / (fan_in + fan_out))
      highest = layers.reshape(len(layers), -1).max(-1)
      assert (highest > 0.95 * bound).all() and (highest <= bound * (1 + 1e-6)).all(), where
      assert layers.mean() == pytest.approx(bound / 2, rel=0.15), where
    elif name.endswith('embedding') or name == 'latents':
      assert layers.max() <= 0.04
      assert np.std(leaf) == pytest.approx(0.02 * 0.88, rel=0.15)  # of a normal truncated at two standard deviations
    assert len({layer.tobytes() for layer in np.asarray(layers)}) == (len(layers) if name == 'kernel' else 1), where


def test_bfloat16_is_close_and_the_carry_keeps_its_dtype():
  fit = CASES['snap']
  half = fit.clone(dtype='bfloat16')
  params = initial(fit)['params'] | {'self_condition_norm': variables_of(fit)['params']['self_condition_norm']}
  args, carry, half_carry = inputs(fit), previous(fit), previous(fit).astype(jnp.bfloat16)
  for _ in range(2):  # the second evaluation continues from the first
    out, carry = forward(fit)({'params': params}, *args, carry)
    half_out, half_carry = forward(half)({'params': params}, *args, half_carry)
    assert half_carry.dtype == jnp.bfloat16
    assert np.abs(np.float32(half_out) - out).mean() < 0.02 * np.abs(out).mean()
    assert np.abs(np.float32(half_carry) - carry).mean() < 0.02 * np.abs(carry).mean()
  initials = jax.eval_shape(half.init, jax.random.key(0), *args)
  assert {leaf.dtype for leaf in jax.tree.leaves(initials)} == {jnp.dtype('float32')}
  first = jax.eval_shape(half.apply, {'params': params}, *args, None)[1]
  assert (first.shape, first.dtype) == (half_carry.shape, half_carry.dtype)


# Dropout.


DROPPING = CASES['snap'].clone(dropout=0.5)


@functools.cache
def training():
  return jax.jit(
    lambda variables, key: DROPPING.apply(
      variables, *inputs(DROPPING), previous(DROPPING), train=True, rngs={'dropout': key}
    )
  )


def test_dropout_is_only_in_the_feed_forward_after_self_attention():
  fit = CASES['snap']
  variables = jax.tree.map(lambda leaf: leaf, variables_of(fit))
  dropped = training()(variables, jax.random.key(1))[0]
  contract = variables['params']['blocks']['global_layers']['layer']['feed_forward']['contract']
  contract['kernel'] = jnp.zeros_like(contract['kernel'])
  found = training()(variables, jax.random.key(1))
  expected = forward(fit)(variables, *inputs(fit), previous(fit))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), found, expected)
  assert np.abs(dropped - forward(fit)(variables_of(fit), *inputs(fit), previous(fit))[0]).max() > 0.01


def test_dropout_depends_on_the_key():
  outputs = [training()(variables_of(DROPPING), jax.random.key(seed))[0] for seed in (1, 1, 2)]
  np.testing.assert_array_equal(outputs[0], outputs[1])
  assert np.abs(outputs[0] - outputs[2]).max() > 0.01


def test_dropout_is_independent_between_layers_and_blocks():
  """Layer i adds 10^i to each channel of each latent that it keeps; all else adds zero."""
  variables = jax.tree.map(jnp.zeros_like, variables_of(DROPPING))
  layer = variables['params']['blocks']['global_layers']['layer']['feed_forward']
  layer['expand']['bias'] = jnp.ones_like(layer['expand']['bias'])
  kept = jax.nn.gelu(1.0, approximate=False) / (1 - DROPPING.dropout)
  shape = layer['contract']['kernel'].shape
  powers = 10.0 ** np.arange(4).reshape(2, 2, 1, 1)
  layer['contract']['kernel'] = jnp.asarray(powers * np.eye(*shape[2:]) / kept, jnp.float32)
  added = np.asarray(training()(variables, jax.random.key(0))[1], np.float64)
  np.testing.assert_allclose(added, np.round(added), atol=2e-3)
  masks = np.stack([np.round(added) // 10**i % 10 for i in range(4)])
  assert set(np.unique(masks)) == {0, 1}
  np.testing.assert_allclose(masks.mean((1, 2, 3)), 0.5, atol=0.1)  # 384 coins each
  for a, b in itertools.combinations(masks.reshape(8, -1), 2):
    assert 0.3 < (a == b).mean() < 0.7


# Costs of the program.


def loss(fit):
  x, logsnr, cond = inputs(fit)
  return lambda variables: jnp.square(fit.apply(variables, x, logsnr, cond)[0]).mean()


@functools.cache
def gradient(remat):
  """Return gradients of the parameters before all blocks, with dropout, from two calls."""
  fit = FIT(**SMALLEST, num_local_layers=1, remat=remat, dropout=0.3)
  (x, logsnr, cond), params = inputs(fit), variables_of(fit)['params']
  early = {name: params[name] for name in ('patch', 'position_embedding', 'latents')}

  def total(early):
    rngs = {'dropout': jax.random.key(4)}
    return jnp.square(fit.apply({'params': params | early}, x, logsnr, cond, train=True, rngs=rngs)[0]).mean()

  return jax.jit(jax.value_and_grad(total))(early)


@pytest.mark.parametrize('remat', REMAT[1:])
def test_rematerialization_does_not_change_gradients(remat):
  (value, found), (expected_value, expected) = gradient(remat), gradient('none')
  assert float(value) == pytest.approx(float(expected_value), rel=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), found, expected)


@functools.cache
def saved(remat, blocks):
  """Return the shapes of everything saved for the backward pass, parameters included."""
  fit = FIT(**SMALLEST | {'num_blocks': blocks}, num_local_layers=1, remat=remat)
  backward = jax.eval_shape(lambda variables: jax.vjp(loss(fit), variables)[1], variables_of(fit))
  return [leaf.shape for leaf in jax.tree.leaves(backward)]


def test_rematerialization_saves_less():
  sizes = {remat: sum(map(math.prod, saved(remat, 2))) for remat in REMAT}
  assert sizes['block'] < sizes['tokens'] < sizes['none']

  hidden = (4, 12, 4 * 16)  # of a feed-forward among the patches: groups, tokens of each, channels
  assert any(shape[-3:] == hidden for shape in saved('none', 2))
  assert not any(shape[-3:] == hidden for shape in saved('tokens', 2))

  fit = FIT(**SMALLEST, num_local_layers=1)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables_of(fit)['params']['blocks'])) // fit.num_blocks
  unused = fit.patch_width  # no gradient needs the bias of the last product of a block
  grown = sum(map(math.prod, saved('block', 3))) - sum(map(math.prod, saved('block', 2)))
  boundary = 2 * (math.prod(fit.layout().grid) * fit.patch_width + fit.num_latents * fit.latent_width)
  assert grown == parameters - unused + boundary


def test_training_is_three_forward_passes_with_any_rematerialization():
  def count_flops(remat, transform):
    fit = FIT(**SMALLEST, num_local_layers=1, remat=remat)
    x, logsnr, cond = inputs(fit)
    total = transform(lambda variables, x: jnp.square(fit.apply(variables, x, logsnr, cond)[0]).sum())
    return model_flops(total, variables_of(fit), x)

  trained = {remat: count_flops(remat, lambda total: jax.grad(total, (0, 1))) for remat in REMAT}
  assert len(set(trained.values())) == 1
  # The noise level is not differentiated, so its embedding has one gradient less.
  assert trained['none'] == pytest.approx(3 * count_flops('none', lambda total: total), rel=1e-3)


def test_the_program_does_not_grow_with_depth():
  def lines(blocks, layers):
    fit = FIT(**SMALLEST | {'num_blocks': blocks, 'num_global_layers': layers}, num_local_layers=layers)
    return len(jax.jit(jax.grad(loss(fit))).lower(variables_of(fit)).as_text().splitlines())

  assert lines(2, 3) == lines(6, 4)


# Errors.


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'height': 38},
      'data.height=38 / model.patch_size[1]=4 leaves 2: use data.height=36 or 40, or model.patch_size[1]=2 or 19',
    ),
    (
      {'group_size': (16, 4, 4)},
      'data.height in patches=10 / model.group_size[1]=4 leaves 2: use data.height in patches=8 or 12, or '
      'model.group_size[1]=2 or 5',
    ),
    (
      {'group_size': (32, 5, 4)},
      'data.num_frames in patches=16 / model.group_size[0]=32 leaves 16: use data.num_frames in patches=32, or '
      'model.group_size[0]=16',
    ),
    ({'patch_size': (1, 4, 0)}, 'model.patch_size=(1, 4, 0) '),
    ({'num_latents': 500}, 'model.num_latents=500 / 1 x 2 x 4 groups=8 leaves 4: use model.num_latents=496 or 504'),
    ({'num_latents': 0}, 'model.num_latents=0 / 1 x 2 x 4 groups=8 leaves 0: use model.num_latents=8'),
    (
      {'condition_width': 760},
      'model.condition_width=760 / parts of its sinusoids=16 leaves 8: use model.condition_width=752 or 768',
    ),
    (
      {'latent_head_width': 96},
      'model.latent_width=1024 / model.latent_head_width=96 leaves 64: use model.latent_width=960 or 1056, or '
      'model.latent_head_width=64 or 128',
    ),
    (
      {'patch_head_width': 64, 'patch_width': 800},
      'min(model.patch_width, model.latent_width)=800 / model.patch_head_width=64 leaves 32: use '
      'min(model.patch_width, model.latent_width)=768 or 832, or model.patch_head_width=50 or 80',
    ),
    (
      {'latent_width': 512, 'latent_head_width': 32},
      'min(model.patch_width, model.latent_width)=512 / model.patch_head_width=48 leaves 32: use '
      'min(model.patch_width, model.latent_width)=480 or 528, or model.patch_head_width=32 or 64',
    ),
    ({'num_blocks': 0}, 'model.num_blocks=0 '),
    ({'positions': 'frame'}, "model.positions='frame' "),
    ({'condition_read': 'last'}, "model.condition_read='last' "),
    ({'remat': 'all'}, "model.remat='all' "),
    ({'noise_features': 'cosine'}, "model.noise_features='cosine' "),
    ({'scalars': ('fps',)}, "model.scalars='fps' "),
  ],
)
def test_invalid_settings_are_errors(change, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    FIT(**BASE | change).layout()


def test_invalid_inputs_are_errors():
  base, second = FIT(**TINY), CASES['second stage']
  x, logsnr, cond = inputs(second)
  longer = np.concatenate([x, x], axis=1)

  def run(fit, x, cond):
    jax.eval_shape(fit.init, jax.random.key(0), x, logsnr, cond)

  with pytest.raises(ValueError, match='4 frames of 8x12, .* 2 of 8x12'):
    run(base, longer, Conditioning())
  with pytest.raises(ValueError, match='2 appended images.*data.num_images=0.*data.image_rate'):
    run(base, x, Conditioning(drop=np.zeros((2, 3), bool)))
  with pytest.raises(ValueError, match=r"logsnr has shape \(2, 2\).*FIT.*'unet3d'"):
    jax.eval_shape(base.init, jax.random.key(0), x, np.zeros((2, 2)), Conditioning())
  with pytest.raises(ValueError, match='needs a low-resolution video.*model.upsampling'):
    run(second, x, cond._replace(low_resolution=None))
  with pytest.raises(ValueError, match='takes no low-resolution video.*model.upsampling'):
    run(base, x, cond)
