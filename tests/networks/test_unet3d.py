"""The factorized U-Net: the papers' parameter counts, its layers, and joint training on videos and images.

CROSS is a Snap U-Net: its pixels attend to the caption, and it is conditioned on frame interval and resolution.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.tiny_networks import (
  FRAMES,
  SETTINGS,
  SIZE,
  affine,
  convolve,
  draw,
  drawn,
  forward,
  group_norm,
  normal,
  swish,
)
from jax.sharding import AbstractMesh

from vdm_jax import partitioning
from vdm_jax.networks import UNet3D
from vdm_jax.networks.residual import ResidualBlock, average_pool, nearest
from vdm_jax.types import Conditioning

IMAGES = 2
TEXT = {'takes_text': True, 'vocabulary_size': 6, 'text_length': 3, 'num_classes': 4}
NETWORK = UNet3D(**SETTINGS, **TEXT)
PLAIN = UNet3D(**SETTINGS)
SNAP = {'text_conditioning': 'cross_attention', 'scalars': ('frame_interval', 'resolution')}
CROSS = UNet3D(**SETTINGS, **TEXT, **SNAP)
X = normal(2, FRAMES + IMAGES, SIZE, SIZE, 3)
LOGSNR = np.array([-1.0, 2.0], np.float32)
# One caption and label for the video and for each image, with padding.
IDS = np.array([[[2, 3, 4], [5, 2, 0], [3, 0, 0]], [[4, 0, 0], [3, 2, 5], [2, 5, 0]]])
COND = Conditioning(text=IDS, text_mask=IDS != 0, label=np.array([[0, 1, 2], [2, 3, 0]]))

NUMBERS = Conditioning(frame_interval=np.array([0, 0.04]), resolution=np.array([[288.0, 512.0], [64.0, 48.0]]))


def first(cond: Conditioning, n: int) -> Conditioning:
  """Return the condition of the video and the first n - 1 images."""
  return jax.tree.map(lambda leaf: leaf[:, :n], cond)


@functools.cache
def variables(network: UNet3D = NETWORK, channels: int = 3):
  x = jax.ShapeDtypeStruct((1, network.num_frames, SIZE, SIZE, channels), jnp.float32)
  cond = first(COND, 1) if network.takes_text else Conditioning()
  cond = jax.tree.map(lambda leaf: leaf[:1], cond)
  cond = cond._replace(low_resolution=x if network.takes_low_resolution else None)
  return draw(jax.eval_shape(lambda rng, x, cond: network.init(rng, x, LOGSNR[:1], cond), jax.random.key(0), x, cond))


def run(x=X, cond=COND, network=NETWORK, logsnr=LOGSNR):
  return np.asarray(forward(network)(variables(network, x.shape[-1]), x, logsnr, cond))


def difference(a, b):
  return np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max()


# ---- Sizes -----------------------------------------------------------------------------------------------------------

PAPER = {
  'ucf101': {'base_channels': 256},
  'bair': {'channel_multipliers': (1, 2, 3, 4), 'num_blocks': 3, 'embedding_layers': 2},
  'kinetics': {'base_channels': 256, 'embedding_layers': 2},
  'text_small': {'takes_text': True},
  'text_large': {'base_channels': 256, 'takes_text': True},
  'text_128': {'num_frames': 9, 'channel_multipliers': (1, 2, 4, 8, 16), 'head_width': 128, 'takes_text': True},
}
# Exact; then, in units of 100,000, without temporal attention.
COUNTS = {
  'ucf101': (1_240_723_459, 11137),
  'bair': (158_760_195, 1443),
  'kinetics': (1_238_624_259, 11116),
  'text_small': (331_664_387, 2998),
  'text_large': (1_244_921_859, 11179),
  'text_128': (1_249_959_939, 11229),
}


def boxed(height=None, **settings):
  """Return the parameter shapes of a network of the papers, with their logical axes."""
  network = UNet3D(**({'num_frames': 16, 'channels': 3} | settings))
  width = 128 if network.num_frames == 9 else 64
  x = jax.ShapeDtypeStruct((1, network.num_frames, height or width, width, 3), jnp.float32)
  cond = Conditioning(text=jnp.zeros((1, 1, 4, 1024)) if network.takes_text else None)
  return jax.eval_shape(lambda rng, x: network.init(rng, x, jnp.zeros(1), cond)['params'], jax.random.key(0), x)


def count(params):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('name', PAPER)
def test_the_papers_networks_have_their_sizes(name):
  exact, no_time = COUNTS[name]
  params = boxed(**PAPER[name])
  assert count(params) == exact
  without = count({key: value for key, value in params.items() if not key.endswith('_time')})
  assert without / 1e5 == pytest.approx(no_time, abs=0.6)


@pytest.mark.parametrize(('name', 'strided', 'added'), [('bair', 1485, 1466), ('text_128', 11755, 12195)])
def test_sizes_of_the_other_choices(name, strided, added):
  assert count(boxed(**PAPER[name], resample='conv')) / 1e5 == pytest.approx(strided, abs=0.5)
  assert count(boxed(**PAPER[name], modulation='add')) / 1e5 == pytest.approx(added, abs=0.5)


# Frames are 40x64, with attention at widths 32, 16 and 8.
SNAP_UNET = SNAP | {
  'height': 40,
  'embedding_width': 768,
  'embedding_layers': 2,
  'relative_positions': 'none',
  'takes_text': True,
}
SNAP_SIZES = {
  '85M': {'base_channels': 128, 'channel_multipliers': (1, 2, 2, 3)},
  '284M': {'base_channels': 192, 'channel_multipliers': (1, 2, 3, 4)},
}
# Exact without relative positions; variants in units of 100,000.
SNAP_COUNTS = {'85M': 85_611_523, '284M': 281_084_163}
SNAP_DEPARTURES = {
  'temporal_everywhere': ({'temporal_everywhere': True}, 859, 2818),
  'no_scalars': ({'scalars': ()}, 842, 2796),
  'strided': ({'resample': 'conv'}, 794, 2624),
}


@pytest.mark.parametrize('name', SNAP_SIZES)
def test_snaps_networks_have_their_sizes(name):
  settings = SNAP_UNET | SNAP_SIZES[name]
  assert count(boxed(**settings)) == SNAP_COUNTS[name]
  assert count(boxed(**settings | {'relative_positions': 'keys_values'})) == SNAP_COUNTS[name] + 63_488


@pytest.mark.slow
@pytest.mark.parametrize('departure', SNAP_DEPARTURES)
def test_sizes_of_variants_of_snaps_networks(departure):
  change, *expected = SNAP_DEPARTURES[departure]
  assert [round(count(boxed(**SNAP_UNET | size | change)) / 1e5) for size in SNAP_SIZES.values()] == expected


@pytest.mark.parametrize('settings', [PAPER['text_small'], PAPER['text_small'] | SNAP], ids=['vdm', 'snap'])
def test_every_parameter_has_axis_names_and_large_ones_are_split(settings):
  params = boxed(**settings)
  names, shapes = nn.get_partition_spec(params), nn.unbox(params)
  mesh = AbstractMesh((2, 8, 4), partitioning.AXES)
  shardings = partitioning.param_shardings(mesh, shapes, names)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
  shards = jax.tree.map(lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)), shapes, shardings)
  assert sum(jax.tree.leaves(shards)) < 1.2 * count(shapes) / 32


@pytest.mark.parametrize('settings', [{'num_classes': 4}, {'vocabulary_size': 6}, {'relative_positions': 'bias'}, SNAP])
def test_the_axis_names_of_other_parameters_are_in_the_table(settings):
  network = dataclasses.replace(NETWORK, position_embedding=True, resample='conv', **settings)
  cond = jax.tree.map(lambda leaf: leaf[:1], first(COND, 1))
  params = jax.eval_shape(lambda rng: network.init(rng, X[:1, :FRAMES], LOGSNR[:1], cond), jax.random.key(0))
  names, mesh = nn.get_partition_spec(params), AbstractMesh((1, 1, 1), partitioning.AXES)
  assert not [spec for spec in jax.tree.leaves(names) if spec is None]
  partitioning.param_shardings(mesh, nn.unbox(params), names)


# ---- Structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('way', ['none', 'down', 'up'])
@pytest.mark.parametrize('modulation', ['film', 'add'])
def test_a_residual_block_follows_its_definition(modulation, way):
  x, embedding, segments = normal(6, 4, 4, 8), normal(2, 2, 5, seed=1), np.array([0, 0, 1])
  block = ResidualBlock(12, way, modulation, 0.0, 4, 'float32')
  params = drawn(block, x, embedding, segments)['params']
  resample = {
    'none': lambda x: x,
    'down': lambda x: sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4,
    'up': lambda x: np.kron(x, np.ones((1, 2, 2, 1))),
  }[way]
  frames = np.float64([embedding[b, s] for b in range(2) for s in segments])
  modulated = affine(params['modulation'], swish(frames))[:, None, None]
  h = convolve(params['conv_0'], resample(swish(group_norm(params['norm_0'], x, 4))))
  if modulation == 'film':
    h = group_norm(params['norm_1'], h, 4) * (1 + modulated[..., :12]) + modulated[..., 12:]
  else:
    h = group_norm(params['norm_1'], h + modulated, 4)
  expected = affine(params['shortcut'], resample(x)) + convolve(params['conv_1'], swish(h))
  found = jax.jit(block.apply)({'params': params}, x, embedding, segments)
  np.testing.assert_allclose(found, expected, atol=5e-5)


def test_a_residual_block_is_initialized_to_its_shortcut():
  x, inputs = normal(2, 4, 4, 8), (normal(2, 1, 5), np.array([0]))
  for way, expected in (('none', x), ('down', average_pool(x)), ('up', nearest(x))):
    out, _ = ResidualBlock(8, way, 'film', 0.0, 4, 'float32').init_with_output(jax.random.key(0), x, *inputs)
    np.testing.assert_array_equal(out, expected)


def test_the_network_is_initialized_to_zero():
  """Only the head is initialized: compiling all initializers takes longer than the rest of this file."""
  head = jax.jit(lambda rng: nn.unbox(PLAIN.init(rng, X[:1, :FRAMES], LOGSNR[:1], Conditioning()))['params']['head'])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(head(jax.random.key(0))))


@pytest.mark.parametrize(
  ('widths', 'everywhere', 'in_space', 'in_time'),
  [
    ((), False, [], []),
    ((4,), False, [1], [1]),
    ((8,), False, [0], [0]),
    ((4,), True, [1], [0, 1]),
    ((), True, [], [0, 1]),
  ],
)
def test_attention_is_at_the_listed_widths_and_in_the_middle(widths, everywhere, in_space, in_time):
  network = dataclasses.replace(PLAIN, attention_resolutions=widths, temporal_everywhere=everywhere)
  params = variables(network)['params']
  for suffix, levels in (('_space', in_space), ('_time', in_time)):
    found = {name.removesuffix(suffix) for name in params if name.endswith(suffix)}
    assert found == {'middle'}.union(*({f'down_{k}_0', f'up_{k}_0', f'up_{k}_1'} for k in levels))


def equations(jaxpr):
  """Yield every equation of a jaxpr, nested ones included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, 'eqns')):
      if hasattr(value, 'eqns'):
        yield from equations(getattr(value, 'jaxpr', value))


def traced(network, **changes):
  network = dataclasses.replace(network, **changes)
  function = jax.make_jaxpr(lambda x: network.apply(variables(network), x, LOGSNR, COND)[0])
  return list(equations(function(X).jaxpr))


def test_convolutions_are_two_dimensional():
  ranks = [e.invars[0].aval.ndim for e in traced(NETWORK) if e.primitive.name == 'conv_general_dilated']
  assert len(ranks) > 10 and set(ranks) == {4}


@pytest.mark.parametrize('network', [NETWORK, CROSS], ids=['pool', 'cross'])
def test_in_bfloat16_softmax_and_statistics_stay_float32(network):
  found = traced(network, dtype='bfloat16')
  of = {name: {e.invars[0].aval.dtype for e in found if e.primitive.name == name} for name in ('exp', 'rsqrt')}
  assert of == {'exp': {jnp.dtype('float32')}, 'rsqrt': {jnp.dtype('float32')}}
  convolved = {e.outvars[0].aval.dtype for e in found if e.primitive.name == 'conv_general_dilated'}
  assert convolved == {jnp.dtype('bfloat16')}


def test_bfloat16_is_close_and_its_parameters_are_float32():
  narrow = dataclasses.replace(NETWORK, dtype='bfloat16')
  assert {leaf.dtype for leaf in jax.tree.leaves(variables(narrow))} == {np.dtype('float32')}
  wide = run()
  assert np.sqrt(np.mean(np.square(run(network=narrow) - wide))) < 2e-2 * np.std(wide)


# ---- Videos and images together --------------------------------------------------------------------------------------


def test_images_and_video_do_not_influence_each_other():
  base = run()
  changed = X.copy()
  changed[:, -1] += normal(SIZE, SIZE, 3, seed=1)
  found = run(changed)
  np.testing.assert_allclose(found[:, :-1], base[:, :-1], atol=1e-6)
  assert difference(found[:, -1], base[:, -1]) > 0.1
  changed = X.copy()
  changed[:, 1] += normal(SIZE, SIZE, 3, seed=1)
  found = run(changed)
  np.testing.assert_allclose(found[:, FRAMES:], base[:, FRAMES:], atol=1e-6)
  for t in range(FRAMES):
    assert difference(found[:, t], base[:, t]) > 1e-3


def test_the_video_is_independent_of_the_number_of_images():
  base = run()
  for images in (0, 1):
    frames = FRAMES + images
    np.testing.assert_allclose(run(X[:, :frames], first(COND, 1 + images)), base[:, :frames], atol=1e-5)


def test_an_image_is_a_video_of_one_frame():
  """Its attention matrix is the identity: values, relative values at distance 0 and the output projection apply."""
  cond = jax.tree.map(lambda leaf: leaf[:, 2:], COND)
  np.testing.assert_allclose(run(X[:, -1:], cond), run()[:, -1:], atol=1e-5)


def test_videos_of_a_batch_are_independent():
  base, changed = run(), X.copy()
  changed[0] += 1
  np.testing.assert_allclose(run(changed)[1], base[1], atol=1e-6)


@pytest.mark.parametrize('network', [NETWORK, CROSS], ids=['pool', 'cross'])
@pytest.mark.parametrize('field', ['text', 'label'])
@pytest.mark.parametrize('segment', range(1 + IMAGES))
def test_each_segment_has_its_own_condition(field, segment, network):
  value = np.array(getattr(COND, field))
  value[:, segment] = (value[:, segment] + 1) % 4
  base, found = run(network=network), run(cond=COND._replace(**{field: value}), network=network)
  own = np.arange(FRAMES + IMAGES) < FRAMES if segment == 0 else np.arange(FRAMES + IMAGES) == FRAMES - 1 + segment
  np.testing.assert_allclose(found[:, ~own], base[:, ~own], atol=1e-6)
  assert all(difference(found[:, t], base[:, t]) > 1e-3 for t in np.flatnonzero(own))


@pytest.mark.parametrize('network', [NETWORK, CROSS], ids=['pool', 'cross'])
def test_a_dropped_condition_equals_no_condition(network):
  drop = np.ones((2, 1), bool)
  none = run(X[:, :FRAMES], Conditioning(), network)
  np.testing.assert_allclose(run(X[:, :FRAMES], first(COND, 1)._replace(drop=drop), network), none, atol=1e-6)
  assert difference(run(X[:, :FRAMES], first(COND, 1), network), none) > 1e-2


def test_one_segment_may_be_dropped_alone():
  drop = np.array([[False, True, False]] * 2)
  base, found = run(), run(cond=COND._replace(drop=drop))
  own = np.arange(FRAMES + IMAGES) == FRAMES
  np.testing.assert_allclose(found[:, ~own], base[:, ~own], atol=1e-6)
  assert difference(found[:, own], base[:, own]) > 1e-3


@pytest.mark.parametrize('network', [PLAIN, CROSS], ids=['plain', 'cross'])
def test_the_number_of_images_is_read_from_drop_alone(network):
  drop = np.zeros((2, 1 + IMAGES), bool)
  found = run(cond=Conditioning(drop=drop), network=network)
  base = run(X[:, :FRAMES], Conditioning(), network=network)
  np.testing.assert_allclose(found[:, :FRAMES], base, atol=1e-5)


# ---- Captions, scalars and low resolution ----------------------------------------------------------------------------


def test_a_caption_is_attended_to_after_every_spatial_attention_and_not_pooled():
  params = variables(CROSS)['params']
  after = {
    suffix: {name.removesuffix(suffix) for name in params if name.endswith(suffix)}
    for suffix in ('_space', '_text', '_time')
  }
  assert after['_text'] == after['_space'] == after['_time'] and 'middle' in after['_text']
  assert set(params['condition']) == {'label_embedding'}
  unconditional = variables(dataclasses.replace(PLAIN, text_conditioning='cross_attention'))
  assert jax.tree.structure(unconditional) == jax.tree.structure(variables(PLAIN))


def test_padding_is_not_attended_to():
  base, found = run(network=CROSS), run(cond=COND._replace(text=np.where(IDS == 0, 5, IDS)), network=CROSS)
  np.testing.assert_allclose(found, base, atol=1e-6)
  assert difference(run(cond=COND._replace(text_mask=np.ones(IDS.shape, bool)), network=CROSS), base) > 1e-3


@pytest.mark.parametrize('name', SNAP['scalars'])
def test_a_scalar_changes_only_its_own_video_and_zero_is_not_unknown(name):
  def run_with(value):
    return run(X[:, :FRAMES], NUMBERS._replace(**{name: value}), CROSS)

  value = getattr(NUMBERS, name)
  base, found = run_with(value), run_with(np.concatenate([value[:1], 2 * value[1:]]))
  np.testing.assert_allclose(found[0], base[0], atol=1e-6)
  assert difference(found[1], base[1]) > 1e-3
  assert difference(run_with(None), run_with(np.zeros_like(value))) > 1e-3


def test_a_low_resolution_video_is_concatenated_to_the_input():
  x, low = X[:, :FRAMES], normal(2, FRAMES, SIZE, SIZE, 3, seed=1)
  upsampler = dataclasses.replace(PLAIN, takes_low_resolution=True)
  assert jax.tree.map(jnp.shape, variables(upsampler)) == jax.tree.map(jnp.shape, variables(PLAIN, 6))
  found = run(x, Conditioning(low_resolution=low), upsampler)
  np.testing.assert_allclose(found, run(np.concatenate([x, low], axis=-1), Conditioning(), PLAIN), atol=1e-5)
  assert difference(run(x, Conditioning(low_resolution=low + 1), upsampler), found) > 1e-2


# ---- Time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['keys_values', 'keys', 'bias', 'none'])
def test_frame_order_matters_only_through_relative_positions(kind):
  network, order = dataclasses.replace(PLAIN, relative_positions=kind), [2, 0, 3, 1]
  x = X[:, :FRAMES]
  found, base = run(x[:, order], Conditioning(), network), run(x, Conditioning(), network)
  if kind == 'none':
    np.testing.assert_allclose(found, base[:, order], atol=1e-5)
  else:
    assert difference(found, base[:, order]) > 1e-3


def test_a_shorter_video_runs_and_its_frames_matter():
  base = run(X[:, :3], Conditioning(), PLAIN)
  assert base.shape == (2, 3, SIZE, SIZE, 3)
  changed = X[:, :3].copy()
  changed[:, 0] += 1
  assert difference(run(changed, Conditioning(), PLAIN)[:, 2], base[:, 2]) > 1e-3


def test_the_noise_level_matters_to_its_own_video():
  base, found = run(), run(logsnr=LOGSNR + np.array([1, 0], np.float32))
  assert difference(found[0], base[0]) > 1e-2
  np.testing.assert_allclose(found[1], base[1], atol=1e-6)


# ---- Options ---------------------------------------------------------------------------------------------------------


def to_patches(x):
  """Fold each 2x2 square into channels, rows first."""
  return np.concatenate([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=-1)


def from_patches(x):
  out = np.empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], x.shape[4] // 4), x.dtype)
  for k, (i, j) in enumerate((i, j) for i in (0, 1) for j in (0, 1)):
    out[:, :, i::2, j::2] = np.split(x, 4, axis=-1)[k]
  return out


def test_patches_are_channels_of_a_smaller_video():
  x, settings = X[:, :FRAMES], {'attention_resolutions': (2,)}
  patched = dataclasses.replace(PLAIN, patch_size=2, **settings)
  plain = dataclasses.replace(PLAIN, channels=12, **settings)
  expected = forward(plain)(variables(patched), to_patches(x), LOGSNR, Conditioning())
  np.testing.assert_allclose(run(x, Conditioning(), patched), from_patches(np.asarray(expected)), atol=1e-5)


def test_positions_are_added_to_the_first_level():
  network = dataclasses.replace(PLAIN, position_embedding=True)
  params, x = dict(variables(network)['params']), X[:, :FRAMES]
  table, frames = params.pop('position_embedding'), params.pop('frame_embedding')
  assert table.shape == (SIZE, SIZE, 8) and frames.shape == (FRAMES, 8)
  without = forward(PLAIN)({'params': params}, x, LOGSNR, Conditioning())
  nowhere, never = {'position_embedding': np.zeros_like(table)}, {'frame_embedding': np.zeros_like(frames)}
  given = {'params': params | nowhere | never}
  np.testing.assert_allclose(forward(network)(given, x, LOGSNR, Conditioning()), without, atol=1e-6)
  # A vector shared by all pixels acts like the stem's bias.
  bias = params['stem']['bias'] + table[0, 0]
  everywhere = {'position_embedding': np.broadcast_to(table[0, 0], table.shape)}
  given = {'params': params | everywhere | never}
  shifted = {'params': params | {'stem': params['stem'] | {'bias': bias}}}
  expected = forward(PLAIN)(shifted, x, LOGSNR, Conditioning())
  np.testing.assert_allclose(forward(network)(given, x, LOGSNR, Conditioning()), expected, atol=1e-5)
  # So does one shared by all frames; a vector of one frame changes the output.
  always = {'frame_embedding': np.broadcast_to(table[0, 0], frames.shape)}
  given = {'params': params | nowhere | always}
  np.testing.assert_allclose(forward(network)(given, x, LOGSNR, Conditioning()), expected, atol=1e-5)
  given = {'params': params | nowhere | {'frame_embedding': frames}}
  assert np.abs(forward(network)(given, x, LOGSNR, Conditioning()) - without).max() > 1e-2


def test_appended_images_have_no_position_in_time():
  network = dataclasses.replace(PLAIN, position_embedding=True)
  params = dict(variables(network)['params'])
  cond = Conditioning(drop=np.zeros((X.shape[0], 1 + X.shape[1] - FRAMES), bool))
  first = np.asarray(forward(network)({'params': params}, X, LOGSNR, cond))
  moved = params | {'frame_embedding': params['frame_embedding'] + 1.0}
  second = np.asarray(forward(network)({'params': moved}, X, LOGSNR, cond))
  np.testing.assert_allclose(first[:, FRAMES:], second[:, FRAMES:], atol=1e-6)
  assert np.abs(first[:, :FRAMES] - second[:, :FRAMES]).max() > 1e-2


def gradients(network, x=X, cond=COND):
  def loss(params):
    rngs = {'dropout': jax.random.key(1)}
    out, _ = network.apply(params, x, LOGSNR, cond, train=bool(network.dropout), rngs=rngs)
    return jnp.sum(out * normal(*x.shape, seed=2)), out

  return jax.jit(jax.grad(loss, has_aux=True))(variables(network))


VARIANTS = {
  'default': {'position_embedding': True},
  'others': {'modulation': 'add', 'resample': 'conv', 'relative_positions': 'bias', 'temporal_everywhere': True},
  'snap': SNAP,
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_parameter_has_a_gradient(variant):
  cond = COND._replace(frame_interval=NUMBERS.frame_interval, resolution=NUMBERS.resolution)
  found, _ = gradients(dataclasses.replace(NETWORK, **VARIANTS[variant]), cond=cond)
  sizes = {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.abs(leaf).max()
    for path, leaf in jax.tree_util.tree_leaves_with_path(found['params'])
  }
  # A constant added to all keys cancels in the softmax.
  assert sizes.pop('condition/pool/key/bias', 0) < 1e-3
  assert {name: size for name, size in sizes.items() if not size > 1e-3} == {}


def test_rematerialization_changes_nothing_but_memory():
  small = dataclasses.replace(PLAIN, channel_multipliers=(1,), attention_resolutions=(), dropout=0.5)
  remat, inputs = dataclasses.replace(small, remat=True), (X[:, :FRAMES], Conditioning())
  assert jax.tree.structure(variables(remat)) == jax.tree.structure(variables(small))
  (found, out), (expected, base) = gradients(remat, *inputs), gradients(small, *inputs)
  np.testing.assert_allclose(out, base, atol=1e-5)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())
  # Two blocks down, two in the middle, four up; one resamples down and one up. Spatial attention after four of them,
  # then attention to the caption.
  for network, number in ((NETWORK, 14), (CROSS, 18)):
    names = [equation.primitive.name for equation in traced(network, remat=True)]
    assert sum('remat' in name or 'checkpoint' in name for name in names) == number


def test_the_carry_is_returned_unchanged():
  carry = {'latents': jnp.arange(3.0)}
  found = jax.eval_shape(lambda x: PLAIN.apply(variables(PLAIN), x, LOGSNR, Conditioning(), carry)[1], X[:, :FRAMES])
  assert jax.tree.map(lambda leaf: leaf.shape, found) == {'latents': (3,)}


# ---- Errors ----------------------------------------------------------------------------------------------------------

ERRORS = [
  ({'modulation': 'scale'}, (4, 8, 8), 0, "model.modulation='scale' .*film, add"),
  ({'resample': 'pool'}, (4, 8, 8), 0, "model.resample='pool' .*residual, conv"),
  ({'relative_positions': 'shaw'}, (4, 8, 8), 0, "model.relative_positions='shaw' .*keys_values, keys, bias, none"),
  ({'text_conditioning': 'add'}, (4, 8, 8), 0, "model.text_conditioning='add' .*pool, cross_attention"),
  ({'scalars': ('frame_interval', 'fps')}, (4, 8, 8), 0, "model.scalars='fps' .*frame_interval"),
  ({'takes_low_resolution': True}, (4, 8, 8), 0, 'needs a low-resolution video.*model.upsampling'),
  ({}, (4, 7, 8), 0, '7x8 .*multiples of 2'),
  ({'patch_size': 2, 'channel_multipliers': (1, 2, 3)}, (4, 8, 12), 0, '8x12 .*multiples of 8'),
  ({}, (5, 8, 8), 0, '5 frames, 0 of them appended images: 5 video frames, .* 1 to num_frames=4'),
  ({}, (2, 8, 8), 2, '2 frames, 2 of them appended images: 0 video frames, .* 1 to num_frames=4'),
  ({'head_width': 3}, (4, 8, 8), 0, r'16 channels .*head_width=3: .*\[1, 2, 4, 8, 16\]'),
]


@pytest.mark.parametrize(('settings', 'shape', 'images', 'message'), ERRORS)
def test_invalid_settings_and_inputs_are_errors(settings, shape, images, message):
  network, x = dataclasses.replace(PLAIN, **settings), jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
  cond = Conditioning(drop=np.zeros((1, 1 + images), bool))
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda rng, x: network.init(rng, x, LOGSNR[:1], cond), jax.random.key(0), x)


@pytest.mark.parametrize(
  ('takes', 'images', 'message'),
  [(False, 0, 'takes no low-resolution video.*model.upsampling'), (True, 2, '2 appended images.*data.num_images=0')],
)
def test_an_unexpected_low_resolution_video_is_an_error(takes, images, message):
  network, low = dataclasses.replace(PLAIN, takes_low_resolution=takes), X[:, :FRAMES]
  cond = Conditioning(drop=np.zeros((2, 1 + images), bool), low_resolution=low)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda rng: network.init(rng, X[:, : FRAMES + images], LOGSNR, cond), jax.random.key(0))


# ---- Noise levels of frames ------------------------------------------------------------------------------------------


def test_equal_levels_of_all_frames_are_bitwise_one_level():
  even = np.broadcast_to(LOGSNR[:, None], X.shape[:2])
  np.testing.assert_array_equal(run(logsnr=jnp.asarray(even)), run())


def test_the_level_of_an_image_changes_that_image_alone_and_the_level_of_a_frame_all_frames():
  levels = np.array(np.broadcast_to(LOGSNR[:, None], X.shape[:2]))
  base, changed = run(logsnr=jnp.asarray(levels)), levels.copy()
  changed[:, -1] += 1.5
  other = run(logsnr=jnp.asarray(changed))
  np.testing.assert_array_equal(other[:, :-1], base[:, :-1])
  assert difference(other[:, -1], base[:, -1]) > 1e-3
  changed = levels.copy()
  changed[:, 0] += 1.5
  other = run(logsnr=jnp.asarray(changed))
  assert all(difference(other[:, i], base[:, i]) > 1e-5 for i in range(NETWORK.num_frames))


def test_levels_of_another_number_of_frames_are_refused():
  with pytest.raises(ValueError, match='^logsnr has shape .* per frame'):
    run(logsnr=jnp.zeros((X.shape[0], X.shape[1] + 1)))
