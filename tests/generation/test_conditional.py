"""Conditional sampling equals the algebra written out, and observed frames are returned unchanged."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gaussian_videos import PROCESSES, GaussianVideos, settings

from vdm_jax import sampling
from vdm_jax.diffusion import downsample, expand_dims_like
from vdm_jax.generation import conditional
from vdm_jax.generation.conditional import Observed
from vdm_jax.generation.sampler import make_stages
from vdm_jax.rng import fold_in, unit_noise
from vdm_jax.types import Conditioning

MODEL = GaussianVideos()
KEYS = jax.random.split(jax.random.key(2), 3)
PARAMS = jnp.float32(0.05)
SEEN = np.arange(8) < 3
FRAMES = np.random.default_rng(0).normal(0.1, 0.5, (3, *MODEL.video_shape)).astype(np.float32)
OBSERVED = Observed(FRAMES, SEEN)
MASK = SEEN[None, :, None, None, None]


def draw(observed, model=MODEL, keys=KEYS, params=PARAMS, **changes):
  """The whole sampler in one program."""
  stages = make_stages(model, settings(**changes))

  @jax.jit
  def run(params, keys, observed):
    inputs = (params, keys, Conditioning(), observed)
    return stages.finish(*inputs, stages.advance(*inputs, stages.begin(*inputs), 0, stages.num_steps))

  return np.asarray(run(params, keys, observed))


def by_hand(observed, denoiser_of, step_of, **changes):
  """The same from the functions of `vdm_jax.sampling`."""
  config = settings(**changes)
  grid = MODEL.grid(config.grid, config.num_steps, **{k: config[k] for k in ('sigma_min', 'sigma_max', 'rho')})
  process = MODEL.process

  @jax.jit
  def run(frames):
    z = process.sigma(grid[0]) * unit_noise(fold_in(KEYS, 0), frames.shape)
    z = jnp.where(MASK, process.alpha(grid[0]) * frames + z, z)
    denoiser = denoiser_of(MODEL.denoiser(PARAMS), process, frames)
    plain = sampling.dpm_solver(process) if config.step == 'dpm_solver' else sampling.ancestral(process, config.gamma)
    step = step_of(plain, process, frames)
    return sampling.sample(denoiser, step, grid, z, fold_in(KEYS, 1), Conditioning())

  return np.where(MASK, observed.frames, run(observed.frames))


def keep(x):
  return jnp.where(MASK, x, 0.0)


def reconstructed(denoiser, process, frames):
  guided = sampling.reconstruction(denoiser, process, keep, keep(frames), 2.5)
  return sampling.replacement(guided, frames, MASK)


METHODS = {
  'replacement': (
    {'conditioning': 'replacement'},
    lambda denoiser, process, frames: sampling.replacement(denoiser, frames, MASK),
    lambda step, process, frames: step,
  ),
  'redraw': (
    {'conditioning': 'redraw', 'gamma': 0.3},
    lambda denoiser, process, frames: denoiser,
    lambda step, process, frames: sampling.redraw(step, process, frames, MASK),
  ),
  'reconstruction': ({'reconstruction_weight': 2.5}, reconstructed, lambda step, process, frames: step),
  'reconstruction with gamma': (
    {'reconstruction_weight': 2.5, 'gamma': 0.1},
    reconstructed,
    lambda step, process, frames: sampling.redraw(step, process, frames, MASK),
  ),
  'reconstruction with Langevin': (
    {'reconstruction_weight': 2.5, 'langevin_delta': 0.1},
    reconstructed,
    lambda step, process, frames: sampling.langevin_corrected(step, process, 0.1),
  ),
  'replacement with memory': (
    {'conditioning': 'replacement', 'step': 'dpm_solver'},
    lambda denoiser, process, frames: sampling.replacement(denoiser, frames, MASK),
    lambda step, process, frames: step,
  ),
  'redraw with Langevin and memory': (
    {'conditioning': 'redraw', 'langevin_delta': 0.1, 'step': 'dpm_solver'},
    lambda denoiser, process, frames: denoiser,
    lambda step, process, frames: sampling.redraw(
      sampling.langevin_corrected(sampling.redraw(step, process, frames, MASK), process, 0.1), process, frames, MASK
    ),
  ),
  'redraw with Langevin': (
    {'conditioning': 'redraw', 'langevin_delta': 0.1},
    lambda denoiser, process, frames: denoiser,
    lambda step, process, frames: sampling.redraw(
      sampling.langevin_corrected(sampling.redraw(step, process, frames, MASK), process, 0.1), process, frames, MASK
    ),
  ),
}


@pytest.mark.parametrize('name', METHODS)
def test_each_method_is_the_algebra_by_hand(name):
  changes, denoiser_of, step_of = METHODS[name]
  found = draw(OBSERVED, **changes)
  np.testing.assert_allclose(found, by_hand(OBSERVED, denoiser_of, step_of, **changes), atol=2e-4)
  np.testing.assert_array_equal(found[:, SEEN], FRAMES[:, SEEN])


CONDITIONAL_STEPS = [
  {'step': 'ddim'},
  {'step': 'heun', 'grid': 'karras', 'churn': 0.2},
  {'step': 'dpm_solver'},
  {'step': 'dpm_solver', 'langevin_delta': 0.1},
  {'gamma': 0.2},
  {'langevin_delta': 0.1},
]


class FrameLevels(GaussianVideos):
  """A model that reads a level per frame: it continues frames without noise with their mean."""

  @property
  def config(self):
    return super().config | {'frame_logsnr': 'given'}

  def denoiser(self, params):
    def denoiser(z, logsnr, cond, carry):
      alpha, sigma = (expand_dims_like(f(logsnr), z) for f in self.process)
      clean = jnp.broadcast_to(sigma < 1e-4, z.shape)
      mean = jnp.sum(z / alpha, 1, keepdims=True, where=clean) / jnp.maximum(jnp.sum(clean, 1, keepdims=True), 1)
      return jnp.where(clean, z / alpha, mean + params), carry

    return denoiser


@pytest.mark.parametrize('step', CONDITIONAL_STEPS, ids=lambda step: '-'.join(map(str, step.values())))
@pytest.mark.parametrize('method', conditional.METHODS)
def test_every_method_goes_with_every_step(method, step):
  if method == 'replacement' and 'gamma' in step:
    pytest.skip('refused, see below')
  kind = FrameLevels if method == 'given_frames' else GaussianVideos
  model = kind(process=PROCESSES['scaled']) if 'grid' in step else kind()
  found = draw(OBSERVED, model, conditioning=method, **step)
  np.testing.assert_array_equal(found[:, SEEN], FRAMES[:, SEEN])
  assert np.isfinite(found).all() and np.abs(found).max() < 4
  nothing = draw(None, model, **step)
  assert np.abs(found - nothing)[:, 3:].max() > 0.05  # the given frames affect the others


def test_given_frames_are_followed_more_closely_with_guidance():
  """The frame after the given ones against its exact conditional mean (AR(1): it forgets all but the last one)."""
  model = GaussianVideos(correlation=0.98)
  frames = np.repeat(FRAMES, 40, axis=0)
  keys = jax.random.split(jax.random.key(7), len(frames))
  wanted = 0.15 + 0.98 * (frames[:, 2] - 0.15)

  def error(**changes):
    return np.square(draw(Observed(frames, SEEN), model, keys, num_steps=64, **changes)[:, 3] - wanted).mean()

  replaced, guided = error(conditioning='replacement'), error(reconstruction_weight=1.0)
  corrected = error(reconstruction_weight=1.0, langevin_delta=0.1)
  assert corrected < guided < replaced


def test_nothing_observed_is_plain_sampling():
  """Guidance whose mask is empty changes nothing but rounding."""
  nothing = Observed(FRAMES, np.zeros(8, bool))
  for changes in ({}, {'conditioning': 'replacement'}, {'langevin_delta': 0.1}):
    np.testing.assert_allclose(draw(nothing, **changes), draw(None, **changes), atol=2e-4)


def test_frames_that_are_not_seen_do_not_matter():
  other = np.where(MASK, FRAMES, 7.0)
  np.testing.assert_array_equal(draw(OBSERVED), draw(Observed(other, SEEN)))


def test_a_smaller_video_is_kept_to_through_the_downsampling():
  """The misfit to the low-resolution frames falls with the weight, and is small at twice the paper's formula."""
  low = np.random.default_rng(1).normal(0, 0.5, (3, 8, 1, 1, 1)).astype(np.float32)
  low_seen = np.arange(8) % 2 == 0
  observed = Observed(FRAMES, np.zeros(8, bool), low, low_seen)

  def misfit(weight):
    x = draw(observed, num_steps=48, reconstruction_weight=weight)
    return np.square(np.asarray(downsample(x, 2)) - low)[:, low_seen].mean()

  free = np.square(np.asarray(downsample(draw(None, num_steps=48), 2)) - low)[:, low_seen].mean()
  assert misfit(2.0) < misfit(1.0) < misfit(0.5) < free
  assert misfit(2.0) < 8e-3


def test_a_smaller_video_and_given_frames_go_together():
  low = np.asarray(downsample(FRAMES, 2))
  x = draw(Observed(FRAMES, SEEN, low, np.ones(8, bool)), num_steps=48, reconstruction_weight=2.0)
  np.testing.assert_array_equal(x[:, SEEN], FRAMES[:, SEEN])
  assert np.square(np.asarray(downsample(x, 2)) - low).mean() < 4e-3


def test_padding_rows_are_not_compared():
  """With padding, x_hat repeats its edge rows; the misfit counts each row of the picture once."""
  shape = (8, 6, 2, 1)
  padded = GaussianVideos(video_shape=shape, pad_rows=2)
  frames = np.pad(FRAMES, ((0, 0), (0, 0), (2, 2), (0, 0), (0, 0)), 'edge')
  x = draw(Observed(frames, SEEN), padded)
  spoiled = frames.copy()
  spoiled[:, :, [0, 1, 4, 5]] += np.where(MASK[..., 0:1], 0.0, 3.0)
  np.testing.assert_array_equal(x[:, :, 2:4], draw(Observed(spoiled, SEEN), padded)[:, :, 2:4])
  np.testing.assert_array_equal(x[:, 3:, 0], x[:, 3:, 2])
  np.testing.assert_array_equal(x[:, 3:, 5], x[:, 3:, 3])


@pytest.mark.parametrize('step', ['ancestral', 'dpm_solver'])
@pytest.mark.parametrize('method', ['reconstruction', 'redraw'])
def test_progress_in_parts_is_one_sample(method, step):
  """Advancing in parts gives the same as one loop."""
  stages = make_stages(MODEL, settings(step=step, conditioning=method))
  inputs = (PARAMS, KEYS, Conditioning(), OBSERVED)
  advance = jax.jit(stages.advance)
  state = jax.jit(stages.begin)(*inputs)
  for start, stop in ((0, 4), (4, 5), (5, 11)):
    state = advance(*inputs, state, start, stop)
  np.testing.assert_allclose(
    jax.jit(stages.finish)(*inputs, state), draw(OBSERVED, step=step, conditioning=method), atol=1e-5
  )
  assert advance._cache_size() == 1


REFUSED = [
  ({'conditioning': 'reconstructon'}, {}, "^sampling.conditioning='reconstructon' .*Did you mean 'reconstruction'"),
  ({'reconstruction_weight': 0.0}, {}, "^sampling.reconstruction_weight=0.0 .*conditioning='replacement'"),
  ({'conditioning': 'replacement', 'gamma': 0.1}, {}, "^sampling.conditioning='replacement' with gamma=0.1 .*'redraw'"),
  ({'conditioning': 'redraw'}, {'low_resolution': True}, "^sampling.conditioning='redraw' .*'reconstruction'"),
]


@pytest.mark.parametrize(('changes', 'also', 'message'), REFUSED)
def test_settings_that_do_not_go_together_are_refused(changes, also, message):
  with pytest.raises(ValueError, match=message):
    conditional.check(settings(**changes), **also)


def test_given_frames_enter_the_network_without_noise():
  """A denoiser that reads the given frames exactly continues with their mean, under every step and correction."""
  expected = np.where(MASK, FRAMES, FRAMES[:, :3].mean(1, keepdims=True) + 0.05)
  for changes in ({}, {'step': 'dpm_solver'}, {'gamma': 0.3, 'langevin_delta': 0.1}):
    found = draw(OBSERVED, model=FrameLevels(), conditioning='given_frames', threshold='none', **changes)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_given_frames_need_a_model_that_was_trained_on_them():
  with pytest.raises(ValueError, match="conditioning='given_frames'.*model.frame_logsnr='shared'"):
    make_stages(MODEL, settings(conditioning='given_frames'))


def test_a_smaller_video_may_have_a_weight_of_its_own():
  """Alone, its weight is that of the formula; beside frames, equal weights change nothing, and a larger one fits it."""
  low = np.asarray(downsample(FRAMES, 2))
  alone = Observed(FRAMES, np.zeros(8, bool), low, np.ones(8, bool))
  one = draw(alone, reconstruction_weight=4.0)
  np.testing.assert_allclose(draw(alone, reconstruction_weight=1.0, low_resolution_weight=4.0), one, atol=1e-4)
  both = Observed(FRAMES, SEEN, low, np.ones(8, bool))
  weights = {'reconstruction_weight': 1.0, 'num_steps': 24}
  same = draw(both, low_resolution_weight=1.0, **weights)
  np.testing.assert_array_equal(same, draw(both, **weights))
  more = draw(both, low_resolution_weight=4.0, **weights)
  misfit, less = (np.square(np.asarray(downsample(x, 2)) - low).mean() for x in (same, more))
  assert less < 0.5 * misfit


REFUSED = [{'low_resolution_weight': -1.0}, {'low_resolution_weight': 1.0, 'conditioning': 'redraw'}]


@pytest.mark.parametrize('changes', REFUSED)
def test_an_idle_or_negative_weight_of_the_smaller_video_is_refused(changes):
  with pytest.raises(ValueError, match='sampling.low_resolution_weight='):
    conditional.check(settings(**changes))
