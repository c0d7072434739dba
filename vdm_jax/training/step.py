"""One training step and the held-out loss, as pure functions to jit.

Every draw is a function of (seed, step, example), so resuming, another mesh or other micro-batches change
nothing; but for dropout, whose masks belong to (seed, step, micro-batch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.diffusion import augment, cosine_logsnr, denoising_loss, downsample
from vdm_jax.models import Model
from vdm_jax.rng import ExampleStream, fold_in
from vdm_jax.training import metrics, spikes
from vdm_jax.training.optimizer import Optimizer
from vdm_jax.training.state import TrainState, ema_decay, shardings, update_ema
from vdm_jax.types import Array, Batch, Conditioning, Params

TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Any]]]

# So many steps in a row without a finite loss, gradient and update end a run; the state then changes no more.
MAX_SKIPPED = 10
# Draws of training noise levels per held-out example, from which evenly spaced quantiles are taken.
_DRAWS_PER_LEVEL = 16


def make_train_step(model: Model, optimizer: Optimizer, training: Any, mesh: Mesh) -> TrainStep:
  """`(state, batch, key) -> (state, {'loss', 'gradient_norm', 'per_example' [b], 'logsnr' [b], 'sums',
  'skipped_in_a_row'})`; key is that of the run's seed, the same at every step.

  The batch is cut into `accumulation_steps` micro-batches whose gradients are averaged. A step whose loss,
  gradient, update or average is not finite changes nothing but the step counter and the counts of skipped steps;
  nor does any step after MAX_SKIPPED of them in a row. A spike (`spikes.judge`, by `spike_factor`) changes the usual
  gradient norm besides. `sums` starts anew after every `log_every` steps.

  Args:
    model: has `network`, `process`, `parameterization`, `sample_logsnr` and `config`.
    training: the configuration's section.
    mesh: what the batch is split over; trace inside `jax.set_mesh(mesh)`.
  """
  decay = ema_decay(training)
  gradient = make_gradient(model, training, mesh)

  def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Any]]:
    loss, aux, gradients = gradient(state.params, batch, jax.random.fold_in(key, state.step))
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, state.step)
    norms = {'gradient_norm': optax.tree.norm(gradients), 'update_norm': optax.tree.norm(updates)}
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.updates, decay=decay, warmup=training.ema_warmup)
    finite = jnp.isfinite(jnp.stack([loss, *norms.values(), optax.tree.norm(ema)])).all()
    # A run that is to end keeps the state that its last step was taken from, whatever was dispatched after it.
    finite &= state.skipped_in_a_row < MAX_SKIPPED
    judged = spikes.judge(norms['gradient_norm'], state.grad_norm_ema, state.updates, training.spike_factor)
    applied, usual = finite & judged[0], jnp.where(finite, judged[1], state.grad_norm_ema)
    new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
    params, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)

    window_starts = state.step % training.log_every == 0
    sums = jax.tree.map(lambda total: jnp.where(window_starts, 0.0, total), state.sums)
    last = {'parameter_norm': optax.tree.norm(params), 'learning_rate': optimizer.learning_rate(state.step)}
    sums = metrics.add(sums, applied=applied, spike=finite & ~applied, loss=loss, **norms, **last, **aux)
    updates = state.updates + applied.astype(jnp.int32)
    skipped = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    measured = {'loss': loss, 'gradient_norm': norms['gradient_norm'], **aux}
    new_state = TrainState(state.step + 1, updates, skipped, usual, params, opt_state, ema, sums)
    return new_state, measured | {'sums': sums, 'skipped_in_a_row': skipped}

  return train_step


def jit_train_step(model: Model, optimizer: Optimizer, training: Any, mesh: Mesh, layout: TrainState) -> TrainStep:
  """The training step as runs compile it. The state that it is given is used up; the new one lies as `layout` says.

  `layout` is a `state.abstract`. Call, or trace, it inside `jax.set_mesh(mesh)`.
  """
  return jax.jit(
    make_train_step(model, optimizer, training, mesh),
    donate_argnums=0,
    out_shardings=(shardings(layout), partitioning.replicated(mesh)),
  )


def make_heldout_loss(
  model: Model, training: Any, batches: Sequence[Batch], mesh: Mesh
) -> Callable[[Params], dict[str, float]]:
  """`parameters -> {'heldout/loss', 'heldout/loss_logsnr_...'}` on fixed clips, noise and noise levels.

  The levels are evenly spaced quantiles of the training distribution, so the figure moves with the parameters
  alone. Conditions are not dropped. `batches` are numpy, this process's part, as training's are.
  """
  batches = [partitioning.put_batch(batch, mesh) for batch in batches]
  size = batches[0].x.shape[0]
  rng_levels, rng_order, rng_noise = jax.random.split(jax.random.key(0), 3)
  levels = _quantiles(model, rng_levels, size * len(batches)).reshape(size, len(batches)).T

  def total(params: Params, batch: Batch, level: Array, index: Array) -> dict[str, Array]:
    level = jax.random.permutation(jax.random.fold_in(rng_order, index), level)
    keys = jax.random.split(jax.random.fold_in(rng_noise, index), size)
    _, aux = _loss(model, training, params, batch, level, keys, None)
    loss, count = metrics.bands(**aux)
    return {'loss': jnp.sum(aux['per_example']), 'band_loss': loss, 'band_count': count}

  compiled = jax.jit(total)

  def heldout_loss(params: Params) -> dict[str, float]:
    with jax.set_mesh(mesh):
      # One at a time: collectives of many programs in flight can lock each other out on CPU.
      parts = [jax.device_get(compiled(params, b, levels[i], jnp.int32(i))) for i, b in enumerate(batches)]
    sums = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    row = {'heldout/loss': float(sums['loss']) / (size * len(batches))}
    return row | metrics.named_bands('heldout', sums['band_loss'], sums['band_count'])

  return heldout_loss


def drop_conditions(cond: Conditioning, rng: Array, rate: float) -> Conditioning:
  """Marks text and label as dropped with probability `rate`, per example and segment; marks are kept."""
  present = [leaf for leaf in (cond.text, cond.label) if leaf is not None]
  if not rate or not present:
    return cond
  drop = jax.random.bernoulli(rng, rate, present[0].shape[:2])
  return cond._replace(drop=drop if cond.drop is None else drop | cond.drop)


def make_gradient(model: Model, training: Any, mesh: Mesh) -> Callable[..., tuple[Array, dict[str, Array], Params]]:
  """`(params, batch, rng) -> (loss, {'per_example', 'logsnr'}, gradients)` of a global batch."""
  parts = training.accumulation_steps
  wants_dropout = bool(model.config.get('dropout', 0))
  # XLA for CPU computes the weight gradient of a convolution some 50 times slower inside a loop.
  unroll = parts if mesh.devices.flat[0].platform == 'cpu' else 1
  grad = jax.value_and_grad(
    lambda params, batch, logsnr, keys, dropout: _loss(model, training, params, batch, logsnr, keys, dropout),
    has_aux=True,
  )

  def gradient(params: Params, batch: Batch, rng: Array) -> tuple[Array, dict[str, Array], Params]:
    size = batch.x.shape[0]
    rng_logsnr, rng_noise, rng_drop, rng_dropout = jax.random.split(rng, 4)
    batch = batch._replace(cond=drop_conditions(batch.cond, rng_drop, training.condition_drop_rate))
    # Drawn for the whole batch: a stratified sampler spreads its levels over all of it.
    inputs = batch, model.sample_logsnr(rng_logsnr, size), jax.random.split(rng_noise, size)
    if parts == 1:
      (loss, aux), gradients = grad(params, *inputs, rng_dropout if wants_dropout else None)
      return loss, aux, gradients

    def micro_step(total: Params, micro: Any) -> tuple[Params, tuple[Array, dict[str, Array]]]:
      inputs, index = micro
      dropout = jax.random.fold_in(rng_dropout, index) if wants_dropout else None
      value, gradients = grad(params, *inputs, dropout)
      return jax.tree.map(jnp.add, total, gradients), value

    total = jax.tree.map(jnp.zeros_like, params)
    micro = _interleave(inputs, parts), jnp.arange(parts)
    total, (losses, aux) = jax.lax.scan(micro_step, total, micro, unroll=unroll)
    aux = jax.tree.map(lambda x: x.swapaxes(0, 1).ravel(), aux)  # in the order of the examples again
    return jnp.mean(losses), aux, jax.tree.map(lambda g: g / parts, total)

  return gradient


def _interleave(inputs: Any, parts: int) -> Any:
  """Cuts `[b ...]` into `[parts b/parts ...]`: micro-batch i has the examples i, i + parts, ...

  Each device then keeps the examples it has, where consecutive ones would have to move.
  """

  def cut(x: Array) -> Array:
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    return partitioning.constrain(x, None, 'batch')

  return jax.tree.map(cut, inputs)


def _loss(
  model: Model,
  training: Any,
  params: Params,
  batch: Batch,
  logsnr: Array,
  keys: Array,
  dropout_rng: Array | None,
) -> tuple[Array, dict[str, Array]]:
  """The mean loss of examples at given noise levels, with one key each."""
  cond = batch.cond if model.upsampling == 1 else with_low_resolution(batch, model.upsampling, keys)
  return denoising_loss(
    model.network(params, dropout_rng=dropout_rng),
    batch.x,
    cond,
    keys,
    process=model.process,
    parameterization=model.parameterization,
    logsnr=logsnr,
    self_condition_rate=training.self_condition_rate,
    weight=_inside(model.config['height'], model.config['pad_rows']),
  )


def with_low_resolution(batch: Batch, factor: int, keys: Array) -> Conditioning:
  """The batch's condition with its own video at low resolution, corrupted at a level of its own per example.

  The level's time on the cosine schedule is uniform in [0, 1]. `keys` `[b]` are those that `denoising_loss` is given.
  """
  time = jax.vmap(jax.random.uniform)(fold_in(keys, ExampleStream.AUGMENTATION_LEVEL))
  logsnr = cosine_logsnr(time)
  low = augment(downsample(batch.x, factor), factor, logsnr, fold_in(keys, ExampleStream.AUGMENTATION_NOISE))
  return batch.cond._replace(low_resolution=low, augmentation_logsnr=logsnr)


def _inside(height: int, pad_rows: int) -> float | Array:
  """The loss's weight: 1, or where rows are padding a mask `[height 1 1]` that leaves them out."""
  rows = jnp.arange(height)
  return ((rows >= pad_rows) & (rows < height - pad_rows)).astype(jnp.float32)[:, None, None] if pad_rows else 1.0


def _quantiles(model: Model, rng: Array, count: int) -> Array:
  """`count` evenly spaced quantiles of the model's training noise levels, increasing."""
  draws = jnp.sort(model.sample_logsnr(rng, count * _DRAWS_PER_LEVEL))
  return draws[_DRAWS_PER_LEVEL // 2 :: _DRAWS_PER_LEVEL]
