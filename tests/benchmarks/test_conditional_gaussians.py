"""The library's samplers have the laws that the benchmark computes without them, and VDM's claims hold."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gaussian_videos import PROCESSES, GaussianVideos, settings

import vdm_jax.generation.sampler
import vdm_jax.sampling.corrections
import vdm_jax.sampling.steps
from vdm_jax.benchmarks import conditional_gaussians as benchmark
from vdm_jax.benchmarks import gaussian_laws
from vdm_jax.benchmarks.gaussian_laws import Law
from vdm_jax.diffusion import downsample, expand_dims_like
from vdm_jax.generation.conditional import Observed
from vdm_jax.generation.sampler import make_stages
from vdm_jax.types import Conditioning

PROBLEMS = gaussian_laws.problems()
OURS = {'variance_preserving': PROCESSES['variance_preserving'], 'input_scaled': PROCESSES['scaled']}
GRIDS = {'variance_preserving': 'cosine', 'input_scaled': 'karras'}
NUM_STEPS = 4


def model_of(problem, process):
  """The part of a model that `make_stages` uses, with the exact denoiser of N(0, covariance)."""
  values, vectors = np.linalg.eigh(problem.covariance)

  class Model(GaussianVideos):
    def denoiser(self, params):
      def denoiser(z, logsnr, cond, carry):
        alpha, sigma = (expand_dims_like(f(logsnr), jnp.zeros((len(z), 1))) for f in process)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        modes = jnp.matmul(z.reshape(len(z), -1), vectors, precision='highest')
        return jnp.matmul(gain * modes, vectors.T, precision='highest').reshape(z.shape), carry

      return denoiser

  return Model(video_shape=problem.video_shape, process=process)


def observed_of(problem, y):
  """Observations y `[b m]` as the library takes them."""
  frames = np.zeros((len(y), len(problem.covariance)), np.float32)
  shape, every = (len(y), *problem.video_shape), np.ones(problem.video_shape[0], bool)
  if problem.seen.any():
    frames[:, problem.seen] = y
    return Observed(frames.reshape(shape), problem.seen)
  low = y.reshape(len(y), problem.video_shape[0], problem.video_shape[1] // 2, -1, 1)
  return Observed(frames.reshape(shape), ~every, low.astype(np.float32), every)


def run(problem, process_name, keys, y, **changes):
  """The library's sampler on observations y `[b m]`: `[b n]`, float32."""
  config = settings(grid=GRIDS[process_name], **changes)
  stages = make_stages(model_of(problem, OURS[process_name]), config)
  inputs = (None, keys, Conditioning(), observed_of(problem, y))
  state = stages.advance(*inputs, stages.begin(*inputs), 0, stages.num_steps)
  return stages.finish(*inputs, state).reshape(len(y), -1)


def library_law(monkeypatch, problem, process_name, **changes):
  """The exact law of the library's sampler: its answer to each observation alone and to each number it draws alone."""
  n, m = len(problem.covariance), len(problem.measure)
  most = n * (1 + 4 * NUM_STEPS)
  y = np.concatenate([np.eye(m), np.zeros((most, m))])
  draws = []

  def impulse(rng, shape):
    noise = np.zeros((m + most, n), np.float32)
    first = m + n * len(draws)
    noise[first : first + n] = np.eye(n)
    draws.append(first)
    return jnp.asarray(noise).reshape(shape)

  for module in (vdm_jax.generation.sampler, vdm_jax.sampling.corrections):
    monkeypatch.setattr(module, 'fold_in', lambda keys, index: keys)
  for module in (vdm_jax.generation.sampler, vdm_jax.sampling.corrections, vdm_jax.sampling.steps):
    monkeypatch.setattr(module, 'unit_noise', impulse)
  keys = jax.random.split(jax.random.key(0), m + most)
  with jax.disable_jit():  # the steps run one by one, so that every draw is another call
    x = np.asarray(run(problem, process_name, keys, y, num_steps=NUM_STEPS, **changes), np.float64)
  assert draws[-1] + n <= m + most
  return Law(x[:m].T, x[m:].T @ x[m:])


def grid_of(process_name, num_steps):
  return np.asarray(gaussian_laws.PROCESSES[process_name][1](num_steps), np.float64)


def benchmark_law(problem, process_name, num_steps=NUM_STEPS, **changes):
  process, _ = gaussian_laws.PROCESSES[process_name]
  return gaussian_laws.sampled(problem, process, grid_of(process_name, num_steps), changes)


def assert_same(found, wanted, rtol):
  for ours, theirs in zip(found, wanted, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs).max())


CASE_STEPS = [
  {},
  {'langevin_delta': 0.1},
  {'gamma': 0.3, 'langevin_delta': 0.2},
  {'step': 'ddim', 'langevin_delta': 0.1},
]
CASES = [
  (problem, process, method, step)
  for problem in PROBLEMS
  for process in OURS
  for method in benchmark.methods_for(PROBLEMS[problem], 0.0)
  if method in ('replacement', 'redraw', 'reconstruction, w=1', 'reconstruction, w=5')
  for step in (CASE_STEPS if (problem, process) == ('interpolation', 'input_scaled') else CASE_STEPS[:2])
  if not ('gamma' in step and method == 'replacement')
]


@pytest.mark.parametrize(('name', 'process', 'method', 'step'), CASES)
def test_the_library_has_this_law(monkeypatch, name, process, method, step):
  changes = benchmark.METHODS[method] | step
  found = library_law(monkeypatch, PROBLEMS[name], process, **changes)
  wanted = benchmark_law(PROBLEMS[name], process, **changes)
  assert_same(found, wanted, 1e-4)


def test_the_library_draws_everything_afresh():
  """With its own random numbers: correlated draws would show in the covariance, here within 4 standard errors."""
  changes = {'conditioning': 'reconstruction', 'reconstruction_weight': 2.0, 'gamma': 0.3, 'langevin_delta': 0.3}
  problem, count = PROBLEMS['prediction'], 4000
  wanted = benchmark_law(problem, 'variance_preserving', 8, **changes)
  y = np.full((count, 4), 0.3)
  keys = jax.random.split(jax.random.key(5), count)
  x = jax.jit(lambda keys: run(problem, 'variance_preserving', keys, y, num_steps=8, **changes))(keys)
  x = np.asarray(x, np.float64)[:, ~problem.seen]
  covariance = wanted.covariance[np.ix_(~problem.seen, ~problem.seen)]
  variances = np.diag(covariance)
  assert (np.abs(x.mean(0) - (wanted.response @ y[0])[~problem.seen]) < 4 * np.sqrt(variances / count)).all()
  error = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
  assert (np.abs(np.cov(x.T) - covariance) < 4 * error).all()


@pytest.fixture(scope='module')
def cases():
  return benchmark.measure((64,))


def test_the_claims_of_the_paper_hold_at_its_own_weight(cases):
  """At w=1, and by the error of the mean, that of the covariance and the Fréchet distance alike."""
  claims = benchmark.claims(cases)
  assert len(claims) == 2 * (4 + 4 + 1)  # of each process; the picture has Langevin's alone
  assert [claim for claim in claims if not all(claim[key] for key in benchmark.SCORES)] == []


def frechet(problem, num_steps, process='variance_preserving', **changes):
  made = benchmark_law(PROBLEMS[problem], process, num_steps, **changes)
  return gaussian_laws.score(PROBLEMS[problem], made)['frechet']


@pytest.mark.parametrize('name', PROBLEMS)
def test_more_steps_help_the_exact_denoiser_or_langevin_but_not_guidance_alone(name):
  exact, guided = {'conditioning': 'exact'}, {'conditioning': 'reconstruction'}
  few, many = (frechet(name, steps, **exact) for steps in (64, 512))
  assert many < 0.2 * few and many < 0.02
  few, many = (frechet(name, steps, langevin_delta=0.1, **guided) for steps in (64, 512))
  assert many < 0.7 * few
  few, many = (frechet(name, steps, **guided) for steps in (256, 1024))
  assert abs(many / few - 1) < 0.25 and many > 0.3  # the picture's last level is cleaner on a finer grid


def test_the_weight_has_an_optimum():
  """Above the paper's 1 everywhere; too strong guidance is worse than none of the mean, with Langevin too."""
  for name in PROBLEMS:
    assert frechet(name, 64, conditioning='reconstruction', reconstruction_weight=2.0) < frechet(
      name, 64, conditioning='reconstruction'
    )
  for name in ('prediction', 'interpolation'):
    for delta in (0.0, 0.1):
      by_weight = [
        frechet(name, 256, conditioning='reconstruction', reconstruction_weight=w, langevin_delta=delta)
        for w in (1.0, 3.0, 20.0)
      ]
      assert by_weight[1] < by_weight[0] and by_weight[1] < by_weight[2]


def test_guidance_through_a_mean_of_f_by_f_pixels_is_unstable_beyond_twice_f_squared():
  """Near the end x_hat = z / alpha, and a step multiplies the misfit by 1 - (1 - r) w / f^2, r = 1/4 in the last."""

  def distance(weight):
    return frechet('super-resolution', 64, conditioning='reconstruction', reconstruction_weight=weight)

  assert distance(7.0) < 0.2 and distance(20.0) > 3


def test_rescaling_z_changes_nothing():
  """Neither by a constant nor by a factor that depends on the level, which makes one process of the other."""
  preserving, scaled = (process for process, _ in gaussian_laws.PROCESSES.values())
  times_seven = gaussian_laws.Process(*(lambda logsnr, f=f: 7 * f(logsnr) for f in preserving))
  logsnrs = grid_of('variance_preserving', 32)
  for problem in PROBLEMS.values():
    for method in benchmark.methods_for(problem, 0.0).values():
      for step in ({}, {'langevin_delta': 0.1}, {'step': 'ddim'}):
        wanted = gaussian_laws.sampled(problem, preserving, logsnrs, method | step)
        for process in (times_seven, scaled):
          assert_same(gaussian_laws.sampled(problem, process, logsnrs, method | step), wanted, 1e-7)


@pytest.mark.parametrize('name', PROBLEMS)
def test_the_exact_conditional_is_that_of_the_precision_matrix(name):
  """In coordinates u = (H x, N x), N x being what y leaves open: precision P gives P_oo^-1 and -P_oo^-1 P_oy y."""
  problem = PROBLEMS[name]
  m = len(problem.measure)
  turn = np.concatenate([problem.measure, np.linalg.svd(problem.measure)[2][m:]])
  back = np.linalg.inv(turn)
  precision = back.T @ np.linalg.inv(problem.covariance) @ back
  spread = np.linalg.inv(precision[m:, m:])
  wanted = Law(back[:, :m] - back[:, m:] @ spread @ precision[m:, :m], back[:, m:] @ spread @ back[:, m:].T)
  assert_same(gaussian_laws.exact_conditional(problem), wanted, 1e-9)
  np.testing.assert_allclose(problem.measure @ wanted.response, np.eye(m), atol=1e-9)


def test_frames_of_an_autoregressive_process_forget_all_but_the_last_given_one():
  problem = PROBLEMS['prediction']
  wanted = np.zeros((4, 4))
  wanted[:, 3] = 0.95 ** np.arange(1, 5)
  exact = gaussian_laws.exact_conditional(problem)
  np.testing.assert_allclose(exact.response[4:], wanted, atol=1e-12)
  np.testing.assert_allclose(np.diag(exact.covariance)[4:], 0.25 * (1 - wanted[:, 3] ** 2), atol=1e-12)


def test_the_picture_is_seen_through_the_librarys_downsampling():
  problem = PROBLEMS['super-resolution']
  pictures = np.eye(16, dtype=np.float32).reshape(16, 1, 4, 4, 1)
  np.testing.assert_array_equal(np.asarray(downsample(pictures, 2)).reshape(16, 4).T, problem.measure)


@pytest.mark.parametrize('name', PROBLEMS)
def test_scores_are_those_of_laws_in_closed_form(name):
  problem = PROBLEMS[name]
  exact = gaussian_laws.exact_conditional(problem)

  def scores(response, covariance):
    return list(gaussian_laws.score(problem, Law(response, covariance)).values())

  np.testing.assert_allclose(scores(*exact), 0, atol=1e-6)
  np.testing.assert_allclose(scores(exact.response, 0 * exact.covariance), [0, 1, 1], atol=1e-6)
  np.testing.assert_allclose(scores(exact.response, 4 * exact.covariance), [0, 3, 1], atol=1e-6)
  at = ~problem.seen
  observed = problem.measure @ problem.covariance @ problem.measure.T
  explained = np.trace(exact.response[at] @ observed @ exact.response[at].T)
  left = np.trace(exact.covariance[np.ix_(at, at)])
  np.testing.assert_allclose(scores(0.5 * exact.response, exact.covariance), [0.5, 0, 0.5 * np.sqrt(explained / left)])
  np.testing.assert_allclose(explained + left, 0.25 * at.sum())  # the law of total variance


def test_the_distance_of_gaussians_in_two_dimensions():
  """tr (A^1/2 B A^1/2)^1/2 is the root of tr AB + 2 sqrt(det AB) for 2 x 2 matrices."""
  first, second = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.7], [-0.7, 3.0]])
  crossed = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first @ second)))
  assert gaussian_laws.bures(first, second) == pytest.approx(7 - 2 * crossed, rel=1e-12)


def test_the_command(tmp_path, capsys):
  benchmark.main(['--steps=8,4', f'--out={tmp_path / "new" / "report.json"}'])
  report = json.loads(capsys.readouterr().out)
  assert report == json.loads((tmp_path / 'new' / 'report.json').read_text())
  assert (report['steps'], report['step'], report['gamma']) == ([8, 4], 'ancestral', 0.0)
  methods = [benchmark.methods_for(problem, 0.0) for problem in PROBLEMS.values()]
  places = [benchmark.place(case) for case in report['cases']]
  assert len(places) == len(set(places)) == 3 + 8 * sum(map(len, methods))
  assert all(np.isfinite([case[key] for key in benchmark.SCORES]).all() for case in report['cases'])
  assert len(report['claims']) == 4 * (4 + 4 + 1)
  benchmark.main(['--steps=8,4', '--table'])
  lines = capsys.readouterr().out.splitlines()
  rows = [line for line in lines if line.startswith('| interpolation | redraw |')]
  found = {benchmark.place(case): case for case in report['cases']}
  case, corrected = (found['interpolation', 'variance_preserving', 8, 'redraw', delta] for delta in (0.0, 0.1))
  assert len(rows) == 2 and f'| {case["mean_error"]:.3f} / {corrected["mean_error"]:.3f} |' in rows[0]
  assert len({line.count('|') for line in lines if line.startswith('|')}) == 1


def test_with_gamma_nothing_is_replaced(capsys):
  benchmark.main(['--steps=4', '--gamma=0.1'])
  methods = {case['method'] for case in json.loads(capsys.readouterr().out)['cases']}
  assert 'replacement' not in methods and 'redraw' in methods


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    (['--steps=64,many'], '--steps=64,many'),
    (['--steps=1'], '--steps=1'),
    (['--step=ddim', '--gamma=0.1'], '--gamma=0.1'),
  ],
)
def test_invalid_arguments_are_refused(argument, message, capsys):
  with pytest.raises(SystemExit):
    benchmark.main(argument)
  assert message in capsys.readouterr().err
