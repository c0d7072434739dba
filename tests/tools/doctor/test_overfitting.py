"""Eight clips are learnt where all is well; where it is not, the fault that was put in is the one that is named."""

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
  """At one noise level, for its few layers cannot serve all."""
  return standin.make_model(make_config())._replace(hidden=64, sample_logsnr=lambda rng, count: jnp.zeros(count))


@pytest.fixture(scope='module')
def batch():
  return standin.make_batch(0)


@pytest.fixture(scope='module')
def mesh():
  return partitioning.make_mesh({'data': -1})


@pytest.fixture(scope='module')
def scale(model, batch):
  return overfitting.measure_scale(model, batch)


@pytest.fixture(scope='module')
def trainer(model, batch, mesh):
  """At a learning rate a thousand times too high, so that 0.001 of it is a good one."""
  return Trainer(model, make_config(learning_rate=10.0), mesh, batch)


@pytest.fixture(scope='module')
def healthy(trainer):
  return functools.cache(lambda rate, steps: trainer.run(1e-3 * rate, steps))


def test_a_healthy_training_has_no_fault(healthy, scale):
  fault, said = overfitting.judge(healthy, scale, 0.01, STEPS)
  assert fault is None
  assert said.startswith(f'8 clips, {STEPS} steps: loss ')


def test_a_learning_rate_too_high_is_named_with_one_that_is_not(trainer, scale):
  fault, _ = overfitting.judge(trainer.run, scale, 10.0, STEPS)
  assert fault.name == 'learning rate too high'
  assert fault.text.startswith('at training.learning_rate=10 ')
  assert fault.text.endswith('set --config.training.learning_rate=0.01.')


def test_what_is_learnt_at_no_rate_is_said_to_be_so(scale):
  fault, _ = overfitting.judge(lambda rate, steps: np.full(steps, scale.blank), scale, 1e-9, STEPS)
  assert fault.name == 'cannot overfit'
  fault, said = overfitting.judge(lambda rate, steps: np.full(steps, np.nan), scale, 1.0, STEPS)
  assert fault.name == 'cannot overfit' and 'loss nan' in said


@pytest.mark.parametrize('rule', ['adam', 'lamb'])
def test_a_factor_on_the_rate_is_a_rate(model, rule):
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


def test_training_begins_afresh_every_time(trainer):
  np.testing.assert_array_equal(trainer.run(1e-3, 3), trainer.run(1e-3, 3))


def test_one_clip_is_known_without_error(model):
  """Of one clip the posterior is that clip: nothing is left of the loss, whatever the network predicts."""
  one = Batch(standin.make_batch(0).x[:1], Conditioning())
  for parameterization in (diffusion.predict_eps, diffusion.edm(0.5)):
    found = overfitting.measure_scale(model._replace(parameterization=parameterization), one)
    assert found.known < 1e-4 * found.blank


def test_knowing_mean_and_spread_is_right_for_gaussian_clips(model):
  """Of independent Gaussian pixels it is the best there is: a loss of E[v^2] (1 - R^2), in closed form per level."""
  level = 1.0
  alpha2 = 1 / (1 + math.exp(-level))
  fixed = model._replace(sample_logsnr=lambda rng, count: jnp.full(count, level))
  x = 0.3 + 0.5 * np.random.default_rng(0).standard_normal((64, 4, 8, 8, 1)).astype(np.float32)
  variance = x.var()
  found = overfitting.measure_scale(fixed, Batch(x, Conditioning()))
  # v = alpha eps - sigma x, estimated from z = alpha x + sigma eps: what is left is Var(x) / Var(z).
  assert found.blank == pytest.approx(variance / (alpha2 * variance + 1 - alpha2), rel=0.02)
  assert found.known < 0.01 * found.blank


def test_two_clips_at_high_noise_are_told_apart_as_the_closed_form_says(model):
  """Clips +m and -m: the posterior mean is m tanh(alpha <m, z> / sigma^2), here integrated on a grid."""
  logsnr, pixels = -4.0, 2 * 2 * 2
  alpha, sigma = math.sqrt(1 / (1 + math.exp(4))), math.sqrt(1 / (1 + math.exp(-4)))
  fixed = model._replace(sample_logsnr=lambda rng, count: jnp.full(count, logsnr), parameterization=diffusion.predict_x)
  m = np.ones((1, 2, 2, 2, 1), np.float32)
  found = overfitting.measure_scale(fixed, Batch(np.concatenate([m, -m] * 64), Conditioning()))
  noise = np.linspace(-8, 8, 4001)
  density = np.exp(-(noise**2) / 2) / np.exp(-(noise**2) / 2).sum()
  projected = alpha * pixels + sigma * math.sqrt(pixels) * noise  # <m, z> where the clip is m
  exact = np.sum(density * (1 - np.tanh(alpha * projected / sigma**2)) ** 2)
  assert found.known == pytest.approx(exact, rel=0.05)


def saved(workdir, params, step=3):
  with checkpoints.Checkpointer(workdir, 1) as checkpointer:
    checkpointer.save(step, {'ema': params})
    checkpointer.wait()
  return str(workdir)


def test_checkpoints_are_judged_by_their_weights(model, batch, mesh, scale, tmp_path):
  config = make_config()
  examine = functools.partial(overfitting.examine_checkpoint, model, config, batch=batch, scale=scale)
  fresh = state.create(model, optimizer.build(config.training), mesh, config.seed).params
  other = jax.tree.map(lambda leaf: leaf + 0.1, fresh)

  def name(workdir):
    (fault,) = examine(Run(workdir))
    return fault.name, fault.text

  (tmp_path / 'none').mkdir()
  found, text = name(str(tmp_path / 'none'))
  assert found == 'untrained checkpoint' and text.endswith('/none has no checkpoint: train first.')
  found, text = name(saved(tmp_path / 'zero', other, step=0))
  assert found == 'untrained checkpoint' and text.endswith('is of step 0: train first.')
  found, text = name(saved(tmp_path / 'frozen', fresh))
  assert found == 'frozen EMA' and 'step 3, is still that of the start' in text
  found, text = name(saved(tmp_path / 'noise', other))
  assert found == 'untrained checkpoint' and f'no better than the {scale.blank:.3g}' in text
  assert examine(Run(tmp_path / 'noise'), scale=scale._replace(blank=1e9)) == []


def shipped(name, changes):
  config = runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']()
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture
def untrained(monkeypatch):
  """Fails where a training is begun."""
  monkeypatch.setattr(overfitting, 'Trainer', lambda *inputs: pytest.fail('a training is begun'))


def clips(tmp_path, spoil):
  """The path of an array of clips of the digits, spoilt."""
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
def test_faulty_clips_are_named_before_any_training(tmp_path, spoil, size, name):
  frames, height = size
  changes = clips(tmp_path, spoil) | {'data.num_frames': frames, 'data.height': height, 'data.width': 16}
  found = doctor.overfit(shipped('digits', changes))
  assert [fault.name for fault in found.faults] == [name]
  assert str(found).splitlines()[-2] == 'not trained: mend what was found first'


@pytest.mark.usefixtures('untrained')
def test_faults_of_settings_are_named_together(monkeypatch):
  class MixedUp(data.ExampleClips):
    """Each clip has the caption of another one."""

    def __getitem__(self, index):
      return super().__getitem__(index)._replace(caption=super().__getitem__(index + 1000).caption)

  monkeypatch.setattr(data, 'ExampleClips', MixedUp)
  changes = {
    'model.parameterization': 'edm',
    'model.sigma_data': 20.0,
    'training.ema_decay': 0.99999,
    'training.ema_warmup': False,
  }
  found = doctor.overfit(shipped('digits', changes))
  assert [fault.name for fault in found.faults] == ['wrong sigma_data', 'frozen EMA', 'shuffled captions']


def test_captions_that_do_not_fit_are_named_and_keep_nothing_from_being_trained(monkeypatch):
  named = Fault('shuffled captions', 'they are.')
  trained = []

  class Quick:
    minutes, run = lambda self, steps: 0.0, lambda self, rate, steps: trained.append(rate) or np.zeros(steps)

  monkeypatch.setattr(captions, 'examine', lambda config: (named, 'captions: 40 of 512 clips'))
  monkeypatch.setattr(overfitting, 'measure_scale', lambda *inputs: overfitting.Scale(1.0, 0.0))
  monkeypatch.setattr(overfitting, 'Trainer', lambda *inputs: Quick())
  found = doctor.overfit(shipped('digits', {}))
  assert found.faults == [named] and trained == [1.0]
  assert str(found).splitlines()[1] == 'captions: 40 of 512 clips'
  assert str(found).splitlines()[-1] == 'problem: shuffled captions: they are.'


def test_several_processes_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='^--overfit was started by 2 processes: run it on one machine alone.$'):
    doctor.overfit(shipped('digits', {}))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['digits', 'digits_fit'])
@pytest.mark.timeout(3600)
def test_what_is_shipped_learns_eight_clips(name):
  found = doctor.overfit(shipped(name, {}))
  assert found.faults == []
  assert found.lines[-1].startswith('8 clips, 400 steps: loss ')


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'rate'), [('digits', 2.0), ('digits_fit', 50.0)])
@pytest.mark.timeout(3600)
def test_of_both_networks_a_learning_rate_too_high_is_named(name, rate):
  (fault,) = doctor.overfit(shipped(name, {'training.learning_rate': rate})).faults
  assert fault.name == 'learning rate too high'
