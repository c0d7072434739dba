"""The sampler of a configuration equals the algebra written out, and videos are independent of each other."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny_networks import FRAMES, SIZE, WORDS, draw, make_config

from vdm_jax import diffusion, models, sampling
from vdm_jax.generation.sampler import (
  STEP_SETTINGS,
  STEPS,
  guidance_weight,
  guide,
  make_sampler,
  make_stages,
  make_step,
  null_condition,
)
from vdm_jax.types import Conditioning

SHAPE = (FRAMES, SIZE, SIZE, 3)
KEYS = jax.random.split(jax.random.key(5), 3)
PROMPTS = ['two left', 'three right', 'two right']


def settings(**changes):
  config = make_config().sampling
  for key, value in ({'num_steps': 4} | changes).items():
    config[key] = value
  return config


@functools.cache
def model(process='variance_preserving', sigma_in=1.0):
  config = make_config(
    data__text='words',
    data__vocabulary=WORDS,
    model__process=process,
    model__sigma_in=sigma_in,
    model__parameterization='v',
    model__channel_multipliers=(1,),
    model__attention_resolutions=(),
  )
  return models.build(config.model)


@functools.cache
def params():
  return draw(jax.eval_shape(model().init, jax.random.key(0)))


COND = jax.tree.map(jnp.asarray, model().condition(PROMPTS))


def draw_videos(config, keys=KEYS, cond=COND, of=None):
  return np.asarray(jax.jit(make_sampler(of or model(), config))(params(), keys, cond))


@functools.cache
def guided(**changes):
  return draw_videos(settings(**{'guidance_weight': 1.5} | changes))


def noise(sigma):
  return sigma * jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), SHAPE))(KEYS)


def by_hand(config, process, weight):
  """DDIM in a Python loop, each branch of the guidance evaluated separately; `weight` is one number per level."""
  of = model('input_scaled', 2.0) if config.grid == 'karras' else model()
  grid = of.grid(config.grid, config.num_steps, **{k: config[k] for k in ('sigma_min', 'sigma_max', 'rho')})
  denoise = jax.jit(lambda z, logsnr, cond: of.denoiser(params())(z, jnp.full(3, logsnr), cond, None)[0])
  dropped = COND._replace(drop=jnp.ones((3, 1), bool))
  z = noise(process.sigma(grid[0]))
  for i, logsnr in enumerate(grid):
    x_hat = (1 + weight[i]) * denoise(z, logsnr, COND) - weight[i] * denoise(z, logsnr, dropped)
    x_hat = np.clip(x_hat, -1, 1)
    if i == len(grid) - 1:
      return x_hat
    eps = (z - process.alpha(logsnr) * x_hat) / process.sigma(logsnr)
    z = process.alpha(grid[i + 1]) * x_hat + process.sigma(grid[i + 1]) * eps


# A cosine grid's first level divides by alpha = 5e-5, which float32 does not survive to many digits.
GRIDS = {
  'cosine': (model(), diffusion.variance_preserving()),
  'karras': (model('input_scaled', 2.0), diffusion.input_scaled(2.0)),
}


@pytest.mark.parametrize('grid', GRIDS)
def test_the_sampler_is_the_algebra_by_hand(grid):
  config = settings(step='ddim', grid=grid, guidance_weight=1.5)
  of, process = GRIDS[grid]
  np.testing.assert_allclose(draw_videos(config, of=of), by_hand(config, process, [1.5] * 4), atol=2e-3)


def test_an_oscillating_weight_alternates_after_its_start():
  config = settings(step='ddim', guidance_weight=3.0, guidance_low=0.5, guidance_start=0.25)
  expected = by_hand(config, diffusion.variance_preserving(), [3.0, 0.5, 3.0, 0.5])
  np.testing.assert_allclose(draw_videos(config), expected, atol=2e-3)


CASES = [
  {'step': 'ancestral'},
  {'step': 'ancestral', 'gamma': 0.3},
  {'step': 'ancestral', 'langevin_delta': 0.1},
  {'step': 'ddim', 'threshold': 'dynamic'},
  {'step': 'ddim', 'threshold': 'dynamic', 'percentile': 50.0},
  {'step': 'heun', 'grid': 'karras'},
  {'step': 'heun', 'grid': 'karras', 'churn': 0.2},
  {'step': 'heun'},
  {'step': 'dpm_solver'},
  {'step': 'dpm_solver', 'langevin_delta': 0.1},
]
# The steps alone are tested with every network, process and parameterization in test_any_with_any.
SOME_SLOW = [case if len(case) > 2 else pytest.param(case, marks=pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize('changes', SOME_SLOW, ids=lambda changes: '-'.join(map(str, changes.values())))
def test_every_step_draws_finite_videos_within_range(changes):
  videos = guided(**changes)
  assert videos.shape == (3, *SHAPE) and videos.dtype == np.float32
  assert np.isfinite(videos).all() and np.abs(videos).max() <= 1
  assert np.std(videos) > 0.1


def test_every_setting_of_a_step_has_an_effect():
  videos = [guided(**changes) for changes in CASES] + [guided(step='ddim')]
  for i, a in enumerate(videos):
    for b in videos[:i]:
      assert np.abs(a - b).max() > 1e-2


def test_a_video_depends_on_its_key_and_condition_alone():
  sampler = jax.jit(make_sampler(model(), settings(gamma=0.3, langevin_delta=0.1, guidance_weight=1.5)))

  def run(keys, prompts):
    return np.asarray(sampler(params(), KEYS[np.array(keys)], jax.tree.map(lambda leaf: leaf[np.array(prompts)], COND)))

  whole = run([0, 1, 2], [0, 1, 2])
  np.testing.assert_allclose(run([2, 0], [2, 0]), whole[[2, 0]], atol=1e-5)
  found = run([0, 0, 1], [0, 1, 0])
  np.testing.assert_allclose(found[0], whole[0], atol=1e-5)
  assert np.abs(found[1] - found[0]).max() > 1e-2  # another prompt
  assert np.abs(found[2] - found[0]).max() > 1e-2  # another key


def test_without_a_condition_there_is_nothing_to_guide_towards():
  def denoiser(z, logsnr, cond, carry):
    raise AssertionError('not called')

  assert guide(denoiser, Conditioning(), 3.0) is denoiser
  assert guide(denoiser, COND, 0.0) is denoiser
  assert guide(denoiser, COND, 3.0) is not denoiser
  assert guide(denoiser, Conditioning(label=np.zeros((2, 1), int)), 3.0) is not denoiser
  free = [draw_videos(settings(guidance_weight=w), cond=Conditioning()) for w in (0.0, 3.0)]
  np.testing.assert_array_equal(*free)


@pytest.mark.parametrize('cond', [COND, Conditioning(label=np.zeros((2, 1), int))])
def test_the_null_condition_drops_and_changes_nothing_else(cond):
  null = null_condition(cond)
  given = cond.text if cond.text is not None else cond.label
  np.testing.assert_array_equal(null.drop, np.ones(given.shape[:2], bool))
  jax.tree.map(np.testing.assert_array_equal, null._replace(drop=None), cond)


def test_videos_without_a_threshold_may_leave_the_range():
  assert np.abs(guided(threshold='none')).max() > 1


def test_weights_are_numbers_unless_they_oscillate():
  grid = model().grid('cosine', 4, sigma_min=0.1, sigma_max=1.0, rho=7.0)
  assert guidance_weight(grid, settings(guidance_weight=2.0)) == 2.0
  weight = guidance_weight(grid, settings(guidance_weight=2.0, guidance_low=0.0, guidance_start=0.5))
  np.testing.assert_array_equal(weight(grid), [2.0, 2.0, 0.0, 2.0])


def test_oscillating_guidance_keeps_its_form_with_fewer_steps():
  """A quarter of the levels is before the oscillation: 64 of 256 in Snap's first stage, 2 of 8, and never none."""
  for num_steps, high in ((256, 64), (8, 2), (4, 1), (2, 1)):
    config = settings(num_steps=num_steps, guidance_weight=8.0, guidance_low=1.0, guidance_start=0.25)
    grid = np.arange(num_steps, dtype=np.float32)
    expected = [8.0] * high + [(1.0, 8.0)[i % 2] for i in range(num_steps - high)]
    np.testing.assert_array_equal(guidance_weight(grid, config)(grid), expected)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'step': 'hean'}, "sampling.step='hean' .*ancestral, ddim, heun, dpm_solver.*Did you mean 'heun'"),
    ({'grid': 'linear'}, "sampling.grid='linear' .*cosine, karras"),
    ({'threshold': 'clipped'}, "sampling.threshold='clipped' .*none, clip, dynamic.*Did you mean 'clip'"),
    ({'step': 'ddim', 'gamma': 0.3}, "sampling.gamma=0.3 .*step='ddim'.*'ancestral'"),
    ({'step': 'dpm_solver', 'gamma': 0.3}, "sampling.gamma=0.3 .*step='dpm_solver'.*'ancestral'"),
    ({'churn': 0.2}, "sampling.churn=0.2 .*step='ancestral'.*'heun'"),
    ({'step': 'dpm_solver', 'churn': 0.2}, "sampling.churn=0.2 .*step='dpm_solver'.*'heun'"),
    ({'step': 'heun', 'churn_min': 0.1}, 'sampling.churn_noise=1.0, churn_min=0.1, churn_max=0.0 .*sampling.churn'),
    ({'step': 'heun', 'churn': 0.1, 'churn_min': 2.0, 'churn_max': 1.0}, 'sampling.churn_min=2.0, churn_max=1.0'),
    ({'guidance_low': 1.0}, 'sampling.guidance_low=1.0 .*sampling.guidance_start'),
    ({'guidance_start': 64.0}, r'sampling.guidance_start=64.0 must be in \[0, 1\]'),
    ({'gamma': 2.0}, 'gamma=2.0 '),
    ({'num_steps': 0}, 'num_levels=0 .*sampling.num_steps'),
    ({'num_steps': 1, 'grid': 'karras'}, 'num_points=1 .*sampling.num_steps'),
  ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    make_sampler(model(), settings(**changes))


@pytest.mark.parametrize('step', STEPS)
def test_settings_of_other_steps_are_refused(step):
  """Each setting that one step alone reads, at a value that would have an effect there."""
  for owner, names in STEP_SETTINGS.items():
    for name, off in names.items():
      if owner != step:
        with pytest.raises(ValueError, match=f'^sampling.{name}=.* no effect on step={step!r}.* {off:g}, .*{owner!r}'):
          make_step(model(), settings(step=step, **{name: off + 0.1}))


@pytest.mark.parametrize('step', STEPS)
def test_every_array_of_the_state_has_the_batch_in_front(step):
  """So that the compile report and meshes can split it as they split a batch."""
  config = settings(step=step, langevin_delta=0.1)
  state = jax.eval_shape(make_stages(model(), config).begin, params(), KEYS, COND, None)
  assert all(leaf.shape[0] == len(KEYS) for leaf in jax.tree.leaves(state))


def test_steps_are_those_of_the_algebra():
  """On the same inputs as `vdm_jax.sampling`'s own, with the model's process."""
  of = model('input_scaled', 2.0)
  z, rng = noise(1.0), jax.random.key(3)
  inputs = (z, jnp.full(3, -1.0), jnp.full(3, 0.5), rng, None, None)

  def denoiser(z, logsnr, cond, carry):
    return jnp.tanh(z), carry

  pairs = [
    (settings(gamma=0.3), sampling.ancestral(of.process, 0.3)),
    (settings(step='ddim'), sampling.ddim(of.process)),
    (settings(step='dpm_solver'), sampling.dpm_solver(of.process)),
    (settings(step='heun', churn=0.1), sampling.heun(of.process, 0.1)),
    # The level is sigma / alpha = 1.65; the configuration's sigmas are that over sigma_in = 2.
    (settings(step='heun', churn=0.1, churn_noise=1.2, churn_min=0.5), sampling.heun(of.process, 0.1, 1.2)),
    (settings(step='heun', churn=0.1, churn_max=0.8), sampling.heun(of.process)),
    (settings(langevin_delta=0.2), sampling.langevin_corrected(sampling.ancestral(of.process), of.process, 0.2)),
  ]
  for config, step in pairs:
    found, wanted = (each.update(denoiser, *inputs, each.init(z))[0] for each in (make_step(of, config), step))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
