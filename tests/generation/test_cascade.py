"""Cascades: the second stage is conditioned on the first, and one generator runs after the other."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import draw, normal

from vdm_jax import configuration, diffusion, models
from vdm_jax.generation import make_cascade, make_generator, make_sampler, make_upsampler
from vdm_jax.generation.sampler import repeat_edges
from vdm_jax.rng import fold_in

FIT = {
  'data.num_frames': 2,
  'model.patch_size': (1, 4, 4),
  'model.group_size': (2, 1, 1),
  'model.patch_width': 8,
  'model.latent_width': 8,
  'model.condition_width': 16,
  'model.num_latents': 12,
  'model.num_blocks': 1,
  'model.num_global_layers': 1,
  'model.patch_head_width': 4,
  'model.latent_head_width': 4,
  'sampling.num_steps': 3,
  'model.process': 'input_scaled',
  'model.parameterization': 'snap',
  'sampling.grid': 'karras',
  'sampling.step': 'heun',
}
SECOND = {
  'data.height': 16,
  'data.width': 16,
  'model.upsampling': 2,
  'model.group_size': (2, 2, 2),
  'model.scalars': ('frame_interval', 'resolution', 'augmentation_logsnr'),
}
FIRST = {'data.height': 12, 'data.width': 8, 'data.pad_rows': 2}
KEYS = jax.random.split(jax.random.key(3), 2)


@functools.cache
def stage(second):
  """Configuration, model and drawn parameters."""
  config = configuration.default('fit')
  config.update_from_flattened_dict(FIT | (SECOND if second else FIRST))
  model = models.build(config.model)
  return config, model, draw(jax.eval_shape(model.init, jax.random.key(0)))


def generator(second, **changes):
  config, model, params = stage(second)
  sampling = config.sampling.copy_and_resolve_references()
  sampling.update(changes)
  return functools.partial(make_generator(model, sampling), params)


@functools.cache
def low_resolution():
  return generator(second=False)(count=2, seed=5)


def test_padded_rows_are_cut_off():
  config, model, params = stage(second=False)
  whole = jax.jit(make_sampler(model, config.sampling))(
    params,
    jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(2)),
    model.condition(count=2, frame_rate=8.0, original_size=(8, 8)),
  )
  assert low_resolution().shape == (2, 2, 8, 8, 3)
  np.testing.assert_allclose(low_resolution(), np.asarray(whole)[:, :, 2:-2], atol=1e-3)


def test_padded_rows_repeat_the_edge_at_every_level():
  """As in training, where they carry no loss; so they do not affect the threshold either."""
  x = normal(2, 2, 12, 8, 3)
  padded = repeat_edges(lambda z, logsnr, cond, carry: (z, carry), 2)
  found, carry = padded(x, None, None, 'carry')
  expected = np.concatenate([x[:, :, 2:3]] * 2 + [x[:, :, 2:10]] + [x[:, :, 9:10]] * 2, axis=2)
  np.testing.assert_array_equal(found, expected)
  assert carry == 'carry'


@pytest.mark.parametrize('augmentation', [0.0, 0.3])
def test_the_second_stage_sees_the_noised_input_and_its_level(augmentation):
  config, model, params = stage(second=True)
  sampling = config.sampling.copy_and_resolve_references()
  sampling.noise_aug_level = augmentation
  low = normal(2, 2, 8, 8, 3)
  cond = model.condition(count=2)
  found = jax.jit(make_upsampler(model, sampling))(params, KEYS, cond, low)

  keys = fold_in(KEYS, 2)
  logsnr = np.full(2, -2 * math.log(math.tan(max(augmentation * 1.570705527 + 4.53999297e-5, 0))), np.float32)
  noisy = diffusion.augment(low, 2, logsnr, fold_in(keys, 2))
  by_hand = cond._replace(low_resolution=noisy, augmentation_logsnr=logsnr)
  expected = jax.jit(make_sampler(model, sampling))(params, keys, by_hand)
  np.testing.assert_allclose(found, expected, atol=2e-3)
  at_another_level = by_hand._replace(augmentation_logsnr=logsnr - 3)
  assert np.abs(jax.jit(make_sampler(model, sampling))(params, keys, at_another_level) - expected).max() > 1e-2


def test_a_cascade_is_the_second_stage_on_the_videos_of_the_first():
  cascade = make_cascade(
    lambda **conditions: 0.5 * generator(second=False)(**conditions),
    lambda **conditions: 2.0 * generator(second=True)(**conditions),
  )
  found = cascade(count=2, seed=5)
  expected = 2.0 * generator(second=True)(count=2, seed=5, low_resolution=0.5 * low_resolution())
  np.testing.assert_array_equal(found, expected)
  assert found.shape == (2, 2, 16, 16, 3)


def test_frame_rate_and_original_size_reach_the_network():
  generate = generator(second=False)
  default = low_resolution()
  asked = generate(count=2, seed=5, frame_rate=8.0, original_size=(8, 8))
  np.testing.assert_array_equal(default, asked)  # sampling.fps, and the video's own size without its padding
  for changes in ({'frame_rate': 24.0}, {'frame_rate': math.inf}, {'original_size': (720, 1280)}):
    assert np.abs(generate(count=2, seed=5, **changes) - default).max() > 1e-3
  configured = generator(second=False, fps=24, original_size=(720, 1280))(count=2, seed=5)
  again = generate(count=2, seed=5, frame_rate=24.0, original_size=(720, 1280))
  np.testing.assert_array_equal(configured, again)


def test_conditions_are_in_seconds_and_zero_for_an_image():
  _, model, _ = stage(second=False)
  cond = model.condition(count=3, frame_rate=24.0, original_size=(720, 1280))
  np.testing.assert_array_equal(cond.frame_interval, np.full(3, 1 / 24, np.float32))
  np.testing.assert_array_equal(cond.resolution, np.tile(np.float32([720, 1280]), (3, 1)))
  np.testing.assert_array_equal(model.condition(count=1, frame_rate=math.inf).frame_interval, [0.0])
  assert model.condition(count=3) == model.condition()


@pytest.mark.parametrize(
  ('conditions', 'message'),
  [
    ({'frame_rate': -8.0}, '^frame_rate=-8.0 '),
    ({'frame_rate': 0.0}, '^frame_rate=0.0 '),
    ({'original_size': (16,)}, r'^original_size=\(16,\) '),
    ({'original_size': (16, 0)}, r'^original_size=\(16, 0\) '),
  ],
)
def test_invalid_conditions_are_refused(conditions, message):
  with pytest.raises(ValueError, match=message):
    generator(second=False)(count=1, **conditions)


def test_a_condition_that_the_model_does_not_take_is_refused():
  config, _, params = stage(second=False)
  without = models.build(config.model.to_dict() | {'scalars': ('resolution',)})
  generate = make_generator(without, config.sampling)
  with pytest.raises(ValueError, match="^frame_rate .*'frame_interval'.*model.scalars"):
    generate(params, count=1, frame_rate=8.0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [({'height': 16}, '2.* 12x8x3.* 2.* 16x16x3'), ({'text': 'words'}, "model.text.*'words'.*'none'")],
)
def test_stages_of_different_sizes_or_captions_make_no_cascade(changes, message):
  first, second = (stage(number)[0].model.to_dict() for number in (False, True))
  models.check_cascade(first, second)
  with pytest.raises(ValueError, match=message):
    models.check_cascade(first | changes, second)


def test_low_resolution_videos_must_fit_the_model():
  with pytest.raises(ValueError, match=r'^low_resolution .*None.*\(2, 2, 8, 8, 3\)'):
    generator(second=True)(count=2)
  with pytest.raises(ValueError, match=r'^low_resolution .*\(2, 2, 4, 8, 3\).*\(2, 2, 8, 8, 3\)'):
    generator(second=True)(count=2, low_resolution=np.zeros((2, 2, 4, 8, 3), np.float32))
  with pytest.raises(ValueError, match='^low_resolution .*model.upsampling is 1'):
    generator(second=False)(count=2, low_resolution=low_resolution())
  with pytest.raises(ValueError, match='^sampling.noise_aug_level=1.5 '):
    generator(second=True, noise_aug_level=1.5)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'upsampling': 3}, 'model.upsampling=3.* 16x16'),
    ({'upsampling': 1}, "model.upsampling=1.*model.scalars.*'augmentation_logsnr'"),
    ({'pad_rows': 2}, 'data.pad_rows=2'),
  ],
)
def test_settings_of_a_second_stage_are_checked(changes, message):
  with pytest.raises(ValueError, match=message):
    models.build(stage(second=True)[0].model.to_dict() | changes)
