"""Long videos: windows compile once, see the frames that the plan names, and resume with the same bytes."""

from __future__ import annotations

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gaussian_videos import GaussianVideos, settings

from vdm_jax import generation
from vdm_jax.diffusion import downsample
from vdm_jax.generation import (
  Observed,
  extension,
  hierarchy,
  interpolation,
  long_video,
  make_long_generator,
  super_resolution,
)
from vdm_jax.generation.long_video import InMemory
from vdm_jax.generation.sampler import make_sampler
from vdm_jax.rng import VideoStream, fold_in
from vdm_jax.types import Conditioning
from vdm_jax.video import FrameStore, to_uint8

MODEL = GaussianVideos()
PARAMS = jnp.float32(0.0)
GIVEN = np.random.default_rng(0).normal(0.1, 0.4, (3, 5, 2, 2, 1)).astype(np.float32)


@functools.cache
def generator(batch_size=32, model=MODEL, **changes):
  return make_long_generator(model, settings(**{'num_steps': 6} | changes), batch_size=batch_size)


def keys(seed, count, *path):
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))
  for number in path:
    keys = fold_in(keys, number)
  return keys


@pytest.mark.parametrize('step', ['ancestral', 'dpm_solver'])
def test_a_plan_carried_out_window_by_window(step):
  """Extension of given frames: each window is one call of the sampler on the frames that its plan names."""
  plan = extension(14, 8, overlap=3, given=5)
  videos = generator(step=step)(PARAMS, plan, given=GIVEN, seed=4)
  stages = long_video.make_stages(MODEL, settings(num_steps=6, step=step))
  by_hand = np.zeros((3, 14, 2, 2, 1), np.float32)
  by_hand[:, :5] = GIVEN
  for number, (start, seen) in enumerate(((0, 5), (5, 3), (6, 7))):
    x = np.zeros((3, 8, 2, 2, 1), np.float32)
    x[:, :seen] = by_hand[:, start : start + seen]
    observed = Observed(x, np.arange(8) < seen)
    own = keys(4, 3, VideoStream.WINDOWS, number) if number else keys(4, 3)
    inputs = (PARAMS, own, Conditioning(frame_interval=np.full(3, 1 / 8)), observed)
    state = stages.advance(*inputs, stages.begin(*inputs), 0, stages.num_steps)
    by_hand[:, start + seen : start + 8] = stages.finish(*inputs, state)[:, seen:]
  np.testing.assert_allclose(videos, by_hand, atol=1e-4)
  np.testing.assert_array_equal(videos[:, :5], GIVEN)


def test_videos_made_in_several_calls_are_those_of_one():
  """Both generators count videos from `first` on."""
  plan = extension(14, 8, overlap=3, given=5)
  long, plain = generator(batch_size=2), generation.make_generator(MODEL, settings(num_steps=6), batch_size=2)
  whole = long(PARAMS, plan, given=GIVEN, seed=4)
  np.testing.assert_allclose(long(PARAMS, plan, given=GIVEN[1:], seed=4, first=1), whole[1:], atol=1e-5)
  whole = plain(PARAMS, count=3, seed=4)
  np.testing.assert_allclose(plain(PARAMS, count=2, seed=4, first=1), whole[1:], atol=1e-5)
  assert np.abs(whole[0] - whole[1]).max() > 0.1


def test_the_first_window_from_nothing_is_what_the_plain_sampler_makes():
  videos = generator()(PARAMS, extension(20, 8, overlap=4), count=3, seed=4)
  plain = jax.jit(make_sampler(MODEL, settings(num_steps=6)))(PARAMS, keys(4, 3), Conditioning())
  np.testing.assert_allclose(videos[:, :8], plain, atol=1e-5)


PLANS = {
  'extension': (extension(19, 8, overlap=3, given=5), {'given': GIVEN}),
  'interpolation': (interpolation(5, 3, 8, overlap=2), {'given': GIVEN}),
  'hierarchy': (hierarchy(17, (2, 8), 8), {'count': 3}),
  'super-resolution': (super_resolution(5, 8, factor=3, num_frames=15), {'low': GIVEN[:, :, :1, :1]}),
}
every_plan = pytest.mark.parametrize(('plan', 'inputs'), PLANS.values(), ids=PLANS)


@every_plan
def test_a_video_does_not_depend_on_its_batch(plan, inputs):
  whole = generator()(PARAMS, plan, seed=1, **inputs)
  np.testing.assert_allclose(generator(batch_size=2)(PARAMS, plan, seed=1, **inputs), whole, atol=1e-5)
  assert np.abs(np.diff(whole, axis=0)).max() > 0.1
  if 'given' in inputs:
    np.testing.assert_array_equal(whole[:, list(plan.given)], GIVEN)


def carry_out(plan, inputs, store, *, skip=0, stop=None, **changes):
  """`fill` on a store, as the command does it; stops after `stop` windows as a killed process would."""
  sample_window = long_video.make_window_sampler(MODEL, settings(num_steps=6, **changes))
  conditions = long_video.make_conditions(MODEL, settings(), prompts=None, labels=None, count=3)
  low = InMemory(inputs['low']) if 'low' in inputs else None
  if 'given' in inputs and not skip:
    store.write(range(3), plan.given, inputs['given'])
  for done in long_video.fill(
    plan, sample_window, PARAMS, store, conditions, model=MODEL, count=3, seed=9, batch_size=2, low=low, skip=skip
  ):
    if done == stop:
      return


@pytest.mark.parametrize('step', ['ancestral', pytest.param('dpm_solver', marks=pytest.mark.slow)])
@every_plan
def test_interrupted_after_any_window_it_resumes_with_the_same_bytes(plan, inputs, step, tmp_path):
  def stored(name):
    return FrameStore([tmp_path / f'{name}{i}.npy' for i in range(3)], (plan.num_frames, 2, 2, 1))

  total = long_video.num_windows(plan, 3, 2)
  whole = stored('whole')
  carry_out(plan, inputs, whole, step=step)
  for stop in {1, 2, total - 1}:
    carry_out(plan, inputs, stored(f'cut{stop}'), stop=stop, step=step)
    again = stored(f'cut{stop}')
    carry_out(plan, inputs, again, skip=stop, step=step)
    for ours, theirs in zip(again.paths, whole.paths, strict=True):
      assert ours.read_bytes() == theirs.read_bytes()
  assert total == 2 * len(plan.windows)


def test_a_window_that_dies_after_writing_is_made_again_the_same(tmp_path):
  """Killed between the frames and the record of them: the window sees its frames as made, not as given."""
  plan, inputs = PLANS['extension']
  store, whole = (
    FrameStore([tmp_path / f'{name}{i}.npy' for i in range(3)], (plan.num_frames, 2, 2, 1)) for name in 'ab'
  )
  carry_out(plan, inputs, whole)
  carry_out(plan, inputs, store, stop=2)
  carry_out(plan, inputs, store, skip=1)
  assert [path.read_bytes() for path in store.paths] == [path.read_bytes() for path in whole.paths]


def compilations(caplog, plan, inputs, generate):
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING, logger='jax'):
    generate(PARAMS, plan, **inputs)
  names = [re.search(r'Finished XLA compilation of jit\((\w+)\)', record.getMessage()) for record in caplog.records]
  return [match[1] for match in names if match and match[1] in ('begin', 'advance', 'finish')]


@pytest.mark.parametrize('step', ['ancestral', 'dpm_solver'])
@pytest.mark.parametrize('method', ['reconstruction', 'redraw'])
def test_one_program_per_shape_and_method_however_many_blocks(method, step, caplog):
  generate = make_long_generator(MODEL, settings(num_steps=6, conditioning=method, step=step))
  first = compilations(caplog, *PLANS['extension'], generate)
  assert sorted(first) == ['advance', 'begin', 'finish']
  longer = extension(60, 8, overlap=5, given=2)
  assert compilations(caplog, longer, {'given': GIVEN[:, :2]}, generate) == []
  assert compilations(caplog, *PLANS['interpolation'], generate) == []
  from_nothing = compilations(caplog, extension(40, 8, overlap=4), {'count': 3}, generate)
  assert sorted(from_nothing) == ['advance', 'begin', 'finish']  # the first window, which sees nothing
  assert compilations(caplog, *PLANS['hierarchy'], generate) == []


def test_windows_that_skip_frames_ask_for_their_own_frame_rate():
  plan, asked = hierarchy(17, (2, 8), 8), []

  def sample_window(params, own, cond, observed, report):
    asked.append(float(cond.frame_interval[0]))
    return np.zeros((len(own), *MODEL.video_shape), np.float32)

  conditions = long_video.make_conditions(MODEL, settings(), prompts=None, labels=None, count=1, frame_rate=16.0)
  frames = InMemory(np.ones((1, 17, 2, 2, 1), np.float32))
  list(long_video.fill(plan, sample_window, PARAMS, frames, conditions, model=MODEL, count=1, seed=0, batch_size=1))
  assert asked == [4 / 16, 1 / 16, 1 / 16, 1 / 16, 1 / 16]
  assert not frames.videos.any()


def test_super_resolution_keeps_to_the_smaller_video():
  plan, inputs = super_resolution(12, 8), {'low': np.tile(GIVEN[:, :4, :1, :1], (1, 3, 1, 1, 1))}
  made = generator(reconstruction_weight=2.0, num_steps=24)(PARAMS, plan, **inputs)
  free = generator(num_steps=24)(PARAMS, extension(12, 8, overlap=1), count=3)
  kept, drawn = (np.square(np.asarray(downsample(x, 2)) - inputs['low']).mean() for x in (made, free))
  assert kept < 0.3 * drawn


def test_a_second_stage_is_conditioned_on_the_frames_of_its_window():
  """First-stage frames are noised anew in every window, and never read beyond the end of the video."""
  small = InMemory(np.arange(14, dtype=np.float32).reshape(1, 14, 1, 1, 1) / 20)
  model = GaussianVideos(video_shape=(8, 2, 2, 1), upsampling=2)
  base = long_video.make_conditions(model, settings(), prompts=None, labels=None, count=1)
  quiet = long_video.upsampling_conditions(base, model, settings(noise_aug_level=0.0), small, 14)
  for window in extension(14, 8, overlap=4).windows:
    cond = quiet(window, np.zeros(1, int), keys(0, 1))
    np.testing.assert_allclose(cond.low_resolution[0, :, 0, 0, 0], np.array(window.frames) / 20, atol=1e-4)
  (over,) = extension(5, 8, overlap=4).windows
  held = long_video.upsampling_conditions(base, model, settings(noise_aug_level=0.0), small, 5)
  np.testing.assert_allclose(held(over, np.zeros(1, int), keys(0, 1)).low_resolution[0, 4:, 0, 0, 0], 0.2, atol=1e-4)
  noisy = long_video.upsampling_conditions(base, model, settings(noise_aug_level=0.5), small, 14)
  drawn = [noisy(window, np.zeros(1, int), keys(0, 1, i)).low_resolution for i, window in enumerate(2 * [over])]
  assert np.abs(drawn[0] - drawn[1]).max() > 0.1


def test_padding_rows_are_not_part_of_the_video():
  padded = GaussianVideos(video_shape=(8, 6, 2, 1), pad_rows=2)
  plan = extension(14, 8, overlap=3, given=5)
  videos = generator(model=padded)(PARAMS, plan, given=GIVEN, seed=4)
  assert videos.shape == (3, 14, 2, 2, 1)
  np.testing.assert_array_equal(videos[:, :5], GIVEN)


def test_samples_that_are_not_finite_are_not_written():
  frames = InMemory(np.full((1, 20, 2, 2, 1), 0.5, np.float32))
  plan, conditions = extension(20, 8, overlap=4), lambda window, videos, own: Conditioning()

  def sample_window(params, own, cond, observed, report):
    return np.full((1, *MODEL.video_shape), np.nan if observed is not None else 0.0, np.float32)

  with pytest.raises(FloatingPointError, match='^window 2 of 4 .*not finite'):
    list(long_video.fill(plan, sample_window, PARAMS, frames, conditions, model=MODEL, count=1, seed=0, batch_size=1))
  np.testing.assert_array_equal(frames.videos[0, 8:], 0.5)


def test_the_store_rounds_as_files_of_videos_do(tmp_path):
  plan, inputs = PLANS['extension']
  store = FrameStore([tmp_path / f'{i}.npy' for i in range(3)], (plan.num_frames, 2, 2, 1))
  carry_out(plan, inputs, store)
  np.testing.assert_array_equal(store.video(1)[:5], to_uint8(GIVEN[1]))


REFUSED = [
  ({}, 'given', (), (1, 5, 2, 2, 1)),
  ({'given': GIVEN[:, :4]}, 'given', (3, 4, 2, 2, 1), (3, 5, 2, 2, 1)),
  ({'given': GIVEN[..., :1, :]}, 'given', (3, 5, 2, 1, 1), (3, 5, 2, 2, 1)),
  ({'given': GIVEN, 'low': GIVEN}, 'low', (3, 5, 2, 2, 1), (3, 0, 2, 2, 1)),
]


@pytest.mark.parametrize(('inputs', 'name', 'shape', 'wanted'), REFUSED)
def test_frames_that_do_not_fit_the_plan_are_refused(inputs, name, shape, wanted):
  with pytest.raises(ValueError, match=f'^{name} .*{re.escape(str(shape))}.*{re.escape(str(wanted))}'):
    generator()(PARAMS, extension(14, 8, overlap=3, given=5), **inputs)
