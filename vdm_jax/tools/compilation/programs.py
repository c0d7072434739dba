"""The programs to compile, traced from shapes alone: the training step as in training, and one sampling step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from vdm_jax import data, models, partitioning
from vdm_jax.generation.sampler import make_stages
from vdm_jax.models import Model
from vdm_jax.training import jit_train_step, optimizer, state
from vdm_jax.types import Batch, Conditioning


class Program(NamedTuple):
  """A traced program and its arguments, whose leaves carry their shardings."""

  traced: Any  # jax.stages.Traced
  arguments: tuple[Any, ...]


def build_model(config: ConfigDict) -> Model:
  """Return the configuration's model, without reading files of a frozen text encoder.

  Clips are only read for the vocabulary of `data.text='words'`.
  """
  section = config.model.to_dict()
  if section['text'] == 'words' and not section['vocabulary']:
    section['vocabulary'] = data.vocabulary(config.data)
  frozen = section['text'] not in ('none', 'words')
  return models.build(section, encode=(lambda captions: None) if frozen else None)


def train_step(model: Model, config: ConfigDict, mesh: Mesh) -> Program:
  """Return the training step of `training.train`, state donated; raises ValueError if the batch does not split."""
  training = config.training
  partitioning.check_batch(config.data.batch_size, mesh, training.accumulation_steps)
  rule = optimizer.build(training, model.logical_axes, model.decay_mask)
  layout = state.abstract(model, rule, mesh)
  arguments = (layout, _batch(model, config.data, mesh), _keys((), partitioning.replicated(mesh)))
  step = jit_train_step(model, rule, training, mesh, layout)
  with jax.set_mesh(mesh):
    return Program(step.trace(*arguments), arguments)


def sampling_step(model: Model, config: ConfigDict, mesh: Mesh) -> Program:
  """Return one step of the configuration's sampler with its guidance, for one video per part of the batch.

  Parameters are sharded as in training, and videos as a batch.
  """
  count = mesh.shape['data'] * mesh.shape['fsdp']
  stages = make_stages(model, config.sampling)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  layout = partitioning.param_shardings(mesh, shapes, model.logical_axes)
  params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)
  sharding = partitioning.batch_sharding(mesh)
  cond = _conditioning(model, count, 1, sharding, labels=model.num_classes > 0)
  if model.upsampling > 1:
    low = jax.ShapeDtypeStruct((count, *model.video_shape), jnp.float32, sharding=sharding)
    level = jax.ShapeDtypeStruct((count,), jnp.float32, sharding=sharding)
    cond = cond._replace(low_resolution=low, augmentation_logsnr=level)
  inputs = (params, _keys((count,), sharding), cond, None)
  begun = jax.eval_shape(stages.begin, *inputs)
  begun = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), begun)
  arguments = (*inputs, begun)
  step = jax.jit(lambda *given: stages.advance(*given, 0, 1), out_shardings=sharding)
  with jax.set_mesh(mesh):
    return Program(step.trace(*arguments), arguments)


def bytes_per_device(tree: Any) -> int:
  """Return the bytes of arrays on one device, from their shapes and shardings."""
  return sum(_size(x.dtype) * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))


def _batch(model: Model, section: Mapping[str, Any], mesh: Mesh) -> Batch:
  """Return the shapes of a batch of the input pipeline."""
  count, images = section['batch_size'], section['num_images']
  sharding = partitioning.batch_sharding(mesh)
  frames, *size = model.video_shape
  x = jax.ShapeDtypeStruct((count, frames + images, *size), jnp.float32, sharding=sharding)
  return Batch(x, _conditioning(model, count, 1 + images, sharding, labels=section['labels']))


def _conditioning(model: Model, count: int, segments: int, sharding: NamedSharding, *, labels: bool) -> Conditioning:
  def field(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *shape), dtype, sharding=sharding)

  cond = Conditioning(frame_interval=field(jnp.float32), resolution=field(jnp.float32, 2))
  if model.encode is not None:
    _, _, length, *width = model.text_shape(count)
    tokens = field(jnp.float32 if width else jnp.int32, segments, length, *width)
    cond = cond._replace(text=tokens, text_mask=field(jnp.bool_, segments, length))
  if labels:
    cond = cond._replace(label=field(jnp.int32, segments))
  return cond if model.encode is not None or labels else cond._replace(drop=field(jnp.bool_, segments))


def _keys(shape: tuple[int, ...], sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype, sharding=sharding)


def _size(dtype: Any) -> int:
  """Return the bytes of an element; a random key is two words."""
  return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
