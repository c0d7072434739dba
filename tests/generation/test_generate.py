"""Generators: the bits of a video do not depend on the videos beside it."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from helpers.tiny_networks import draw
from helpers.tiny_runs import SECOND, TINY

from vdm_jax import configuration, generation, models
from vdm_jax.generation import extension
from vdm_jax.generation.sampler import video_keys


def stage(**changes):
  """A tiny model, random parameters, and its section `sampling`."""
  config = configuration.default('unet3d')
  config.update_from_flattened_dict(TINY | {'model.scalars': (), 'sampling.num_steps': 3} | changes)
  model = models.build(config.model)
  return model, draw(jax.eval_shape(model.init, jax.random.key(0)), 0), config.sampling


@pytest.fixture(scope='module')
def first():
  return stage()


@pytest.fixture(scope='module', params=[1, 4])
def generate(first, request):
  """A generator that makes one, or four, videos at a time."""
  model, params, sampling = first
  return functools.partial(generation.make_generator(model, sampling, batch_size=request.param), params)


def test_a_video_made_alone_has_the_bits_of_one_of_many(generate):
  many = generate(count=6, seed=3)
  for number in (0, 2, 5):
    np.testing.assert_array_equal(generate(count=1, seed=3, first=number)[0], many[number])
  np.testing.assert_array_equal(generate(count=2, seed=3, first=3), many[3:5])
  assert min(np.abs(many[i] - many[j]).max() for i in range(6) for j in range(i)) > 0.1


def test_a_video_of_several_seeds_is_the_first_of_its_own_seed(generate):
  several = generate(count=3, seed=[7, -2, 2**31])
  for seed, video in zip([7, -2, 2**31], several, strict=True):
    np.testing.assert_array_equal(generate(count=1, seed=seed)[0], video)


def test_keys_are_those_of_a_seed_folded_with_a_number():
  keys = video_keys([5, 2**31, 5], np.array([2, 0, 2]))
  assert (keys[0] == keys[2]).all()
  for key, seed, number in ((keys[0], 5, 2), (keys[1], 2**31, 0)):
    assert (key == jax.random.fold_in(jax.random.key(seed), number)).all()
  assert (video_keys(5, np.array([0, 2]))[1] == keys[0]).all()


def test_windows_and_both_stages_of_a_cascade_keep_their_bits(first):
  model, params, sampling = first
  long = functools.partial(generation.make_long_generator(model, sampling), params, extension(12, 8, overlap=4))
  np.testing.assert_array_equal(long(count=1, seed=3, first=2)[0], long(count=3, seed=3)[2])
  np.testing.assert_array_equal(long(count=2, seed=[4, 3])[1], long(count=1, seed=3)[0])
  second, second_params, second_sampling = stage(**SECOND | {'model.scalars': ('augmentation_logsnr',)})
  cascade = generation.make_cascade(
    functools.partial(generation.make_generator(model, sampling), params),
    functools.partial(generation.make_generator(second, second_sampling), second_params),
  )
  np.testing.assert_array_equal(cascade(count=1, seed=3, first=2)[0], cascade(count=3, seed=3)[2])


def test_progress_adds_up_to_the_number_of_videos(generate):
  done = []
  generate(count=3, seed=0, report=done.append)
  assert len(done) >= 3 and min(done) > 0 and sum(done) == pytest.approx(3)
