"""Overfitting on eight clips, which every working training setup can do; if it fails, the fault is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from vdm_jax import checkpoints, configuration, data, models, partitioning
from vdm_jax.diffusion import denoising_loss
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.tools.doctor import captions, symptoms
from vdm_jax.tools.doctor.checks import problems, words
from vdm_jax.tools.doctor.symptoms import Fault
from vdm_jax.training import optimizer, state
from vdm_jax.training.optimizer import Optimizer
from vdm_jax.training.step import jit_train_step, with_low_resolution
from vdm_jax.types import Array, Batch, Carry, Conditioning, Network, Params

CLIPS = 8
STEPS = 400
# Required fraction of the way from the loss of an estimate by mean and variance to that of memorized clips. In training
# on all clips of the digits, both the README's U-Net and FIT reach 0.55 after 400 steps.
REQUIRED = 0.5
LOWER_RATES = (0.1, 0.01, 1e-3)  # factors on the learning rate, tried if it fails
DRAWS = 256  # draws of noise and noise level per loss
MAX_MINUTES = 30.0  # longer trainings on a CPU are not started


class Findings(NamedTuple):
  """Faults, and lines with what was measured."""

  faults: list[Fault]
  lines: list[str]

  def __str__(self) -> str:
    named = [f'problem: {fault.name}: {fault.text}' for fault in self.faults]
    return '\n'.join([*self.lines, *(named or ['no problem found'])])


class ReferenceLosses(NamedTuple):
  """The losses between which that of an overfitting network lies."""

  moments: float  # of the estimate from mean and variance of the clips
  memorized: float  # of the best estimate for these clips, without captions

  def progress(self, loss: float) -> float:
    """Return the fraction of the way from the first to the second; -inf for a loss that is not finite."""
    return (self.moments - loss) / (self.moments - self.memorized) if np.isfinite(loss) else -np.inf


def overfit(config: ConfigDict, run: Run | None = None, *, steps: int = STEPS) -> Findings:
  """Check the clips of a configuration, then train its network on eight of them.

  Faults that need no training are looked for first. If there are any, nothing is trained; mismatched captions are an
  exception, as eight clips can be overfit with any captions. Only batch size, accumulation and learning-rate schedule
  (constant after a short warmup) differ from the configuration.

  Args:
    config: the experiment.
    run: a run, whose EMA weights are checked too.
    steps: training steps.

  Raises:
    ValueError: `problems` finds any, or there are several processes.
  """
  if jax.process_count() > 1:
    raise ValueError(f'--overfit does not support {jax.process_count()} processes: run it in one process.')
  if wrong := problems(config):
    raise ValueError(wrong[0])
  config = _overfitting_config(config, steps)
  model = models.build(config.model)
  mesh = partitioning.make_mesh(config.mesh)
  batch = _first_clips(config, model, mesh)
  faults, line = measure(config, batch)
  lines, mismatch = [line], []
  if config.data.text != 'none':
    fault, line = captions.examine(config)
    mismatch, lines = [fault] if fault else [], [*lines, line]
  references = None if faults else reference_losses(model, batch)
  if run is not None and not faults:
    faults += checkpoint_faults(model, config, run, batch, references)
  if faults:
    return Findings([*faults, *mismatch], [*lines, 'not trained: fix the faults first'])
  trainer = Trainer(model, config, mesh, batch)
  if (minutes := trainer.minutes(steps)) > MAX_MINUTES and jax.default_backend() == 'cpu':
    return Findings(
      mismatch,
      [
        *lines,
        f'not trained: {steps} steps would take {minutes:.0f} minutes on this CPU: use an accelerator or a smaller '
        'network.',
      ],
    )
  fault, line = training_fault(trainer.run, references, config.training.learning_rate, steps)
  return Findings([*mismatch, fault] if fault else mismatch, [*lines, line])


def measure(config: ConfigDict, batch: Batch) -> tuple[list[Fault], str]:
  """Return the faults of clips and settings that are found without training, and a line on the clips."""
  videos = np.asarray(batch.x)[:, : config.data.num_frames]
  found = [
    symptoms.wrong_range(videos) if config.data.normalization in ('pixels', 'range') else None,
    symptoms.wrong_axes(videos),
    symptoms.wrong_sigma_data(videos, config.model),
    symptoms.frozen_ema(config.training, state.ema_decay(config.training)),
  ]
  line = f'clips: {len(videos)}, range {videos.min():.3g} to {videos.max():.3g}, standard deviation {videos.std():.2g}'
  return [fault for fault in found if fault], line


def reference_losses(model: Model, batch: Batch) -> ReferenceLosses:
  """Return the losses of two ideal denoisers of a batch, at the noise levels of training.

  They are those of a Gaussian with the mean and variance of all pixels, and of the empirical distribution of the clips.
  """
  x = jnp.asarray(batch.x)
  mean, variance = jnp.mean(x), jnp.var(x)

  def from_moments(z: Array, alpha: Array, sigma: Array) -> Array:
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (z - alpha * mean)

  def from_memory(z: Array, alpha: Array, sigma: Array) -> Array:
    """Posterior mean of the clips given z."""
    distance = jnp.sum(jnp.square(z[:, None] - alpha[:, None] * x), (2, 3, 4, 5))
    return jnp.einsum('bn,nthwc->bthwc', jax.nn.softmax(-distance / (2 * sigma[:, :1, 0, 0, 0] ** 2)), x)

  return ReferenceLosses(
    *(loss_of(model, _as_network(model, estimate), batch) for estimate in (from_moments, from_memory))
  )


def loss_of(model: Model, network: Network, batch: Batch) -> float:
  """Return the mean training loss of a network on a batch over DRAWS draws."""
  repeats = max(1, DRAWS // len(batch.x))

  @jax.jit
  def mean_loss(batch: Batch) -> Array:
    def one(rng: Array) -> Array:
      keys = jax.random.split(rng, len(batch.x))
      cond = (
        batch.cond
        if model.upsampling == 1
        else with_low_resolution(batch, model.upsampling, keys, model.config['downsampling'])
      )
      return denoising_loss(
        network,
        batch.x,
        cond,
        keys,
        process=model.process,
        parameterization=model.parameterization,
        logsnr=model.sample_logsnr(jax.random.fold_in(rng, 1), len(batch.x)),
      )[0]

    return jnp.mean(jax.lax.map(one, jax.random.split(jax.random.key(0), repeats)))

  return float(mean_loss(batch))


class Trainer:
  """Training of a configuration on one batch, with a step compiled once for all learning rates."""

  def __init__(self, model: Model, config: ConfigDict, mesh: Mesh, batch: Batch):
    self._mesh, self._batch = mesh, partitioning.put_batch(batch, mesh)
    rule = _scaled(optimizer.build(config.training, model.logical_axes, model.decay_mask))
    first = state.create(model, rule, mesh, config.seed)
    self._layout = state.shardings(first)
    self._first = jax.device_get(first)
    self._step = jit_train_step(model, rule, config.training, mesh, first)
    self._key = jax.random.key(config.seed)

  def minutes(self, steps: int) -> float:
    """Return how many minutes `steps` would take, from the time of two steps after the first."""
    self._losses(1.0, 1)
    started = time.perf_counter()
    self._losses(1.0, 2)
    return (time.perf_counter() - started) / 2 * steps / 60

  def run(self, rate: float, steps: int) -> np.ndarray:
    """Train from the initial weights at `rate` times the learning rate; returns the loss of each step."""
    return self._losses(rate, steps, progress=True)

  def _losses(self, rate: float, steps: int, *, progress: bool = False) -> np.ndarray:
    losses = []
    with jax.set_mesh(self._mesh):
      held = self._first.opt_state[0], np.float32(rate)
      current = jax.device_put(self._first._replace(opt_state=held), self._layout)
      for _ in tqdm(range(steps), desc=f'overfitting, learning rate x {rate:g}', disable=not progress, unit='step'):
        current, out = self._step(current, self._batch, self._key)
        losses.append(float(out['loss']))
    return np.asarray(losses)


def training_fault(
  train: Callable[[float, int], np.ndarray], references: ReferenceLosses, learning_rate: float, steps: int
) -> tuple[Fault | None, str]:
  """Return a fault if training does not overfit, and a line for the report; lower learning rates are tried too.

  `train` is (factor on the learning rate, steps) -> losses, of which the mean over the last quarter counts.
  """

  def reached(rate: float) -> float:
    losses = train(rate, steps)
    return float(np.mean(losses[-max(1, steps // 4) :]))

  loss = reached(1.0)
  required = references.moments - REQUIRED * (references.moments - references.memorized)
  line = (
    f'{CLIPS} clips, {steps} steps: loss {loss:.3g}, required: at most {required:.3g} (estimate by mean and variance: '
    f'{references.moments:.3g}, memorized clips: {references.memorized:.3g})'
  )
  if references.progress(loss) >= REQUIRED:
    return None, line
  for rate in LOWER_RATES:
    if references.progress(lower := reached(rate)) >= REQUIRED:
      return Fault(
        'learning rate too high',
        f'at training.learning_rate={learning_rate:g} the loss on {CLIPS} clips stays at {loss:.3g}, at '
        f'{rate * learning_rate:.2g} it falls to {lower:.3g}: set --config.training.learning_rate='
        f'{rate * learning_rate:.2g}.',
      ), line
  return Fault(
    'cannot overfit',
    f'the network does not overfit {CLIPS} clips in {steps} steps at any learning rate from {learning_rate:g} down to '
    f'{LOWER_RATES[-1] * learning_rate:g}: the learning rate may be too low, or the network too small.',
  ), line


def checkpoint_faults(
  model: Model, config: ConfigDict, run: Run, batch: Batch, references: ReferenceLosses
) -> list[Fault]:
  """Return the faults of a run's EMA weights: missing, unchanged since initialization, or no better than no network."""
  if not checkpoints.steps(run.path):
    return [Fault('untrained checkpoint', f'{run.name} has no checkpoint: train first.')]
  _, ema = run.load(model=model)
  if not run.step:
    return [Fault('untrained checkpoint', f'the latest checkpoint of {run.name} is step 0: train first.')]
  mesh = partitioning.make_mesh(config.mesh)
  first = state.create(
    model, optimizer.build(config.training, model.logical_axes, model.decay_mask), mesh, config.seed
  ).params
  if _distance(ema, first) < 1e-3:
    return [
      Fault(
        'frozen EMA',
        f'the EMA weights of {run.name}, step {run.step:,}, are still the initial weights: lower '
        'training.ema_decay, or set training.ema_warmup.',
      )
    ]
  with jax.set_mesh(mesh):
    loss = loss_of(model, model.network(ema), batch)
  if references.progress(loss) > 0:
    return []
  return [
    Fault(
      'untrained checkpoint',
      f'the loss of {run.name}, step {run.step:,}, on training clips is {loss:.3g}, no better than '
      f'{references.moments:.3g} for an estimate by mean and variance: train longer, or on these clips.',
    )
  ]


def _overfitting_config(config: ConfigDict, steps: int) -> ConfigDict:
  """Return the configuration with its vocabulary, a constant learning rate and no accumulation or first stage."""
  config = config.copy_and_resolve_references()
  configuration.resolve(config, words(config))
  training = config.training
  training.update(
    schedule='constant',
    warmup_steps=min(training.warmup_steps, steps // 10),
    accumulation_steps=1,
    first_stage='',
    accept_mismatch=False,
  )
  training.schedule_options = {}
  return config


def _first_clips(config: ConfigDict, model: Model, mesh: Mesh) -> Batch:
  """Return the first clips as in training, repeated to a multiple of the parts of a batch on the mesh."""
  section = config.data.copy_and_resolve_references()
  section.batch_size = CLIPS
  batch = next(data.build(section, model.encode, seed=config.seed))
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  chosen = np.arange(-(-CLIPS // ways) * ways) % CLIPS
  return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], batch)


def _as_network(model: Model, estimate: Callable[[Array, Array, Array], Array]) -> Network:
  """Return the network whose denoiser is `(z, alpha, sigma) -> x_hat`."""

  def network(x: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
    def column(value: Any) -> Array:
      return jnp.reshape(jnp.broadcast_to(value, logsnr.shape), (-1, 1, 1, 1, 1))

    alpha, sigma = model.process.alpha(logsnr), model.process.sigma(logsnr)
    c = model.parameterization(alpha, sigma)
    z = x / column(c.input)
    return (estimate(z, column(alpha), column(sigma)) - column(c.skip) * z) / column(c.out), carry

  return network


def _scaled(rule: Optimizer) -> Optimizer:
  """Return the optimizer with a factor on its learning rate in the state, so that one program serves all factors."""

  def update(gradients: Params, held: Any, params: Params, step: Array) -> tuple[Params, Any]:
    inner, factor = held
    updates, inner = rule.update(gradients, inner, params, step)
    return jax.tree.map(lambda u: factor * u, updates), (inner, factor)

  return rule._replace(init=lambda params: (rule.init(params), jnp.float32(1.0)), update=update)


def _distance(tree: Params, other: Params) -> float:
  """Return the norm of the difference relative to that of `other`."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(other)]
  apart = sum(np.sum(np.square(np.asarray(a) - b)) for a, b in zip(jax.tree.leaves(tree), leaves, strict=True))
  return float(np.sqrt(apart / sum(np.sum(np.square(leaf)) for leaf in leaves)))
