"""The second stage is told what it is given; a cascade is one generator after the other."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import draw, normal, says

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
  """As in training, where they carry no loss; so they have no say in the threshold either."""
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
  told_otherwise = by_hand._replace(augmentation_logsnr=logsnr - 3)
  assert np.abs(jax.jit(make_sampler(model, sampling))(params, keys, told_otherwise) - expected).max() > 1e-2


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


def test_a_condition_says_seconds_and_an_image_has_none():
  _, model, _ = stage(second=False)
  cond = model.condition(count=3, frame_rate=24.0, original_size=(720, 1280))
  np.testing.assert_array_equal(cond.frame_interval, np.full(3, 1 / 24, np.float32))
  np.testing.assert_array_equal(cond.resolution, np.tile(np.float32([720, 1280]), (3, 1)))
  np.testing.assert_array_equal(model.condition(count=1, frame_rate=math.inf).frame_interval, [0.0])
  assert model.condition(count=3) == model.condition()


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    ({'frame_rate': -8.0}, 'frame_rate=-8.0 must be positive: frames per second, infinite for an image.'),
    ({'frame_rate': 0.0}, 'frame_rate=0.0 must be positive: frames per second, infinite for an image.'),
    ({'original_size': (16,)}, 'original_size=(16,) is not a valid size: give height and width in pixels.'),
    ({'original_size': (16, 0)}, 'original_size=(16, 0) is not a valid size: give height and width in pixels.'),
  ],
)
def test_what_cannot_be_asked_for_is_refused(asked, message):
  with says(message):
    generator(second=False)(count=1, **asked)


def test_asking_a_model_that_is_not_told_is_refused():
  config, _, params = stage(second=False)
  untold = models.build(config.model.to_dict() | {'scalars': ('resolution',)})
  generate = make_generator(untold, config.sampling)
  with says("frame_rate has no effect: this model was trained without 'frame_interval' in model.scalars."):
    generate(params, count=1, frame_rate=8.0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'height': 16},
      'the first stage makes 2 frames of 12x8x3, which the second would upsample by 2, but the second '
      'makes 2 frames of 16x16x3: give the run that it was made for.',
    ),
    (
      {'text': 'words'},
      "model.text is 'words' in the first stage and 'none' in the second: both see the same prompts "
      'or labels, so give it to both or to neither.',
    ),
  ],
)
def test_stages_of_different_sizes_or_captions_make_no_cascade(changes, message):
  first, second = (stage(number)[0].model.to_dict() for number in (False, True))
  models.check_cascade(first, second)
  with says(message):
    models.check_cascade(first | changes, second)


def test_what_does_not_go_together_is_said():
  with says(
    'a second stage makes videos out of low-resolution ones of shape (2, 2, 8, 8, 3), but was given none: sample its '
    'first stage before, as a cascade does.'
  ):
    generator(second=True)(count=2)
  with says(
    'a second stage makes videos out of low-resolution ones of shape (2, 2, 8, 8, 3), but was given (2, 2, 4, 8, 3): '
    'sample its first stage before, as a cascade does.'
  ):
    generator(second=True)(count=2, low_resolution=np.zeros((2, 2, 4, 8, 3), np.float32))
  with says('low-resolution videos were given to a model that takes none: model.upsampling is 1.'):
    generator(second=False)(count=2, low_resolution=low_resolution())
  with says(
    'sampling.noise_aug_level=1.5 must be in [0, 1]: 0 leaves the low-resolution video as it is, 1 is pure noise.'
  ):
    generator(second=True, noise_aug_level=1.5)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'upsampling': 3},
      'model.upsampling=3, but frames are 16x16: choose a number that divides both, or 1 for a model '
      'without low-resolution input.',
    ),
    (
      {'upsampling': 1},
      "model.upsampling=1, model.scalars=('frame_interval', 'resolution', 'augmentation_logsnr'): only a second stage "
      '(upsampling > 1), and every second stage, is conditioned on the noise level of its low-resolution input: add '
      "'augmentation_logsnr' to scalars if and only if upsampling > 1.",
    ),
    ({'pad_rows': 2}, 'data.pad_rows=2 in a second stage: its low-resolution input has no padding.'),
  ],
)
def test_settings_of_a_second_stage_are_checked(changes, message):
  with says(message):
    models.build(stage(second=True)[0].model.to_dict() | changes)
