"""A working setup overfits eight clips; otherwise the fault that was introduced is the one that is named."""

from __future__ import annotations

import functools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import standin

from vdm_jax import checkpoints, data, diffusion, partitioning
from vdm_jax.runs import Run
from vdm_jax.tools import doctor
from vdm_jax.tools.doctor import captions, overfitting
from vdm_jax.tools.doctor.overfitting import Trainer
from vdm_jax.tools.doctor.symptoms import Fault
from vdm_jax.training import optimizer, state
from vdm_jax.types import Batch, Conditioning

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
STEPS = 400


def make_config(**training):
  config = standin.make_config(
    **{'learning_rate': 0.01, 'schedule': 'constant', 'warmup_steps': 20, 'condition_drop_rate': 0.0, 'log_every': 100}
    | training
  )
  config.data.text = 'none'
  return config


@pytest.fixture(scope='module')
def model():
  """At one noise level, as its few layers cannot fit all."""
  return standin.make_model(make_config())._replace(hidden=64, sample_logsnr=lambda rng, count: jnp.zeros(count))


@pytest.fixture(scope='module')
def batch():
  return standin.make_batch(0)


@pytest.fixture(scope='module')
def mesh():
  return partitioning.make_mesh({'data': -1})


@pytest.fixture(scope='module')
def references(model, batch):
  return overfitting.reference_losses(model, batch)


@pytest.fixture(scope='module')
def trainer(model, batch, mesh):
  """With a learning rate that is a thousand times too high."""
  return Trainer(model, make_config(learning_rate=10.0), mesh, batch)


@pytest.fixture(scope='module')
def healthy(trainer):
  return functools.cache(lambda rate, steps: trainer.run(1e-3 * rate, steps))


def test_a_healthy_training_has_no_fault(healthy, references):
  fault, line = overfitting.training_fault(healthy, references, 0.01, STEPS)
  assert fault is None
  assert line.startswith(f'8 clips, {STEPS} steps: loss ')


def test_a_learning_rate_too_high_is_reported_with_one_that_works(trainer, references):
  fault, _ = overfitting.training_fault(trainer.run, references, 10.0, STEPS)
  assert fault.name == 'learning rate too high'
  assert fault.text.startswith('at training.learning_rate=10 ')
  assert fault.text.endswith('set --config.training.learning_rate=0.01.')


def test_failing_at_every_learning_rate_is_a_fault(references):
  constant, nan = (lambda rate, steps, value=value: np.full(steps, value) for value in (references.moments, np.nan))
  fault, _ = overfitting.training_fault(constant, references, 1e-9, STEPS)
  assert fault.name == 'cannot overfit'
  fault, line = overfitting.training_fault(nan, references, 1.0, STEPS)
  assert fault.name == 'cannot overfit' and 'loss nan' in line


@pytest.mark.parametrize('rule', ['adam', 'lamb'])
def test_a_factor_on_the_learning_rate_scales_it(model, rule):
  params = model.init(jax.random.key(0))
  gradients = [jax.tree.map(lambda leaf, n=n: jnp.cos(n + 7 * leaf), params) for n in range(3)]

  def moved(rate, scale=None):
    optimizer_ = optimizer.build(make_config(optimizer=rule, learning_rate=rate).training)
    used = optimizer_ if scale is None else overfitting._scaled(optimizer_)
    held, current = used.init(params), params
    held = held if scale is None else (held[0], jnp.float32(scale))
    for step, gradient in enumerate(gradients):
      updates, held = used.update(gradient, held, current, jnp.int32(step + 30))
      current = jax.tree.map(jnp.add, current, updates)
    return current

  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved(0.5, 0.1), moved(0.05))
  apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), moved(0.5, 1.0), moved(0.05))
  assert min(jax.tree.leaves(apart)) > 0.01


def test_every_training_starts_from_the_initial_weights(trainer):
  np.testing.assert_array_equal(trainer.run(1e-3, 3), trainer.run(1e-3, 3))


def test_one_clip_is_memorized_without_error(model):
  """The posterior mean of one clip is that clip, so the loss is zero in every parameterization."""
  one = Batch(standin.make_batch(0).x[:1], Conditioning())
  for parameterization in (diffusion.predict_eps, diffusion.edm(0.5)):
    found = overfitting.reference_losses(model._replace(parameterization=parameterization), one)
    assert found.memorized < 1e-4 * found.moments


def test_the_estimate_by_moments_is_optimal_for_gaussian_clips(model):
  """For independent Gaussian pixels its loss is E[v^2] (1 - R^2), in closed form per noise level."""
  level = 1.0
  alpha2 = 1 / (1 + math.exp(-level))
  fixed = model._replace(sample_logsnr=lambda rng, count: jnp.full(count, level))
  x = 0.3 + 0.5 * np.random.default_rng(0).standard_normal((64, 4, 8, 8, 1)).astype(np.float32)
  variance = x.var()
  found = overfitting.reference_losses(fixed, Batch(x, Conditioning()))
  # v = alpha eps - sigma x, estimated from z = alpha x + sigma eps, has residual variance Var(x) / Var(z).
  assert found.moments == pytest.approx(variance / (alpha2 * variance + 1 - alpha2), rel=0.02)
  assert found.memorized < 0.01 * found.moments


def test_memorizing_two_clips_at_high_noise_has_its_closed_form(model):
  """For clips +m and -m the posterior mean is m tanh(alpha <m, z> / sigma^2), integrated on a grid here."""
  logsnr, pixels = -4.0, 2 * 2 * 2
  alpha, sigma = math.sqrt(1 / (1 + math.exp(4))), math.sqrt(1 / (1 + math.exp(-4)))
  fixed = model._replace(sample_logsnr=lambda rng, count: jnp.full(count, logsnr), parameterization=diffusion.predict_x)
  m = np.ones((1, 2, 2, 2, 1), np.float32)
  found = overfitting.reference_losses(fixed, Batch(np.concatenate([m, -m] * 64), Conditioning()))
  noise = np.linspace(-8, 8, 4001)
  density = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
  projected = alpha * pixels + sigma * math.sqrt(pixels) * noise  # <m, z> if the clip is m
  exact = np.sum(density * (1 - np.tanh(alpha * projected / sigma**2)) ** 2)
  assert found.memorized == pytest.approx(exact, rel=0.05)


def saved(workdir, params, step=3):
  with checkpoints.Checkpointer(workdir, 1) as checkpointer:
    checkpointer.save(step, {'ema': params})
    checkpointer.wait()
  return str(workdir)


def test_faults_of_checkpoints(model, batch, mesh, references, tmp_path):
  config = make_config()
  examine = functools.partial(overfitting.checkpoint_faults, model, config, batch=batch, references=references)
  fresh = state.create(model, optimizer.build(config.training), mesh, config.seed).params
  other = jax.tree.map(lambda leaf: leaf + 0.1, fresh)

  def name(workdir):
    (fault,) = examine(Run(workdir))
    return fault.name, fault.text

  (tmp_path / 'none').mkdir()
  found, text = name(str(tmp_path / 'none'))
  assert found == 'untrained checkpoint' and '/none has no checkpoint' in text
  found, text = name(saved(tmp_path / 'zero', other, step=0))
  assert found == 'untrained checkpoint' and 'step 0' in text
  found, text = name(saved(tmp_path / 'frozen', fresh))
  assert found == 'frozen EMA' and 'step 3,' in text and 'training.ema_decay' in text
  found, text = name(saved(tmp_path / 'noise', other))
  assert found == 'untrained checkpoint' and f'no better than {references.moments:.3g}' in text
  assert examine(Run(tmp_path / 'noise'), references=references._replace(moments=1e9)) == []


def shipped(name, changes):
  config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture
def untrained(monkeypatch):
  """Fail if a training is started."""
  monkeypatch.setattr(overfitting, 'Trainer', lambda *inputs: pytest.fail('a training was started'))


def clips(tmp_path, spoil):
  """Save clips of the digits, spoiled; returns the settings to load them."""
  found = data.examples(shipped('digits', {}).data, 'train', seed=0, count=32)
  np.save(tmp_path / 'clips.npy', spoil(np.stack([clip.video for clip in found])))
  return {
    'data.name': 'array',
    'data.path': str(tmp_path / 'clips.npy'),
    'data.frame_rate': 8.0,
    'data.text': 'none',
    'data.num_images': 0,
  }


@pytest.mark.usefixtures('untrained')
@pytest.mark.parametrize(
  ('spoil', 'size', 'name'),
  [
    (lambda video: video // 255, (8, 16), 'wrong range of x'),
    (lambda video: video.transpose(0, 2, 1, 3, 4), (16, 8), 'wrong order of axes'),
  ],
)
def test_faulty_clips_are_reported_without_training(tmp_path, spoil, size, name):
  frames, height = size
  changes = clips(tmp_path, spoil) | {'data.num_frames': frames, 'data.height': height, 'data.width': 16}
  found = doctor.overfit(shipped('digits', changes))
  assert [fault.name for fault in found.faults] == [name]
  assert str(found).splitlines()[-2].startswith('not trained')


@pytest.mark.usefixtures('untrained')
def test_faults_of_settings_are_reported_together(monkeypatch):
  class Shuffled(data.ExampleClips):
    """Each clip has the caption of another."""

    def __getitem__(self, index):
      return super().__getitem__(index)._replace(caption=super().__getitem__(index + 1000).caption)

  monkeypatch.setattr(data, 'ExampleClips', Shuffled)
  changes = {
    'model.parameterization': 'edm',
    'model.sigma_data': 20.0,
    'training.ema_decay': 0.99999,
    'training.ema_warmup': False,
  }
  found = doctor.overfit(shipped('digits', changes))
  assert [fault.name for fault in found.faults] == ['wrong sigma_data', 'frozen EMA', 'shuffled captions']


def test_mismatched_captions_are_reported_and_training_runs_all_the_same(monkeypatch):
  fault = Fault('shuffled captions', 'they are.')
  trained = []

  class Quick:
    minutes, run = lambda self, steps: 0.0, lambda self, rate, steps: trained.append(rate) or np.zeros(steps)

  monkeypatch.setattr(captions, 'examine', lambda config: (fault, 'captions: 40 of 512 clips'))
  monkeypatch.setattr(overfitting, 'reference_losses', lambda *inputs: overfitting.ReferenceLosses(1.0, 0.0))
  monkeypatch.setattr(overfitting, 'Trainer', lambda *inputs: Quick())
  found = doctor.overfit(shipped('digits', {}))
  assert found.faults == [fault] and trained == [1.0]
  assert str(found).splitlines()[1] == 'captions: 40 of 512 clips'
  assert str(found).splitlines()[-1] == 'problem: shuffled captions: they are.'


def test_several_processes_are_an_error(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='^--overfit .* 2 processes'):
    doctor.overfit(shipped('digits', {}))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['digits', 'digits_fit'])
@pytest.mark.timeout(3600)
def test_shipped_configurations_overfit_eight_clips(name):
  found = doctor.overfit(shipped(name, {}))
  assert found.faults == []
  assert found.lines[-1].startswith('8 clips, 400 steps: loss ')


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'rate'), [('digits', 2.0), ('digits_fit', 50.0)])
@pytest.mark.timeout(3600)
def test_a_learning_rate_too_high_is_reported_for_both_networks(name, rate):
  (fault,) = doctor.overfit(shipped(name, {'training.learning_rate': rate})).faults
  assert fault.name == 'learning rate too high'
