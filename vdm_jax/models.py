"""From names to parts: the `model` section of a configuration becomes a network and the mathematics around it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vdm_jax import diffusion, text
from vdm_jax.networks import UNet3D
from vdm_jax.types import Array, Carry, Conditioning, Denoiser, Network, Params

NETWORKS = {'unet3d': UNet3D}
PROCESSES = {
  'variance_preserving': lambda config: diffusion.variance_preserving(),
  'input_scaled': lambda config: diffusion.input_scaled(config['sigma_in']),
}
PARAMETERIZATIONS = {
  'eps': lambda config: diffusion.predict_eps,
  'v': lambda config: diffusion.predict_v,
  'x': lambda config: diffusion.predict_x,
  'edm': lambda config: diffusion.edm(config['sigma_data']),
  'snap': lambda config: diffusion.snap(config['sigma_data']),
}
LOGSNR = {
  'cosine': lambda config: diffusion.cosine_sampler(
    logsnr_min=config['logsnr_min'], logsnr_max=config['logsnr_max'], shift=config['logsnr_shift']
  ),
  'lognormal': lambda config: diffusion.lognormal_sampler(
    mean=config['lognormal_mean'], std=config['lognormal_std'], sigma_in=config['sigma_in']
  ),
}


class Model(NamedTuple):
  """A video diffusion model without its parameters: the network and the mathematics around it.

  `video_shape` is (frames, height, width, channels); `config` the plain `model` section it was built from.
  """

  module: nn.Module
  process: diffusion.GaussianProcess
  parameterization: diffusion.Parameterization
  sample_logsnr: diffusion.LogsnrSampler
  encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None
  video_shape: tuple[int, int, int, int]
  config: dict[str, Any]

  def init(self, rng: Array) -> Params:
    """Fresh float32 parameters, a tree of arrays; jit it, or `jax.eval_shape` it for shapes alone."""
    return nn.unbox(self._boxed(rng))

  @property
  def logical_axes(self) -> Params:
    """The parameters' tree, each leaf a PartitionSpec of logical axis names, for `vdm_jax.partitioning`."""
    return nn.get_partition_spec(jax.eval_shape(self._boxed, jax.random.key(0)))

  def network(self, params: Params, dropout_rng: Array | None = None) -> Network:
    """The network with its parameters bound; in training mode if and only if a dropout key is given."""
    train = dropout_rng is not None

    def network(x: Array, logsnr: Array, cond: Conditioning, carry: Carry) -> tuple[Array, Carry]:
      rngs = {'dropout': dropout_rng} if train else None
      return self.module.apply({'params': params}, x, logsnr, cond, carry, train=train, rngs=rngs)

    return network

  def denoiser(self, params: Params) -> Denoiser:
    """`(z, logsnr, cond, carry) -> (x_hat, carry)`, unguided."""
    return diffusion.precondition(self.network(params), self.process, self.parameterization)

  def grid(self, name: str, num_points: int, *, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """A sampling grid of log-SNRs: 'cosine' over the model's own range, or 'karras' between two sigmas (EDM, Snap)."""
    if name == 'cosine':
      return diffusion.cosine_grid(
        num_points, logsnr_min=self.config['logsnr_min'], logsnr_max=self.config['logsnr_max']
      )
    if name == 'karras':
      return diffusion.karras_grid(
        num_points, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, sigma_in=self.config['sigma_in']
      )
    raise ValueError(unknown('sampling.grid', name, ('cosine', 'karras')))

  def condition(self, prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None) -> Conditioning:
    """What to generate, one video per prompt or label; None leaves it to the null condition.

    Warns of words that the model has never seen. Raises ValueError where the model takes no text, or no such label,
    and for prompts that are not a list, or not as many as labels.
    """
    tokens = mask = label = None
    if isinstance(prompts, str):
      raise ValueError(f'prompts={prompts!r} is one string: give a list of prompts, one per video.')
    if prompts is not None and labels is not None and len(prompts) != len(labels):
      raise ValueError(f'{len(prompts)} prompts and {len(labels)} labels were given: give one of each per video.')
    if prompts is not None:
      if self.encode is None:
        raise ValueError(
          "prompts were given to a model without text (data.text='none'): leave them out, or give labels."
        )
      self._warn_of_unseen(prompts)
      tokens, mask = (leaf[:, None] for leaf in self.encode(list(prompts)))
    if labels is not None:
      self._check_labels(labels)
      label = np.asarray(labels, np.int32)[:, None]
    return Conditioning(text=tokens, text_mask=mask, label=label)

  def _boxed(self, rng: Array) -> Params:
    frames, height, width, channels = self.video_shape
    x = jnp.zeros((1, frames, height, width, channels))
    return self.module.init(rng, x, jnp.zeros(1), self._example(), None)['params']

  def _example(self) -> Conditioning:
    """A condition of one example with every field that the network takes, for its shapes."""
    length, width = self.config['text_length'], text.width(self.config['text'])
    ids = jnp.zeros((1, 1, length), jnp.int32) if width is None else jnp.zeros((1, 1, length, width))
    return Conditioning(
      text=None if self.encode is None else ids,
      label=jnp.zeros((1, 1), jnp.int32) if self.config['num_classes'] else None,
    )

  def _warn_of_unseen(self, prompts: Sequence[str]) -> None:
    words = getattr(self.encode, 'unknown_words', None)
    for prompt in prompts if words else ():
      if unseen := words(prompt):
        warnings.warn(
          f'prompt {prompt!r}: the model has never seen {", ".join(map(repr, unseen))}; '
          'it reads each as the unknown word. '
          f'Words it knows: {" ".join(self.encode.vocabulary)}.',
          stacklevel=3,
        )

  def _check_labels(self, labels: Sequence[int]) -> None:
    classes = self.config['num_classes']
    if not classes:
      raise ValueError(
        'labels were given to a model without classes (model.num_classes=0): leave them out, or give prompts.'
      )
    if bad := [label for label in labels if not 0 <= label < classes]:
      raise ValueError(f'label {bad[0]} is not a class of this model: choose 0 to {classes - 1}.')


def build(config: Mapping[str, Any]) -> Model:
  """Builds the model of a configuration's `model` section.

  The network takes its own fields from the section. Raises ValueError for a name that is none of the tables', naming
  the nearest.
  """
  config = dict(config)
  if config['sigma_in'] != 1 and config['process'] != 'input_scaled':
    raise ValueError(
      f"model.sigma_in={config['sigma_in']} has no effect on process={config['process']!r}: "
      "set model.process='input_scaled', or sigma_in=1."
    )
  encode = text.build(
    config['text'], path=config['text_path'], length=config['text_length'], vocabulary=tuple(config['vocabulary'])
  )
  network = _choose('model.network', config['network'], NETWORKS)
  fields = {name: config[name] for name in network_fields(config['network'])}
  return Model(
    module=network(
      **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()},
      takes_text=encode is not None,
      vocabulary_size=getattr(encode, 'vocabulary_size', 0),
    ),
    process=_choose('model.process', config['process'], PROCESSES)(config),
    parameterization=_choose('model.parameterization', config['parameterization'], PARAMETERIZATIONS)(config),
    sample_logsnr=_choose('model.logsnr', config['logsnr'], LOGSNR)(config),
    encode=encode,
    video_shape=tuple(config[name] for name in ('num_frames', 'height', 'width', 'channels')),
    config=config,
  )


@functools.cache
def network_fields(name: str) -> dict[str, Any]:
  """The settings of a network and their defaults (`dataclasses.MISSING` where there is none): the fields of its
  class.
  """
  derived = {'parent', 'name', 'takes_text', 'vocabulary_size'}
  fields = dataclasses.fields(_choose('model.network', name, NETWORKS))
  return {field.name: field.default for field in fields if field.name not in derived}


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
  """The message for a name that is not among the allowed ones, with the nearest that is."""
  allowed = list(allowed)
  near = difflib.get_close_matches(str(name), allowed, n=1)
  hint = f' Did you mean {near[0]!r}?' if near else ''
  return f'{what}={name!r} is unknown: choose one of {", ".join(allowed)}.{hint}'


def _choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
  if name not in table:
    raise ValueError(unknown(what, name, table))
  return table[name]
