"""What would keep a configuration from training on this machine, found in seconds and said at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vdm_jax import checkpoints, configuration, data, generation, models, partitioning, runtime, text
from vdm_jax.models import Model
from vdm_jax.training import first_stage, optimizer, run_folder, state

# float32 bytes per parameter while training: itself, its gradient, two moments, its average.
TRAINING_BYTES = 20


def problems(config: ConfigDict, workdir: str | Path | None = None) -> list[str]:
  """Everything wrong with a configuration, its data, text encoder, machine and workdir; empty when all is well.

  Each entry names the setting, the reason and the remedy. No weights are made and nothing is compiled. `workdir` is
  created. Of several processes each looks for itself, and all return the same list.
  """
  return runtime.merge_problems(_problems(config, workdir))


def _problems(config: ConfigDict, workdir: str | Path | None) -> list[str]:
  try:
    configuration.validate(config)
  except ValueError as error:
    return [str(error)]  # nothing else can be judged
  found: list[str] = []
  attempt(found, lambda: check_batch(config))
  attempt(found, lambda: data.check(config.data, seed=config.seed))
  vocabulary = () if found else attempt(found, lambda: words(config))
  attempt(found, lambda: found.extend(check_text(config)))
  if not found:
    complete = configuration.resolve(config.copy_and_resolve_references(), vocabulary)
    attempt(found, lambda: check_model(complete))
    if not found and config.training.first_stage and not (workdir and checkpoints.steps(workdir)):
      attempt(found, lambda: first_stage.check(complete, models.build(complete.model)))
  if workdir is not None:
    attempt(found, lambda: check_workdir(config, workdir))
  return found


def attempt(found: list[str], probe: Callable[[], object]) -> object:
  """Runs a probe; the message of a bad input it raises joins `found`."""
  try:
    return probe()
  except (ValueError, OSError, RuntimeError) as error:
    if str(error) not in found:  # two probes may meet one fault
      found.append(str(error))
    return None


def words(config: ConfigDict) -> tuple[str, ...]:
  """The words of the dataset's captions, where the model is to learn them; else none.

  Raises ValueError where they should be learnt, but there is no caption.
  """
  if config.data.text != 'words' or config.data.vocabulary:
    return ()
  if not (found := data.vocabulary(config.data)):
    raise ValueError(
      "data.text='words', but no clip has a caption: add clip.txt beside clip.mp4, make captions with `python -m "
      'vdm_jax.data caption`, or set --config.data.text=none.'
    )
  return found


def check_text(config: ConfigDict) -> list[str]:
  """What is wrong with the text encoder's files, or with the cache of its embeddings."""
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
  """Raises ValueError unless the mesh fits the devices, and the batch the mesh."""
  mesh = partitioning.make_mesh(config.mesh)
  partitioning.check_batch(config.data.batch_size, mesh, config.training.accumulation_steps)


def check_model(config: ConfigDict) -> None:
  """Raises ValueError unless the network, sampler and optimizer can be built and fit the devices' memory."""
  if config.model.num_classes != (classes := data.num_classes(config.data)):
    raise ValueError(
      f'model.num_classes={config.model.num_classes}, but data.labels={config.data.labels} hands the network labels of '
      f'{classes} classes: set --config.model.num_classes={classes}.'
    )
  model = models.build(config.model)
  carries, rate = config.model.get('self_conditioning', False), config.training.self_condition_rate
  if carries != bool(rate):
    raise ValueError(
      f'training.self_condition_rate={rate}, but model.self_conditioning={carries}: a network that hands on its '
      'latents must see them in training, and only such a one can. Snap uses 0.9; set both or neither.'
    )
  if config.training.accept_mismatch and not config.training.first_stage:
    raise ValueError('training.accept_mismatch has no effect without training.first_stage: leave it out, or name one.')
  if config.data.num_images and config.model.network == 'fit':
    raise ValueError(
      f'data.num_images={config.data.num_images}: FIT takes no appended images, for its groups would mix them with the '
      'video. Set it to 0, and data.image_rate to train on images as videos.'
    )
  factor = config.training.spike_factor
  if factor and not factor > 1:
    raise ValueError(
      f'training.spike_factor={factor}: a gradient norm is a spike from several times the usual one on, such as 10; '
      'give a number above 1, or 0 for no such limit.'
    )
  if config.training.stall_seconds < 0:
    raise ValueError(
      f'training.stall_seconds={config.training.stall_seconds}: give the seconds that a step may take, 0 for no limit.'
    )
  generation.make_generator(model, config.sampling)
  optimizer.build(config.training, model.logical_axes)
  state.ema_decay(config.training)
  needed = parameters(model) * TRAINING_BYTES
  mesh = partitioning.make_mesh(config.mesh)
  parts = mesh.shape['fsdp'] * mesh.shape['tensor']
  available = device_bytes()
  if available and needed / parts > available:
    raise ValueError(
      f'{parameters(model):,} parameters take {needed / parts / 1e9:.1f} GB per device to train (float32 weights, '
      f'gradients, two moments, average; over mesh.fsdp x mesh.tensor = {parts}), but this machine has '
      f'{available / 1e9:.1f} GB per device: use more devices with --config.mesh.fsdp, or a smaller model such as '
      '--config.model.base_channels=32. --mode=compile --topology=v4:2x2x1 says what other machines need.'
    )


def check_workdir(config: ConfigDict, workdir: str | Path) -> None:
  """Raises OSError unless the workdir can be written to, ValueError if another configuration made it."""
  path = run_folder.prepare(workdir)
  complete = configuration.resolve(config.copy_and_resolve_references(), words(config))
  run_folder.check_same_run(path, complete)


def parameters(model: Model) -> int:
  """The number of parameters, by abstract evaluation."""
  return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))


def device_bytes() -> int | None:
  """Memory of the first device, of which a CPU's is its share of the machine's; None where it is not known."""
  device = jax.local_devices()[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // jax.local_device_count()
  except (ValueError, OSError, AttributeError):
    return None


def report(config: ConfigDict) -> str:
  """The machine in two lines, then the problems, or what would be trained."""
  devices = jax.devices()
  memory = device_bytes()
  lines = [
    f'devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), processes: {jax.process_count()}',
    f'memory per device: {memory / 1e9:.1f} GB' if memory else 'memory per device: not known',
  ]
  found = problems(config)
  if found:
    return '\n'.join([*lines, *(f'problem: {problem}' for problem in found)])
  model = models.build(configuration.resolve(config.copy_and_resolve_references(), words(config)).model)
  shape = 'x'.join(str(size) for size in model.video_shape)
  return '\n'.join(
    [
      *lines,
      f'model: {config.model.network}, {parameters(model):,} parameters, videos of {shape}',
      'no problem found',
    ]
  )
