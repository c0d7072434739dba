"""Eight clips learnt by heart: what any sound training can do, and what is named when it cannot."""

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
from vdm_jax.tools.doctor import captions, symptoms
from vdm_jax.tools.doctor.checks import problems, words
from vdm_jax.tools.doctor.symptoms import Fault
from vdm_jax.training import optimizer, state
from vdm_jax.training.optimizer import Optimizer
from vdm_jax.training.step import jit_train_step, with_low_resolution
from vdm_jax.types import Array, Batch, Carry, Conditioning, Network, Params

CLIPS = 8
STEPS = 400
# How much of the way must be gone from the loss of who knows only the clips' mean and spread to that of who knows the
# clips. Training on all clips of the digits, the README's U-Net and FIT have both gone 0.55 of it after 400 steps.
ENOUGH = 0.5
RATES = (0.1, 0.01, 1e-3)  # of the learning rate, tried where it does not go that far
DRAWS = 256  # of noise and its level, for a loss
MAX_MINUTES = 30.0  # of training on a CPU, beyond which it is not begun


class Findings(NamedTuple):
  """Faults by name, and what was measured, in lines to print."""

  faults: list[Fault]
  lines: list[str]

  def __str__(self) -> str:
    named = [f'problem: {fault.name}: {fault.text}' for fault in self.faults]
    return '\n'.join([*self.lines, *(named or ['no problem found'])])


class Scale(NamedTuple):
  """The losses between which an overfitted one lies."""

  blank: float  # of the estimate that knows the clips' mean and standard deviation
  known: float  # of the best estimate there is for these clips, without captions

  def way(self, loss: float) -> float:
    """The share of the way from the first to the second; -inf for what is not finite."""
    return (self.blank - loss) / (self.blank - self.known) if np.isfinite(loss) else -np.inf


def overfit(config: ConfigDict, workdir: str | None = None, *, steps: int = STEPS) -> Findings:
  """Measures the clips of a configuration, then trains its network on eight of them; with a workdir, also its EMA.

  What can be measured is measured first, and nothing is trained where that names a fault, but for captions that do not
  fit: eight clips are learnt with any. Only the batch size, the accumulation and the schedule of the learning rate are
  changed: constant after a short warm-up.

  Raises ValueError for a configuration that `problems` finds wrong, and where several processes run.
  """
  if jax.process_count() > 1:
    raise ValueError(f'--overfit was started by {jax.process_count()} processes: run it on one machine alone.')
  if wrong := problems(config):
    raise ValueError(wrong[0])
  config = _for_eight(config, steps)
  model = models.build(config.model)
  mesh = partitioning.make_mesh(config.mesh)
  batch = _eight(config, model, mesh)
  faults, line = measure(config, batch)
  lines, unfit = [line], []
  if config.data.text != 'none':
    fault, said = captions.examine(config)
    unfit, lines = [fault] if fault else [], [*lines, said]
  scale = None if faults else measure_scale(model, batch)
  if workdir is not None and not faults:
    faults += examine_checkpoint(model, config, workdir, batch, scale)
  if faults:
    return Findings([*faults, *unfit], [*lines, 'not trained: mend what was found first'])
  trainer = Trainer(model, config, mesh, batch)
  if (minutes := trainer.minutes(steps)) > MAX_MINUTES and jax.default_backend() == 'cpu':
    return Findings(
      unfit,
      [
        *lines,
        f'not trained: {steps} steps would take {minutes:.0f} minutes on this CPU. Run it on an accelerator, or '
        'give a smaller model, such as --config.model.base_channels=32.',
      ],
    )
  fault, said = judge(trainer.run, scale, config.training.learning_rate, steps)
  return Findings([*unfit, fault] if fault else unfit, [*lines, said])


def measure(config: ConfigDict, batch: Batch) -> tuple[list[Fault], str]:
  """The faults of clips and settings that need no training, and a line on the clips."""
  videos = np.asarray(batch.x)[:, : config.data.num_frames]
  found = [
    symptoms.wrong_range(videos),
    symptoms.wrong_axes(videos),
    symptoms.wrong_sigma_data(videos, config.model),
    symptoms.frozen_average(config.training, state.ema_decay(config.training)),
  ]
  line = f'clips: {len(videos)}, from {videos.min():.3g} to {videos.max():.3g}, deviation {videos.std():.2g}'
  return [fault for fault in found if fault], line


def measure_scale(model: Model, batch: Batch) -> Scale:
  """The losses of knowing only mean and spread of a batch, and of knowing its clips, at the training's noise levels."""
  x = jnp.asarray(batch.x)
  mean, variance = jnp.mean(x), jnp.var(x)

  def from_moments(z: Array, alpha: Array, sigma: Array) -> Array:
    return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (z - alpha * mean)

  def from_memory(z: Array, alpha: Array, sigma: Array) -> Array:
    """The mean of the clips, each as likely as the noise that would have made z of it."""
    distance = jnp.sum(jnp.square(z[:, None] - alpha[:, None] * x), (2, 3, 4, 5))
    return jnp.einsum('bn,nthwc->bthwc', jax.nn.softmax(-distance / (2 * sigma[:, :1, 0, 0, 0] ** 2)), x)

  return Scale(*(loss_of(model, _as_network(model, estimate), batch) for estimate in (from_moments, from_memory)))


def loss_of(model: Model, network: Network, batch: Batch) -> float:
  """The mean training loss of a network on a batch, over DRAWS draws."""
  repeats = max(1, DRAWS // len(batch.x))

  @jax.jit
  def mean_loss(batch: Batch) -> Array:
    def one(rng: Array) -> Array:
      keys = jax.random.split(rng, len(batch.x))
      cond = batch.cond if model.upsampling == 1 else with_low_resolution(batch, model.upsampling, keys)
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
  """The training step of a configuration on one batch, compiled once for all learning rates."""

  def __init__(self, model: Model, config: ConfigDict, mesh: Mesh, batch: Batch):
    self._mesh, self._batch = mesh, partitioning.put_batch(batch, mesh)
    rule = _scaled(optimizer.build(config.training, model.logical_axes))
    first = state.create(model, rule, mesh, config.seed)
    self._layout = state.shardings(first)
    self._first = jax.device_get(first)
    self._step = jit_train_step(model, rule, config.training, mesh, first)
    self._key = jax.random.key(config.seed)

  def minutes(self, steps: int) -> float:
    """How long so many steps would take, by the second and the third."""
    self._losses(1.0, 1)
    started = time.perf_counter()
    self._losses(1.0, 2)
    return (time.perf_counter() - started) / 2 * steps / 60

  def run(self, rate: float, steps: int) -> np.ndarray:
    """Trains afresh at `rate` times the learning rate; the loss of each step."""
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


def judge(
  train: Callable[[float, int], np.ndarray], scale: Scale, learning_rate: float, steps: int
) -> tuple[Fault | None, str]:
  """Whether `train`, (share of the learning rate, steps) -> losses, learns the clips; if not, whether at lower rates.

  Its loss is the mean of the last quarter of the steps.
  """

  def reached(rate: float) -> float:
    losses = train(rate, steps)
    return float(np.mean(losses[-max(1, steps // 4) :]))

  loss = reached(1.0)
  wanted = scale.blank - ENOUGH * (scale.blank - scale.known)
  said = (
    f'{CLIPS} clips, {steps} steps: loss {loss:.3g}, at most {wanted:.3g} wanted ({scale.blank:.3g} by mean and '
    f'deviation alone, {scale.known:.3g} at best)'
  )
  if scale.way(loss) >= ENOUGH:
    return None, said
  for rate in RATES:
    if scale.way(lower := reached(rate)) >= ENOUGH:
      return Fault(
        'learning rate too high',
        f'at training.learning_rate={learning_rate:g} the loss on {CLIPS} clips stays at {loss:.3g}, at '
        f'{rate * learning_rate:.2g} it falls to {lower:.3g}: set --config.training.learning_rate='
        f'{rate * learning_rate:.2g}.',
      ), said
  return Fault(
    'cannot overfit',
    f'{CLIPS} clips are not learnt in {steps} steps, at no learning rate from {learning_rate:g} down to '
    f'{RATES[-1] * learning_rate:g}: the rate may be too low, or the network too small.',
  ), said


def examine_checkpoint(model: Model, config: ConfigDict, workdir: str, batch: Batch, scale: Scale) -> list[Fault]:
  """What is wrong with the EMA weights of a run: none, the first ones, or no better than none."""
  if not (steps := checkpoints.steps(workdir)):
    return [Fault('untrained checkpoint', f'{workdir} has no checkpoint: train first.')]
  _, ema = checkpoints.load(workdir, model=model)
  if not steps[-1]:
    return [Fault('untrained checkpoint', f'the newest checkpoint of {workdir} is of step 0: train first.')]
  mesh = partitioning.make_mesh(config.mesh)
  first = state.create(model, optimizer.build(config.training, model.logical_axes), mesh, config.seed).params
  if _distance(ema, first) < 1e-3:
    return [
      Fault(
        'frozen EMA',
        f'the average of the weights in {workdir}, step {steps[-1]:,}, is still that of the start: lower '
        'training.ema_decay, or set training.ema_warmup.',
      )
    ]
  with jax.set_mesh(mesh):
    loss = loss_of(model, model.network(ema), batch)
  if scale.way(loss) > 0:
    return []
  return [
    Fault(
      'untrained checkpoint',
      f'the loss of {workdir}, step {steps[-1]:,}, on clips it was trained on is {loss:.3g}, no better than the '
      f'{scale.blank:.3g} of an estimate by mean and deviation alone: train longer, or on these clips.',
    )
  ]


def _for_eight(config: ConfigDict, steps: int) -> ConfigDict:
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
  return config


def _eight(config: ConfigDict, model: Model, mesh: Mesh) -> Batch:
  """The first clips as training sees them, repeated to a multiple of what the mesh splits a batch into."""
  section = config.data.copy_and_resolve_references()
  section.batch_size = CLIPS
  batch = next(data.build(section, model.encode, seed=config.seed))
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  chosen = np.arange(-(-CLIPS // ways) * ways) % CLIPS
  return jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], batch)


def _as_network(model: Model, estimate: Callable[[Array, Array, Array], Array]) -> Network:
  """The network whose denoiser is `(z, alpha, sigma) -> x_hat`."""

  def network(x: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
    def column(value: Any) -> Array:
      return jnp.reshape(jnp.broadcast_to(value, logsnr.shape), (-1, 1, 1, 1, 1))

    alpha, sigma = model.process.alpha(logsnr), model.process.sigma(logsnr)
    c = model.parameterization(alpha, sigma)
    z = x / column(c.input)
    return (estimate(z, column(alpha), column(sigma)) - column(c.skip) * z) / column(c.out), carry

  return network


def _scaled(rule: Optimizer) -> Optimizer:
  """The same rule with a factor on its learning rate, which belongs to the state: one program serves all factors."""

  def update(gradients: Params, held: Any, params: Params, step: Array) -> tuple[Params, Any]:
    inner, factor = held
    updates, inner = rule.update(gradients, inner, params, step)
    return jax.tree.map(lambda u: factor * u, updates), (inner, factor)

  return rule._replace(init=lambda params: (rule.init(params), jnp.float32(1.0)), update=update)


def _distance(tree: Params, other: Params) -> float:
  """The norm of the difference over that of `other`."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(other)]
  apart = sum(np.sum(np.square(np.asarray(a) - b)) for a, b in zip(jax.tree.leaves(tree), leaves, strict=True))
  return float(np.sqrt(apart / sum(np.sum(np.square(leaf)) for leaf in leaves)))
