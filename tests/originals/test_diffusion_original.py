"""Losses, posterior and samplers against the public code of VDM's authors, EDM and DPM-Solver, with one toy network.

The originals ran in float64; the noises, which are theirs to draw, come from the fixtures.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fidelity import load

from vdm_jax import configuration, diffusion, models, sampling
from vdm_jax.diffusion import expand_dims_like
from vdm_jax.sampling import corrections, steps

PROCESS, EDM_PROCESS = diffusion.variance_preserving(), diffusion.input_scaled(1.0)
DPM, EDM = 'google-research, diffusion_distillation/dpm.py', 'NVlabs/edm'
SOLVER = 'LuChengTHU/dpm-solver, dpm_solver_jax.py'
PREDICT = {'eps': diffusion.predict_eps, 'v': diffusion.predict_v}
# Loss weights of dpm.py as factors on the loss of the network's output.
WEIGHTS = {
  'eps/snr': 1.0,
  'eps/constant': lambda logsnr: jnp.exp(-logsnr),
  'eps/snr_trunc': lambda logsnr: jnp.maximum(1.0, jnp.exp(-logsnr)),
  'v/v_mse': 1.0,
  'v/constant': lambda logsnr: jax.nn.sigmoid(-logsnr),
  'v/snr': lambda logsnr: jax.nn.sigmoid(logsnr),
}
GAMMAS = {'small': 0.0, 'medium:0.3': 0.3, 'large': 1.0}
CHURNS = {'heun': 0.0, 'churn': 3 / 12, 'much churn': 2**0.5 - 1}  # S_churn 0, 3 and 40 of 12 steps, the last capped


@functools.cache
def dpm():
  return load('dpm.npz')


@functools.cache
def edm():
  return load('edm.npz')


def network(z, logsnr, cond, carry):
  """The fixtures' network, 0.6 tanh(z) + 0.3 sin(left pixel +- logsnr / 8); EDM's c_noise is -logsnr / 8."""
  return 0.6 * jnp.tanh(z) + 0.3 * jnp.sin(jnp.roll(z, 1, -1) + expand_dims_like(cond * logsnr / 8, z)), carry


SIGN = {DPM: 1.0, EDM: -1.0, SOLVER: 1.0}


@pytest.fixture
def draws(monkeypatch):
  """Return `draws(noises, *modules)`, which replaces the unit noise of the modules by these, one after the other."""

  def replace(noises, *modules):
    left = iter(noises)
    for module in modules:
      monkeypatch.setattr(module, 'unit_noise', lambda rng, shape: jnp.asarray(next(left)).reshape(shape))

  return replace


@functools.cache
def cosine_model():
  return models.build(configuration.default().model)


# diffusion_distillation


def test_the_schedule(agrees):
  agrees(diffusion.cosine_logsnr(dpm()['u']), dpm()['logsnr'], 1e-6, 'cosine_logsnr', DPM, 'log-SNR')
  agrees(diffusion.cosine_grid(33)[::-1], dpm()['logsnr'], 1e-6, 'cosine_grid', DPM, 'log-SNR')


@pytest.mark.parametrize('variance', GAMMAS)
def test_the_posterior(variance, agrees):
  g, gamma = dpm(), GAMMAS[variance]
  found = diffusion.posterior(PROCESS, g['z'], g['x'], g['logsnr_t'], g['logsnr_s'])
  agrees(found.mean, g['mean'], 1e-6, 'posterior', DPM, 'mean')
  std = found.std_min ** (1 - gamma) * found.std_max**gamma
  agrees(std, g[f'{variance}/std'], 1e-6, 'posterior', DPM, 'standard deviation')


def test_conversions(agrees):
  g = dpm()
  for name, parameterization in PREDICT.items():
    c = parameterization(PROCESS.alpha(g['logsnr_t']), PROCESS.sigma(g['logsnr_t']))
    found = expand_dims_like(c.skip, g['z']) * g['z'] + expand_dims_like(c.out, g['z']) * g['x']
    agrees(found, g[f'x_from_{name}'], 1e-6, 'parameterizations', DPM, f'x from {name}')
  found = diffusion.predict_eps_from_x(PROCESS, g['z'], g['x'], g['logsnr_t'])
  agrees(found, g['eps_from_x'], 1e-6, 'parameterizations', DPM, 'eps from x')


@pytest.mark.parametrize('kind', WEIGHTS)
def test_the_losses(kind, agrees, draws):
  g = dpm()
  draws([g['loss_eps']], diffusion.loss)
  _, aux = diffusion.denoising_loss(
    network,
    g['loss_x'],
    SIGN[DPM],
    jax.random.key(0),
    process=PROCESS,
    weight=WEIGHTS[kind],
    parameterization=PREDICT[kind.split('/')[0]],
    logsnr=g['loss_logsnr'],
  )
  agrees(aux['per_example'], g[f'loss/{kind}'], 1e-6, 'denoising_loss', DPM, f'loss on {kind.replace("/", ", ")}')


@pytest.mark.parametrize('kind', ['v/free', 'v/clipped', 'eps/clipped'])
@pytest.mark.parametrize('sampler', [*GAMMAS, 'ddim'])
def test_sampling(kind, sampler, agrees, draws):
  """Eight evaluations on the grid of `sampling.num_steps=8`; the original's last noise is not used."""
  g, grid = dpm(), cosine_model().grid('cosine', 8, sigma_min=0.002, sigma_max=80.0, rho=7.0)
  agrees(grid, g['grid'], 1e-6, 'Model.grid', DPM, 'log-SNR of 8 evaluations')
  name, clipped = kind.split('/')
  denoiser = diffusion.precondition(network, PROCESS, PREDICT[name])
  denoiser = sampling.clip(denoiser) if clipped == 'clipped' else denoiser
  step = sampling.ddim(PROCESS) if sampler == 'ddim' else sampling.ancestral(PROCESS, GAMMAS[sampler])
  draws(g['noise'][:0:-1], steps)
  with jax.disable_jit():
    found = sampling.sample(denoiser, step, grid, g['start'], jax.random.key(0), SIGN[DPM])
  what = 'DDIM' if sampler == 'ddim' else f'ancestral, gamma {GAMMAS[sampler]}'
  agrees(found, g[f'{kind}/{sampler}'], 1e-6, what, DPM, f'sample of 8 evaluations, {name}, {clipped}')


# EDM


def test_edm_preconditioning(agrees):
  g = edm()
  denoiser = diffusion.precondition(network, EDM_PROCESS, diffusion.edm(0.5))
  found, _ = denoiser(g['z'], g['logsnr'], SIGN[EDM], None)
  agrees(found, g['denoised'], 1e-6, 'edm, precondition', EDM, 'denoised, EDMPrecond')


def test_edm_loss(agrees, draws, monkeypatch):
  g = edm()
  draws([g['eps']], diffusion.loss)
  monkeypatch.setattr(jax.random, 'normal', lambda rng, shape: jnp.asarray(g['levels']))
  _, aux = diffusion.denoising_loss(
    network,
    g['x'],
    SIGN[EDM],
    jax.random.key(0),
    process=EDM_PROCESS,
    parameterization=diffusion.edm(0.5),
    sample_logsnr=diffusion.lognormal_sampler(mean=-1.2, std=1.2),
  )
  agrees(aux['per_example'], g['loss'], 1e-6, 'edm, denoising_loss', EDM, 'loss, EDMLoss')


@pytest.mark.parametrize('name', CHURNS)
def test_heun(name, agrees, draws):
  g = edm()
  grid = diffusion.karras_grid(12, sigma_min=0.002, sigma_max=80.0)
  denoiser = diffusion.precondition(network, EDM_PROCESS, diffusion.edm(0.5))
  step = sampling.heun(EDM_PROCESS, CHURNS[name], churn_noise=1.003, churn_range=(0.05, 50.0))
  draws(g['noise'], steps)
  with jax.disable_jit():
    found = sampling.sample(denoiser, step, grid, 80 * g['start'], jax.random.key(0), SIGN[EDM])
  agrees(found, g[name], 1e-6, f'heun, churn {CHURNS[name]:.2f} a step', EDM, 'sample of 12 levels, edm_sampler')


# DPM-Solver


@pytest.mark.parametrize('grid, max_ratio', [('logSNR', 1.0), ('logSNR', math.inf), ('time_uniform', math.inf)])
def test_dpm_solver(grid, max_ratio, agrees):
  """On steps uniform in log-SNR the bound on their ratio has no effect."""
  g = load('dpm_solver.npz')
  denoiser = diffusion.precondition(network, PROCESS, diffusion.predict_v)
  step = sampling.dpm_solver(PROCESS, max_ratio=max_ratio)
  found = sampling.sample(denoiser, step, g[f'{grid}/grid'], g['start'], jax.random.key(0), SIGN[SOLVER])
  agrees(found, g[grid], 1e-6, 'dpm_solver', SOLVER, 'sample of 11 evaluations')


# VDM's predictor-corrector, which has no public code of its authors


def corrected_in_float64(grid, z, noises, gamma, delta):
  """VDM Eqs. 3 to 5 for a v network, level by level."""
  noises = iter(np.float64(noises))

  def estimate(z, logsnr):
    alpha, sigma = np.sqrt(1 / (1 + np.exp([-logsnr, logsnr])))
    v = 0.6 * np.tanh(z) + 0.3 * np.sin(np.roll(z, 1, -1) + logsnr / 8)
    return np.clip(alpha * z - sigma * v, -1, 1), alpha, sigma

  for t, s in itertools.pairwise(np.float64(grid)):
    x, alpha_t, sigma_t = estimate(z, t)
    alpha_s, sigma_s = np.sqrt(1 / (1 + np.exp([-s, s])))
    forward = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2  # of q(z_t | z_s)
    mean = alpha_t / alpha_s * sigma_s**2 / sigma_t**2 * z + alpha_s * forward / sigma_t**2 * x
    variance = (forward * sigma_s**2 / sigma_t**2) ** (1 - gamma) * forward**gamma
    z = mean + np.sqrt(variance) * next(noises)
    x, alpha, sigma = estimate(z, s)
    z = z - delta / 2 * sigma * (z - alpha * x) / sigma + np.sqrt(delta) * sigma * next(noises)
  return estimate(z, grid[-1])[0]


@pytest.mark.parametrize('gamma', [0.0, 0.3])
def test_the_predictor_corrector(gamma, agrees, draws):
  g, grid = dpm(), np.asarray(diffusion.cosine_grid(5, logsnr_min=-6.0, logsnr_max=6.0))
  denoiser = sampling.clip(diffusion.precondition(network, PROCESS, diffusion.predict_v))
  step = sampling.langevin_corrected(sampling.ancestral(PROCESS, gamma), PROCESS, delta=0.1)
  draws(g['noise'], steps, corrections)
  with jax.disable_jit():
    found = sampling.sample(denoiser, step, grid, g['start'], jax.random.key(0), SIGN[DPM])
  expected = corrected_in_float64(grid, np.float64(g['start']), g['noise'], gamma, 0.1)
  agrees(found, expected, 1e-6, f'langevin_corrected, gamma {gamma}', 'float64 loop', 'sample of 5 levels')
