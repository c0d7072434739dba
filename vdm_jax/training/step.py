"""One training step and the held-out loss, as pure functions to jit.

Every random draw is a function of seed, step and example, so neither resuming nor another mesh nor other micro-batches
change the numbers. Dropout masks alone are a function of seed, step and micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vdm_jax import partitioning
from vdm_jax.diffusion import (
  CLEAN_LOGSNR,
  GaussianProcess,
  augment,
  cosine_logsnr,
  denoising_loss,
  downsample,
  frame_levels,
  input_scaled,
)
from vdm_jax.models import LOGSNR, Model, sigma_in
from vdm_jax.rng import ExampleStream, fold_in
from vdm_jax.training import metrics, spikes
from vdm_jax.training.optimizer import Optimizer
from vdm_jax.training.state import TrainState, ema_decay, shardings, update_ema
from vdm_jax.types import Array, Batch, Conditioning, Params

TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Any]]]

# Maximum consecutive non-finite steps: after as many the state stays unchanged, and the run ends.
MAX_SKIPPED = 10
# Draws of training noise levels per held-out example, from which evenly spaced quantiles are taken.
_DRAWS_PER_LEVEL = 16


def make_train_step(model: Model, optimizer: Optimizer, training: Any, mesh: Mesh) -> TrainStep:
  """Return the training step `(state, batch, key) -> (state, measured)`; jit it inside `jax.set_mesh(mesh)`.

  The batch is split into `accumulation_steps` micro-batches whose gradients are averaged. A step whose loss, gradient,
  update or average is not finite is skipped: it changes only the counters of steps and of skipped steps. After
  MAX_SKIPPED consecutive skipped steps, all are. A gradient spike (`spikes.accepted_and_norm_ema`) is skipped, too, but
  enters the average of gradient norms.

  Args:
    model: has `network`, `process`, `parameterization`, `sample_logsnr` and `config`.
    optimizer: from `optimizer.build`; any gradient transformation.
    training: the configuration's section.
    mesh: the devices over which the batch is split.

  Returns:
    A function of state, batch and the key of the run's seed, the same at every step. `measured` has `loss`,
    `gradient_norm`, `per_example` [b], `logsnr` [b] (or [b f] with `per_frame` [b f]), `skipped_in_a_row`, and `sums`
    since the last logged row.

  >>> from vdm_jax.training.example import tiny_step
  >>> model, rule, training, mesh, layout, batch = tiny_step()
  >>> with jax.set_mesh(mesh):
  ...   step = make_train_step(model, rule, training, mesh)
  ...   after, measured = jax.eval_shape(step, layout, batch, jax.random.key(0))
  >>> measured['per_example'].shape
  (2,)
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
    # A run that ends keeps the state before its last step, whatever was dispatched afterwards.
    finite &= state.skipped_in_a_row < MAX_SKIPPED
    accepted, norm_ema = spikes.accepted_and_norm_ema(
      norms['gradient_norm'], state.grad_norm_ema, state.updates, training.spike_factor
    )
    applied, norm_ema = finite & accepted, jnp.where(finite, norm_ema, state.grad_norm_ema)
    new, old = (params, opt_state, ema), (state.params, state.opt_state, state.ema)
    params, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)

    window_starts = state.step % training.log_every == 0
    sums = jax.tree.map(lambda total: jnp.where(window_starts, 0.0, total), state.sums)
    last = {'parameter_norm': optax.tree.norm(params), 'learning_rate': optimizer.learning_rate(state.step)}
    sums = metrics.add(sums, applied=applied, spike=finite & ~applied, loss=loss, **norms, **last, **aux)
    updates = state.updates + applied.astype(jnp.int32)
    skipped = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    measured = {'loss': loss, 'gradient_norm': norms['gradient_norm'], **aux}
    new_state = TrainState(state.step + 1, updates, skipped, norm_ema, params, opt_state, ema, sums)
    return new_state, measured | {'sums': sums, 'skipped_in_a_row': skipped}

  return train_step


def jit_train_step(model: Model, optimizer: Optimizer, training: Any, mesh: Mesh, layout: TrainState) -> TrainStep:
  """Return the jitted training step, as runs compile it: the old state is donated, the new one has the same shardings.

  Args:
    model, optimizer, training, mesh: as in `make_train_step`.
    layout: from `state.abstract`.

  >>> from vdm_jax.training import state
  >>> from vdm_jax.training.example import tiny_step
  >>> model, rule, training, mesh, layout, batch = tiny_step()
  >>> with jax.set_mesh(mesh):
  ...   step = jit_train_step(model, rule, training, mesh, layout)
  ...   after, measured = step(state.create(model, rule, mesh, 0), batch, jax.random.key(0))
  >>> int(after.step), int(after.updates), bool(measured['loss'] > 0)
  (1, 1, True)
  """
  return jax.jit(
    make_train_step(model, optimizer, training, mesh),
    donate_argnums=0,
    out_shardings=(shardings(layout), partitioning.replicated(mesh)),
  )


def make_heldout_loss(
  model: Model, training: Any, batches: Sequence[Batch], mesh: Mesh
) -> Callable[[Params], dict[str, float]]:
  """Return the held-out loss: parameters -> `heldout/loss` and `heldout/loss_logsnr_LOW_HIGH`.

  Clips, noise and noise levels are fixed, the latter evenly spaced quantiles of the training distribution, so the loss
  is a function of the parameters alone. Conditions are not dropped, and all frames of a clip have its level.

  Args:
    model: as in `make_train_step`.
    training: the configuration's section.
    batches: numpy, this process's part of each, as in training.
    mesh: the devices over which batches are split.

  >>> from vdm_jax.training.example import tiny_step
  >>> model, _, training, mesh, _, batch = tiny_step()
  >>> loss = make_heldout_loss(model, training, [jax.device_get(batch)], mesh)
  >>> loss(jax.jit(model.init)(jax.random.key(0)))['heldout/loss'] > 0
  True
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
      # One at a time: collectives of several programs in flight can deadlock on CPU.
      parts = [jax.device_get(compiled(params, b, levels[i], jnp.int32(i))) for i, b in enumerate(batches)]
    sums = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    row = {'heldout/loss': float(sums['loss']) / (size * len(batches))}
    return row | metrics.named_bands('heldout', sums['band_loss'], sums['band_count'])

  return heldout_loss


def drop_conditions(cond: Conditioning, rng: Array, rate: float) -> Conditioning:
  """Return conditions with text and label dropped with probability `rate`, per example and segment.

  Those that are marked as dropped stay so.

  >>> cond = Conditioning(label=jnp.zeros((2, 1), jnp.int32))
  >>> drop_conditions(cond, jax.random.key(0), 1.0).drop.tolist()
  [[True], [True]]
  """
  present = [leaf for leaf in (cond.text, cond.label) if leaf is not None]
  if not rate or not present:
    return cond
  drop = jax.random.bernoulli(rng, rate, present[0].shape[:2])
  return cond._replace(drop=drop if cond.drop is None else drop | cond.drop)


def make_gradient(model: Model, training: Any, mesh: Mesh) -> Callable[..., tuple[Array, dict[str, Array], Params]]:
  """Return the function `(params, batch, rng) -> (loss, {'per_example', 'logsnr'}, gradients)` of a global batch.

  Args:
    model, training, mesh: as in `make_train_step`.

  >>> from vdm_jax.training.example import tiny_step
  >>> model, _, training, mesh, _, batch = tiny_step()
  >>> params = jax.eval_shape(model.init, jax.random.key(0))
  >>> with jax.set_mesh(mesh):
  ...   gradient = make_gradient(model, training, mesh)
  ...   loss, aux, gradients = jax.eval_shape(gradient, params, batch, jax.random.key(1))
  >>> aux['per_example'].shape, jax.tree.structure(gradients) == jax.tree.structure(params)
  ((2,), True)
  """
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
    # Drawn for the whole batch: a stratified sampler spreads its levels over all examples.
    levels = _levels(model, rng_logsnr, size, batch.x.shape[1] - batch.cond.num_images(), batch.cond.num_images())
    inputs = batch, levels, jax.random.split(rng_noise, size)
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
    aux = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size, *x.shape[2:]), aux)  # in the order of the examples
    return jnp.mean(losses), aux, jax.tree.map(lambda g: g / parts, total)

  return gradient


def _interleave(inputs: Any, parts: int) -> Any:
  """Split `[b ...]` into `[parts b/parts ...]`: micro-batch i has the examples i, i + parts, ...

  So each device keeps its examples; consecutive ones would have to move.
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
  """Return the mean loss of examples at given noise levels, `[b]` or `[b f]`, with one key each."""
  cond = (
    batch.cond
    if model.upsampling == 1
    else with_low_resolution(batch, model.upsampling, keys, model.config['downsampling'])
  )
  weight = _weight(model, logsnr)
  if batch.mask is not None:
    inside = weight
    weight = (lambda logsnr: inside(logsnr) * batch.mask) if callable(inside) else inside * batch.mask
  return denoising_loss(
    model.network(params, dropout_rng=dropout_rng),
    batch.x,
    cond,
    keys,
    process=_process(model, batch.x.shape[1], batch.cond.num_images()),
    parameterization=model.parameterization,
    logsnr=logsnr,
    self_condition_rate=training.self_condition_rate,
    weight=weight,
  )


def with_low_resolution(batch: Batch, factor: int, keys: Array, method: str = 'area') -> Conditioning:
  """Return the conditions of a second stage: the batch's own videos at low resolution, with noise.

  The noise level is drawn for each example, with uniform time on the cosine schedule.

  Args:
    batch: clips at full resolution.
    factor: pixels per side made of each low-resolution pixel.
    keys: [b], those of `denoising_loss`.
    method: as in `downsample`.
  """
  time = jax.vmap(jax.random.uniform)(fold_in(keys, ExampleStream.AUGMENTATION_LEVEL))
  logsnr = cosine_logsnr(time)
  low = downsample(batch.x, factor, method)
  low = augment(low, factor, logsnr, fold_in(keys, ExampleStream.AUGMENTATION_NOISE))
  return batch.cond._replace(low_resolution=low, augmentation_logsnr=logsnr)


def _pattern(model: Model) -> str:
  return model.config.get('frame_logsnr', 'shared')


def _levels(model: Model, rng: Array, size: int, num_video: int, num_images: int) -> Array:
  """Return the noise levels of a batch, `[b]` or `[b f]`; those of images are at their own `sigma_in`."""
  own, images = model.config.get('image_sigma_in', 0.0), None
  if own:
    images = LOGSNR[model.config['logsnr']](model.config | {'sigma_in': own})
  draw = (model.sample_logsnr, rng, size, num_video, num_images)
  return frame_levels(_pattern(model), *draw, sample_image_logsnr=images)


def _process(model: Model, num_frames: int, num_images: int) -> GaussianProcess:
  """Return the process of an example's frames, in which images have their own `sigma_in`."""
  own = model.config.get('image_sigma_in', 0.0)
  return input_scaled(sigma_in(model.config, num_frames, num_images)) if own and num_images else model.process


def _weight(model: Model, logsnr: Array) -> float | Array | Callable[[Array], Array]:
  """Return the loss's weight: 1, or a mask `[height 1 1]` that excludes padded rows.

  With given frames it is a function, which is zero for these: all frames count in the mean, so that micro-batches in
  which more are given do not weigh the others more.
  """
  height, pad_rows = model.config['height'], model.config['pad_rows']
  rows = jnp.arange(height)
  inside = ((rows >= pad_rows) & (rows < height - pad_rows)).astype(jnp.float32)[:, None, None] if pad_rows else 1.0
  if _pattern(model) != 'given' or logsnr.ndim == 1:
    return inside
  return lambda logsnr: (logsnr < CLEAN_LOGSNR)[..., None, None, None] * (inside / jnp.mean(inside))


def _quantiles(model: Model, rng: Array, count: int) -> Array:
  """Return `count` evenly spaced quantiles of the training noise levels, increasing."""
  draws = jnp.sort(model.sample_logsnr(rng, count * _DRAWS_PER_LEVEL))
  return draws[_DRAWS_PER_LEVEL // 2 :: _DRAWS_PER_LEVEL]
