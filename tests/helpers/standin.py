"""A tiny model with the interface of `vdm_jax.models.Model`, with data and settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from vdm_jax import diffusion
from vdm_jax.networks import contract
from vdm_jax.types import Batch, Conditioning

SHAPE = (2, 4, 4, 1)
BATCH_SIZE = 8
CLASSES = 4


class Standin(NamedTuple):
  """Two dense layers of all pixels, the log-SNR and a class; the carry is the hidden layer."""

  config: dict[str, Any]
  process: Any = diffusion.variance_preserving()
  parameterization: Any = diffusion.predict_v
  sample_logsnr: Any = diffusion.cosine_sampler()
  hidden: int = 16
  upsampling: int = 1

  def init(self, rng):
    pixels, keys = math.prod(SHAPE), jax.random.split(rng, 4)
    return {
      'enter': {
        'kernel': jax.random.normal(keys[0], (pixels + 1, self.hidden)) / math.sqrt(pixels),
        'bias': jnp.zeros(self.hidden),
      },
      'leave': {
        'kernel': jax.random.normal(keys[1], (self.hidden, pixels)) / math.sqrt(self.hidden),
        'bias': jnp.zeros(pixels),
      },
      'norm': {'scale': jnp.ones(self.hidden)},
      'label_embedding': jax.random.normal(keys[2], (CLASSES, self.hidden)),
    }

  @property
  def logical_axes(self):
    spec = PartitionSpec
    return {
      'enter': {'kernel': spec(None, 'mlp'), 'bias': spec('mlp')},
      'leave': {'kernel': spec('mlp', 'embed'), 'bias': spec('embed')},
      'norm': {'scale': spec('mlp')},
      'label_embedding': spec(None, 'embed'),
    }

  def decay_mask(self, params):
    return contract.default_decay_mask(params)

  def network(self, params, dropout_rng=None):
    def network(x, logsnr, cond, carry):
      flat = x.reshape(x.shape[0], -1)
      h = jnp.concatenate([flat, logsnr[:, None] / 10], axis=1)
      h = h @ params['enter']['kernel'] + params['enter']['bias']
      if cond.label is not None:
        label = params['label_embedding'][cond.label[:, 0]]
        h += label if cond.drop is None else jnp.where(cond.drop[:, :1], 0.0, label)
      if carry is not None:
        h += 0.5 * carry
      h = jnp.tanh(h * params['norm']['scale'])
      if dropout_rng is not None:
        h *= 2.0 * jax.random.bernoulli(dropout_rng, 0.5, h.shape)
      out = h @ params['leave']['kernel'] + params['leave']['bias']
      return out.reshape(x.shape), h

    return network


def make_config(**training) -> ConfigDict:
  """Return all settings that training reads; keywords change those of the section `training`."""
  return ConfigDict(
    {
      'seed': 3,
      'data': {'batch_size': BATCH_SIZE, 'path': '', 'name': 'none'},
      'model': {'network': 'standin', 'dropout': 0.0, 'height': SHAPE[1], 'pad_rows': 0},
      'training': {
        'num_steps': 6,
        'log_every': 4,
        'checkpoint_every': 2,
        'preview_every': 0,
        'heldout_every': 0,
        'keep_checkpoints': 2,
        'stall_seconds': 600.0,
        'tensorboard': False,
        'optimizer': 'adam',
        'optimizer_options': {},
        'learning_rate': 0.01,
        'schedule': 'cosine',
        'schedule_options': {},
        'warmup_steps': 2,
        'beta1': 0.9,
        'beta2': 0.99,
        'weight_decay': 0.01,
        'clip_norm': 1.0,
        'spike_factor': 0.0,
        'ema_decay': 0.9,
        'ema_half_life': 0.0,
        'ema_warmup': True,
        'condition_drop_rate': 0.2,
        'self_condition_rate': 0.0,
        'accumulation_steps': 1,
        **training,
      },
      'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1},
      'sampling': {'num_steps': 4},
    }
  )


def make_model(config: ConfigDict) -> Standin:
  return Standin(config=config.model.to_dict())


def make_batch(step: int, size: int = BATCH_SIZE) -> Batch:
  """Return noisy stripes that depend on the class, a pure function of the step."""
  rng = np.random.default_rng((17, step))
  label = rng.integers(0, CLASSES, (size, 1)).astype(np.int32)
  stripes = np.sin(np.arange(4) * (label[:, :, None] + 1))[:, :, None, :, None]
  x = 0.5 * stripes + 0.1 * rng.standard_normal((size, *SHAPE))
  return Batch(x.astype(np.float32), Conditioning(label=label))


def batches(start: int) -> Iterator[Batch]:
  """Yield the batches of the steps from `start` on, without end."""
  while True:
    yield make_batch(start)
    start += 1
