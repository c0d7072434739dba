"""Laws of one training step: the same draws however the batch is split, and no change by a bad batch."""

from __future__ import annotations

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import standin
from helpers.process_group import virtual
from helpers.standin import make_batch, make_config, make_model

from vdm_jax import configuration, diffusion, partitioning
from vdm_jax.training import make_heldout_loss, make_train_step, metrics, optimizer, spikes, state
from vdm_jax.training.example import tiny_step
from vdm_jax.training.step import drop_conditions, make_gradient
from vdm_jax.types import Batch, Conditioning


def run(config, steps=5, mesh=None, batch_of=make_batch, model=None):
  """Return the state and the metrics after each step."""
  mesh = mesh or partitioning.make_mesh({'data': -1})
  model = model or make_model(config)
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  current = state.create(model, rule, mesh, config.seed)
  key = jax.random.key(config.seed)
  history = []
  with jax.set_mesh(mesh):
    step = jax.jit(make_train_step(model, rule, config.training, mesh))
    for k in range(steps):
      current, measured = step(current, partitioning.put_batch(batch_of(k), mesh), key)
      history.append((current, measured))
  return history


def assert_close(a, b, tolerance=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(('parts', 'self_condition_rate'), [(4, 0.0), (2, 0.6)])
def test_micro_batches_draw_the_noise_of_the_whole_batch(parts, self_condition_rate):
  settings = {'self_condition_rate': self_condition_rate, 'schedule': 'constant'}
  whole = run(make_config(**settings))
  cut = run(make_config(accumulation_steps=parts, **settings))
  for (a, measured_a), (b, measured_b) in zip(whole, cut, strict=True):
    assert_close(a._replace(sums=None), b._replace(sums=None))
    assert_close(measured_a, measured_b, 2e-6)


def test_two_runs_of_one_seed_are_equal_bit_for_bit_and_seeds_differ():
  first, second = run(make_config())[-1], run(make_config())[-1]
  assert_same(first, second)
  config = make_config()
  config.seed = 4
  assert float(run(config)[-1][1]['loss']) != float(first[1]['loss'])


def test_every_step_has_its_own_noise():
  losses = {
    float(measured['loss'])
    for _, measured in run(make_config(learning_rate=0.0, weight_decay=0.0), 6, batch_of=lambda k: make_batch(0))
  }
  assert len(losses) == 6


def test_dropout_acts_only_if_the_model_has_any():
  plain = make_config()
  dropping = make_config()
  dropping.model.dropout = 0.5
  assert float(run(plain)[0][1]['loss']) != float(run(dropping)[0][1]['loss'])
  zero = make_config()
  zero.model.dropout = 0.0
  assert_same(run(plain)[-1], run(zero)[-1])


def test_every_micro_batch_and_step_has_its_own_dropout_key():
  config = make_config(accumulation_steps=2)
  config.model.dropout = 0.5
  seen = []

  class Recording(standin.Standin):
    def network(self, params, dropout_rng=None):
      jax.debug.callback(lambda key: seen.append(tuple(key.tolist())), jax.random.key_data(dropout_rng))
      return standin.Standin.network(self, params, dropout_rng=dropout_rng)

  run(config, 3, model=Recording(config=config.model.to_dict()))
  jax.effects_barrier()
  assert len(seen) == len(set(seen)) == 6


class Poisoned:
  """The stand-in, but its gradient is not finite, though its loss is, once pixels exceed 50."""

  def __init__(self, model):
    self._model = model

  def __getattr__(self, name):
    return getattr(self._model, name)

  def network(self, params, dropout_rng=None):
    inner = self._model.network(params, dropout_rng=dropout_rng)

    def network(x, logsnr, cond, carry):
      out, carry = inner(x, logsnr, cond, carry)
      good = jnp.where(jnp.max(x) > 50, 0.0, 1.0)
      return out + jnp.sqrt(good * (1 + params['leave']['bias'][0])) - jnp.sqrt(good), carry

    return network


ANY_RULE = [{}, {'optimizer': 'adafactor', 'weight_decay': 0.0}, {'optimizer': 'lion', 'weight_decay': 0.0}]


@pytest.mark.parametrize('where', ['loss', 'gradient'])
@pytest.mark.parametrize('rule', ANY_RULE, ids=['adam', 'adafactor', 'lion'])
def test_a_bad_batch_changes_nothing_and_the_next_good_one_counts(where, rule):
  """It is skipped bitwise and counted, and later steps are not affected."""

  def batch_of(k):
    batch = make_batch(k)
    return batch._replace(x=batch.x * np.float32({'loss': np.nan, 'gradient': 1e6}[where])) if k == 2 else batch

  config = make_config(log_every=100, **rule)
  history = run(config, 4, batch_of=batch_of, model=Poisoned(make_model(config)))
  before, after, recovered = (history[k][0] for k in (1, 2, 3))
  assert np.isfinite(float(history[2][1]['loss'])) == (where == 'gradient')
  for name in ('params', 'opt_state', 'ema', 'updates'):
    assert_same(getattr(before, name), getattr(after, name))
  assert (int(after.step), int(after.updates)) == (3, 2)
  assert float(after.sums['skipped']) == 1
  for name in ('loss', 'gradient_norm', 'update_norm', 'band_loss', 'band_count'):
    assert_same(before.sums[name], after.sums[name])
  assert (int(recovered.step), int(recovered.updates)) == (4, 3)
  assert not np.array_equal(recovered.params['enter']['kernel'], after.params['enter']['kernel'])
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(recovered))


def test_a_spike_is_skipped_with_any_optimizer(monkeypatch):
  monkeypatch.setattr(spikes, 'WINDOW', 2)

  def batch_of(k):
    return make_batch(k)._replace(x=make_batch(k).x * np.float32(1e4 if k == 3 else 1))

  config = make_config(spike_factor=10.0, **ANY_RULE[1])
  before, after, end = (state for state, _ in run(config, 5, batch_of=batch_of)[2:])
  for name in ('params', 'opt_state', 'ema', 'updates'):
    assert_same(getattr(before, name), getattr(after, name))
  assert float(after.sums['spikes']) == 1 and int(end.updates) == 4


def test_nan_parameters_never_reach_the_average():
  config = make_config()
  model = make_model(config)
  mesh = partitioning.make_mesh({'data': -1})
  rule = optimizer.build(config.training, model.logical_axes, model.decay_mask)
  start = state.create(model, rule, mesh, 0)
  broken = start._replace(params=jax.tree.map(lambda p: p * jnp.nan, start.params))
  with jax.set_mesh(mesh):
    step = jax.jit(make_train_step(model, rule, config.training, mesh))
    after, _ = step(broken, partitioning.put_batch(make_batch(0), mesh), jax.random.key(0))
  assert_same(after.ema, start.ema)
  assert float(after.sums['skipped']) == 1


def test_the_sums_are_those_of_the_window():
  history = run(make_config(log_every=3), 7)
  losses = [float(measured['loss']) for _, measured in history]
  for k, (current, measured) in enumerate(history):
    window = losses[k - k % 3 : k + 1]
    assert float(measured['sums']['loss']) == pytest.approx(sum(window), rel=1e-6)
    assert float(measured['sums']['steps']) == len(window)
    assert float(np.sum(measured['sums']['band_count'])) == len(window) * standin.BATCH_SIZE
    assert_same(current.sums, measured['sums'])


def test_logged_norms_are_the_norms():
  config = make_config(optimizer='adam', clip_norm=0.0, log_every=1)
  (before, _), (after, measured) = run(config, 2)
  row = metrics.row(measured['sums'])
  moved = jax.tree.map(jnp.subtract, after.params, before.params)
  norm = lambda tree: math.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(tree)))  # noqa: E731
  assert row['train/parameter_norm'] == pytest.approx(norm(after.params), rel=1e-5)
  assert row['train/update_norm'] == pytest.approx(norm(moved), rel=1e-4)
  first = after.opt_state[0].mu, before.opt_state[0].mu
  gradient = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, *first)
  assert row['train/gradient_norm'] == pytest.approx(norm(gradient), rel=1e-4)
  assert row['train/learning_rate'] == pytest.approx(0.01)


def test_conditions_are_dropped_at_the_rate_per_example_and_segment_and_marks_are_kept():
  label = np.zeros((4000, 3), np.int32)
  kept = np.zeros((4000, 3), bool)
  kept[:, 0] = True
  drop = np.asarray(drop_conditions(Conditioning(label=label, drop=kept), jax.random.key(0), 0.2).drop)
  assert drop[:, 0].all()
  rates = drop[:, 1:].mean(0)
  np.testing.assert_allclose(rates, 0.2, atol=4 * math.sqrt(0.16 / 4000))
  together = (drop[:, 1] & drop[:, 2]).mean()
  assert together == pytest.approx(0.04, abs=4 * math.sqrt(0.04 / 4000))  # segments are independent


def test_without_text_or_label_nothing_is_dropped():
  cond = Conditioning(drop=np.zeros((4, 1), bool))
  assert drop_conditions(cond, jax.random.key(0), 0.9) is cond
  labelled = Conditioning(label=np.zeros((4, 1), np.int32))
  assert drop_conditions(labelled, jax.random.key(0), 0.0) is labelled


def test_the_heldout_loss_is_a_function_of_the_parameters_alone():
  config = make_config()
  model, mesh = make_model(config), partitioning.make_mesh({'data': -1})
  batches = [make_batch(k) for k in (100, 101, 102)]
  good, worse = (jax.tree.map(lambda x, f=f: f * x, model.init(jax.random.key(1))) for f in (1, 3))
  first, second = (make_heldout_loss(model, config.training, batches, mesh) for _ in range(2))
  assert first(good) == second(good) == first(good)
  assert first(good)['heldout/loss'] < first(worse)['heldout/loss']
  assert 'heldout/loss_logsnr_-2_2' in first(good)


def test_the_heldout_levels_are_quantiles_of_the_training_distribution():
  """Their times on the cosine schedule are spread evenly, so the mean loss is an integral over time."""
  config = make_config()
  levels = []

  class Recording(standin.Standin):
    def network(self, params, dropout_rng=None):
      def network(x, logsnr, cond, carry):
        jax.debug.callback(lambda v: levels.extend(np.asarray(v).tolist()), logsnr)
        return jnp.zeros_like(x), None

      return network

  mesh = partitioning.make_mesh({'data': -1})
  model = Recording(config=config.model.to_dict())
  loss = make_heldout_loss(model, config.training, [make_batch(k) for k in range(4)], mesh)
  row = loss({'kernel': jnp.zeros(1)})
  jax.effects_barrier()
  times = np.sort(np.arctan(np.exp(-0.5 * np.array(levels))) * 2 / np.pi)
  count = 4 * standin.BATCH_SIZE
  np.testing.assert_allclose(times, (np.arange(count) + 0.5) / count, atol=0.5 / count)
  # A network that says 0 has the loss E|v|^2 = alpha^2 + sigma^2 E x^2, here with E x^2 = .14 or so.
  assert 0.3 < row['heldout/loss'] < 0.9


ON_FOUR = """
import jax, numpy as np
import test_step
from helpers import standin
from vdm_jax.partitioning import make_mesh
adam = standin.make_config(num_steps=20)
lamb = standin.make_config(num_steps=20, optimizer='lamb', accumulation_steps=2)
square = {'data': 2, 'fsdp': 2}
meshes = [({'data': 4}, {'fsdp': 4}, square), (square, {'fsdp': 2, 'tensor': 2})]
for config, sizes in zip((adam, lamb), meshes):
  one = test_step.run(config, 20, make_mesh({'data': 1}, jax.devices()[:1]))
  for size in sizes:
    many = test_step.run(config, 20, make_mesh(size))
    for (a, measured_a), (b, measured_b) in zip(one, many, strict=True):
      test_step.assert_close(jax.device_get(a._replace(sums=None)), jax.device_get(b._replace(sums=None)))
      np.testing.assert_allclose(measured_a['loss'], measured_b['loss'], rtol=2e-6)
    kernel = many[-1][0].opt_state[1].mu['leave']['kernel']
    print(config.training.optimizer, size, kernel.addressable_shards[0].data.shape)
"""


def test_four_devices_train_as_one_does():
  """Plain and accumulated, over 20 steps, parameters, moments and averages."""
  result = subprocess.run([sys.executable, '-c', ON_FOUR], env=virtual(4), capture_output=True, text=True, timeout=280)
  assert result.returncode == 0, result.stdout + result.stderr
  # Moments are split as their parameters are: [16 hidden, 32 pixels], 'mlp' on tensor and 'embed' on fsdp.
  assert result.stdout.splitlines() == [
    "adam {'data': 4} (16, 32)",
    "adam {'fsdp': 4} (16, 8)",
    "adam {'data': 2, 'fsdp': 2} (16, 16)",
    "lamb {'data': 2, 'fsdp': 2} (16, 16)",
    "lamb {'fsdp': 2, 'tensor': 2} (8, 16)",
  ]


def test_a_mask_leaves_entries_out_of_the_loss():
  """Ones change nothing, zeros leave no loss, and the mean of two complementary masks is that of all entries."""

  def loss(mask):
    def batch_of(k):
      batch = make_batch(k)
      return batch if mask is None else batch._replace(mask=mask(np.asarray(batch.x)).astype(np.float32))

    ((_, measured),) = run(make_config(), steps=1, batch_of=batch_of)
    return float(measured['loss'])

  whole = loss(None)
  assert loss(np.ones_like) == pytest.approx(whole, rel=1e-6)
  assert loss(np.zeros_like) == 0
  first = np.arange(math.prod(make_batch(0).x.shape[1:])).reshape(make_batch(0).x.shape[1:]) % 2
  halves = [loss(lambda x, part=part: np.broadcast_to(part, x.shape)) for part in (first, 1 - first)]
  assert abs(halves[0] - halves[1]) > 1e-4 and sum(halves) / 2 == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize('pattern', ['independent', 'given'])
def test_levels_of_frames_are_trained_and_micro_batches_draw_those_of_the_whole(pattern):
  """Bands count every frame that has a loss, and given frames have none."""
  model, _, training, mesh, _, batch = tiny_step()
  model = model._replace(config=model.config | {'frame_logsnr': pattern})
  batch = jax.tree.map(lambda x: jnp.concatenate([x] * 8), batch)
  params = jax.tree.map(lambda x: x + 0.1, model.init(jax.random.key(0)))
  with jax.set_mesh(mesh), training.unlocked():
    whole = jax.jit(make_gradient(model, training, mesh))(params, batch, jax.random.key(3))
    training.accumulation_steps = 2
    parts = jax.jit(make_gradient(model, training, mesh))(params, batch, jax.random.key(3))
  assert_close(parts, whole, 1e-5)
  loss, about, _ = whole
  np.testing.assert_allclose(about['per_frame'].mean(), loss, rtol=1e-5)
  given = about['logsnr'] == 20
  assert given.any() == (pattern == 'given') and (about['per_frame'] > 0).all(where=~given)
  assert not about['per_frame'][given].any()


def test_images_with_a_sigma_in_of_their_own_are_trained_as_if_alone():
  """The loss of an appended image equals that of its process at its level, for any network: Snap Table 3 (iv)."""
  config = configuration.default('unet3d').model
  config.update(
    process='input_scaled', sigma_in=4.0, image_sigma_in=1.0, frame_logsnr='images', parameterization='snap'
  )
  config = config.to_dict() | {'logsnr': 'lognormal', 'height': 8, 'pad_rows': 0}

  class Halving(standin.Standin):
    def network(self, params, dropout_rng=None):
      def network(x, logsnr, cond, carry):
        return 0.5 * x, carry

      return network

  sample = diffusion.lognormal_sampler(sigma_in=4.0)
  snap, scaled = diffusion.snap(1.0), diffusion.input_scaled
  model = Halving(config=config, process=scaled(4.0), parameterization=snap, sample_logsnr=sample)
  x = np.random.default_rng(0).normal(0, 0.5, (4, 3, 8, 8, 1)).astype(np.float32)
  batch = Batch(x, Conditioning(drop=np.zeros((4, 3), bool)))
  mesh, training = partitioning.make_mesh({'data': -1}), make_config().training
  with jax.set_mesh(mesh):
    _, about, _ = make_gradient(model, training, mesh)({}, batch, jax.random.key(5))
  levels, keys = about['logsnr'], jax.random.split(jax.random.split(jax.random.key(5), 4)[1], 4)
  assert levels.shape == (4, 3)
  for frame, sigma_in in ((0, 4.0), (1, 1.0), (2, 1.0)):
    _, alone = diffusion.denoising_loss(
      lambda x, logsnr, cond, carry: (0.5 * x, carry),
      x,
      None,
      keys,
      process=scaled(sigma_in),
      parameterization=snap,
      logsnr=jnp.broadcast_to(levels[:, frame : frame + 1], (4, 3)),
    )
    np.testing.assert_allclose(about['per_frame'][:, frame], alone['per_frame'][:, frame], rtol=1e-4)
