"""Problems that would keep a configuration from training on this machine, found in seconds and reported together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vdm_jax import checkpoints, configuration, data, generation, models, partitioning, runtime, text
from vdm_jax.data import normalization
from vdm_jax.models import Model
from vdm_jax.runs import Run
from vdm_jax.runtime import progress
from vdm_jax.tools.doctor.captions import remarks
from vdm_jax.training import first_stage, optimizer, run_folder, run_lock, state

# Bytes per parameter in training, all float32: parameter, gradient, two moments, EMA.
TRAINING_BYTES = 20


def problems(
  config: ConfigDict,
  workdir: str | Path | None = None,
  first: Run | None = None,
  *,
  allow_change: bool = False,
  live: bool = False,
) -> list[str]:
  """Return the problems of a configuration with its data, text encoder, machine and workdir; empty if there are none.

  Each entry names the setting, the reason and the fix. No weights are allocated and nothing is compiled. All
  processes of a run must call this; all return the same list.

  Args:
    config: the configuration.
    workdir: the folder that training would create or continue; None: it is not checked.
    first: the run that `training.first_stage` names, if it is open already.
    allow_change: as in `training.train`.
    live: whether another job may be training the run of the workdir.
  """
  with progress.phase('checking configuration, data and machine'):
    found = _problems(config, first or Run(config.training.first_stage), workdir)
    if workdir is not None:
      attempt(found, lambda: check_workdir(config, workdir, allow_change=allow_change, live=live))
  return runtime.merge_problems(found)


def _problems(config: ConfigDict, first: Run, workdir: str | Path | None) -> list[str]:
  try:
    configuration.validate(config)
  except ValueError as error:
    return [str(error)]  # nothing else can be checked
  found: list[str] = []
  attempt(found, lambda: check_batch(config))
  attempt(found, lambda: data.check(config.data, seed=config.seed))
  attempt(found, lambda: normalization.check_sampling(config))
  vocabulary = () if found else attempt(found, lambda: words(config, workdir))
  attempt(found, lambda: found.extend(check_text(config)))
  if not found:
    complete = configuration.resolve(config.copy_and_resolve_references(), vocabulary)
    attempt(found, lambda: check_model(complete))
    if not found and config.training.first_stage and not (workdir and checkpoints.steps(workdir)):
      attempt(found, lambda: first_stage.check(complete, models.build(complete.model), first))
  return found


def attempt(found: list[str], check: Callable[[], object]) -> object:
  """Run a check; append the message of the error that it raises for invalid input to `found`."""
  try:
    return check()
  except (ValueError, OSError, RuntimeError) as error:
    if str(error) not in found:  # two checks may find one problem
      found.append(str(error))
    return None


def words(config: ConfigDict, workdir: str | Path | None = None) -> tuple[str, ...]:
  """Return the vocabulary of the dataset's captions if the configuration leaves it to them; empty otherwise.

  The run of the workdir, if there is one, keeps its vocabulary when its data grow. Raises ValueError if the vocabulary
  is left to the captions, but there are none.
  """
  if config.data.text != 'words' or config.data.vocabulary:
    return ()
  if workdir is not None and (kept := run_folder.vocabulary(workdir)):
    return kept
  if not (found := data.vocabulary(config.data)):
    raise ValueError(
      "data.text='words', but no clip has a caption: add clip.txt beside clip.mp4, make captions with `python -m "
      'vdm_jax.data caption`, or set --config.data.text=none.'
    )
  return found


def check_text(config: ConfigDict) -> list[str]:
  """Return the problems of the text encoder's files, or of the cache of its embeddings."""
  section = config.data
  return text.check(
    section.text,
    section.text_path,
    length=section.text_length,
    dtype=section.text_dtype,
    cache=section.text_cache,
    captions=data.captions(section) if section.text_cache else (),
  )


def check_batch(config: ConfigDict) -> None:
  """Raise ValueError unless the mesh matches the devices, and the batch splits over the mesh."""
  mesh = partitioning.make_mesh(config.mesh)
  partitioning.check_batch(config.data.batch_size, mesh, config.training.accumulation_steps)


def check_model(config: ConfigDict) -> None:
  """Raise ValueError unless network, sampler and optimizer can be built and fit into the devices' memory."""
  model = models.build(config.model)
  check_network(config, model)
  if config.training.accept_mismatch and not config.training.first_stage:
    raise ValueError('training.accept_mismatch has no effect without training.first_stage: leave it out, or set both.')
  factor = config.training.spike_factor
  if factor and not factor > 1:
    raise ValueError(
      f'training.spike_factor={factor} is not a valid multiple of the mean gradient norm: give a number above 1, such '
      'as 10, or 0 for no limit.'
    )
  if config.training.stall_seconds < 0:
    raise ValueError(
      f'training.stall_seconds={config.training.stall_seconds} is not a valid time limit: give the seconds that a step '
      'may take, or 0 for no limit.'
    )
  generation.make_generator(model, config.sampling)
  optimizer.build(config.training, model.logical_axes, model.decay_mask)
  state.ema_decay(config.training)
  check_memory(config, model)


def check_network(config: ConfigDict, model: Model) -> None:
  """Raise ValueError unless the network takes what data and training give it."""
  name = config.model.network
  if model.num_classes != (classes := data.num_classes(config.data)):
    fix = f'set --config.model.num_classes={classes}' if 'num_classes' in config.model else 'set data.labels=False'
    raise ValueError(
      f'model.num_classes={model.num_classes}, but data.labels={config.data.labels} yields labels of {classes} '
      f'classes: {fix}.'
    )
  carries, rate = model.module.self_conditioning, config.training.self_condition_rate
  if carries != bool(rate):
    setting = f'model.self_conditioning={carries}'
    if 'self_conditioning' not in config.model:
      setting = f'model.network={name!r} {"always" if carries else "never"} carries latents'
    raise ValueError(
      f'training.self_condition_rate={rate}, but {setting}: a network that carries latents from one evaluation to the '
      'next must be trained with self-conditioning, and only such a network can be. Snap uses a rate of 0.9.'
    )
  if config.data.num_images and not model.module.takes_images:
    raise ValueError(
      f'data.num_images={config.data.num_images}, but model.network={name!r} takes no appended images: set it to 0, '
      'and data.image_rate to train on images as videos.'
    )


def check_memory(config: ConfigDict, model: Model) -> None:
  """Raise ValueError if parameters, gradients, optimizer state and EMA alone exceed a device's memory."""
  needed = parameters(model) * TRAINING_BYTES
  mesh = partitioning.make_mesh(config.mesh)
  parts = mesh.shape['fsdp'] * mesh.shape['tensor']
  available = device_bytes()
  if available and needed / parts > available:
    raise ValueError(
      f'training {parameters(model):,} parameters takes {needed / parts / 1e9:.1f} GB per device (float32 weights, '
      f'gradients, two moments and EMA over mesh.fsdp x mesh.tensor = {parts}), but this machine has '
      f'{available / 1e9:.1f} GB per device: use more devices with --config.mesh.fsdp, or a smaller network. '
      '--mode=compile --topology=v4:2x2x1 reports the memory on other machines.'
    )


def unknown_words(config: ConfigDict) -> tuple[str, ...]:
  """Return the words of the dataset's captions that `data.vocabulary` lacks, sorted: they are read as unknown."""
  if config.data.text != 'words':
    return ()
  return tuple(sorted(set(data.vocabulary(config.data)) - set(config.data.vocabulary)))


def check_workdir(config: ConfigDict, workdir: str | Path, *, allow_change: bool = False, live: bool = False) -> None:
  """Raise if training would refuse the workdir: OSError, ValueError or InUse. Nothing is written.

  Args:
    config, workdir, allow_change, live: as in `problems`.
  """
  path = run_folder.check_writable(workdir)
  complete = configuration.resolve(config.copy_and_resolve_references(), run_folder.vocabulary(path))
  run_folder.check_same_run(path, complete, allow_change=allow_change)
  if jax.process_index() == 0 and not live:  # which alone holds the lock
    run_lock.check(path)


def parameters(model: Model) -> int:
  """Return the number of parameters, by abstract evaluation."""
  return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def device_bytes() -> int | None:
  """Return the memory of the first device, for a CPU its share of the machine's; None if unknown."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // jax.local_device_count()
  except (ValueError, OSError, AttributeError):
    return None


def report(config: ConfigDict, workdir: str | None = None, *, allow_change: bool = False, live: bool = False) -> str:
  """Return the machine in two lines, then the problems, or a summary of the model and of the run to continue.

  Args:
    config, workdir, allow_change, live: as in `problems`.
  """
  devices = jax.devices()
  memory = device_bytes()
  lines = [
    f'devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), processes: {jax.process_count()}',
    f'memory per device: {memory / 1e9:.1f} GB' if memory else 'memory per device: unknown',
  ]
  found = problems(config, workdir, allow_change=allow_change, live=live)
  if not found and workdir is not None and checkpoints.steps(workdir):
    attempt(found, lambda: lines.append(f'run: {workdir}, resumes at step {checkpoints.newest_good_step(workdir)}'))
  if found:
    return '\n'.join([*lines, *(f'problem: {problem}' for problem in found)])
  model = models.build(configuration.resolve(config.copy_and_resolve_references(), words(config, workdir)).model)
  shape = 'x'.join(str(size) for size in model.video_shape)
  return '\n'.join(
    [
      *lines,
      f'model: {config.model.network}, {parameters(model):,} parameters, videos of {shape}',
      *(f'warning: {remark}' for remark in remarks(config, model.encode, data.overview(config.data))),
      'no problem found',
    ]
  )
